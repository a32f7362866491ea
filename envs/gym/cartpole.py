"""CartPole by the hundred: every row in one array computation, nothing allocated on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.vector import AgentView, VectorEnvironment

_CARTPOLE = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
_REWARD = "sutton_barto_reward"
_START_LOW, _START_HIGH = -0.05, 0.05  # of all four parts of the first state
_NO_LIMIT = np.iinfo(np.int64).max
_AHEAD = 32  # first states that a row draws at once


class CartPoleVector(VectorEnvironment):
    """E cart poles with gymnasium's dynamics, computed in place.

    A row that is seeded like a single ``CartPole`` plays the same episodes, up to rounding. Gymnasium's own vector
    form draws the chance of all rows from one stream and knows but ``AutoresetMode.NEXT_STEP``.

    Args:
        agent: the agent's name.
        seeds: E integers, a random stream for each row; every episode of a row goes on in it.
        limit: episodes are truncated after so many steps; None: never.
        sutton_barto_reward: 0 for every step and -1 for the last one, instead of 1 for every step.
    """

    def __init__(self, agent: AgentID, seeds: Sequence[int], limit: int | None, sutton_barto_reward: bool) -> None:
        num_envs, model = len(seeds), CartPoleEnv()  # the source of all constants
        self.num_envs = num_envs
        self.possible_agents = [agent]
        self.observation_spaces: dict[AgentID, spaces.Space] = {agent: model.observation_space}
        self.action_spaces: dict[AgentID, spaces.Space] = {agent: model.action_space}
        self.finished = np.ones(num_envs, bool)
        self._agent = agent
        self._limit = _NO_LIMIT if limit is None else limit
        self._sutton_barto_reward = sutton_barto_reward
        self._view = AgentView(
            acting=np.zeros(num_envs, bool),
            observation=np.zeros((num_envs, 4), np.float32),
            action_mask=None,
            reward=np.zeros(num_envs, np.float32),
            terminated=np.zeros(num_envs, bool),
            truncated=np.zeros(num_envs, bool),
        )
        self._views = {agent: self._view}
        self._steps = np.zeros(num_envs, np.int64)

        # The dynamics, divided by masses and lengths beforehand. Pushes: force / mass by action.
        self._pushes = np.array([-model.force_mag, model.force_mag]) / model.total_mass
        self._pole = model.polemass_length / model.total_mass
        self._gravity = model.gravity
        self._inertia = 4.0 / 3.0 * model.length
        self._inertia_shift = model.length * model.masspole / model.total_mass
        self._tau = model.tau
        self._bounds = np.array([[model.x_threshold], [model.theta_threshold_radians]])

        # (2, E) each: of the cart's position, of the pole's angle
        self._positions, self._speeds = np.zeros((2, num_envs)), np.zeros((2, num_envs))
        columns = self._view.observation.T
        self._columns = [
            *zip(columns[0::2], self._positions, strict=True),
            *zip(columns[1::2], self._speeds, strict=True),
        ]
        self._accelerations = np.zeros((2, num_envs))
        self._change = np.zeros((2, num_envs))
        self._beyond = np.zeros((2, num_envs), bool)
        self._scratch = np.zeros((4, num_envs))
        self._playing = np.zeros(num_envs, bool)

        self._generators = [seeding.np_random(int(seed))[0] for seed in seeds]
        self._chance = np.zeros((num_envs, _AHEAD, 4))  # in [0, 1), for first states
        self._num_used = np.full(num_envs, _AHEAD)

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set."""
        rows = np.flatnonzero(mask)
        used = self._num_used[rows]
        empty = used == _AHEAD
        if empty.any():
            for i in rows[empty].tolist():
                self._generators[i].random(out=self._chance[i])  # the numbers that as many draws of four would give
            used[empty] = 0
        start = self._chance[rows, used]
        start *= _START_HIGH - _START_LOW
        start += _START_LOW
        self._num_used[rows] = used + 1
        self._positions[:, rows], self._speeds[:, rows] = start.T[0::2], start.T[1::2]
        self._steps[rows] = 0
        view = self._view
        view.observation[rows] = start
        view.reward[rows] = 0.0
        view.terminated[rows] = view.truncated[rows] = self.finished[rows] = False
        view.acting[rows] = True
        return self._views

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Advance every environment that is not finished by one step; ``actions`` are (E,) int."""
        view, playing = self._view, self._playing
        tau: float | np.ndarray = self._tau
        action = np.asarray(actions[self._agent])
        np.logical_not(self.finished, out=playing)
        all_play = playing.all()
        if not all_play:
            action = np.where(playing, action, 0)  # what the others are given is ignored
            tau = playing * tau  # no time passes for them

        # https://coneural.org/florian/papers/05_cart_pole.pdf, as gymnasium has it
        positions, speeds, change = self._positions, self._speeds, self._change
        cos, sin, square, product = self._scratch
        linear, angular = self._accelerations
        temp = self._pushes.take(action)
        np.sin(positions[1], out=sin)
        np.multiply(speeds[1], speeds[1], out=product)
        product *= sin
        product *= self._pole
        temp += product
        np.multiply(sin, sin, out=square)
        np.subtract(1.0, square, out=square)
        np.sqrt(square, out=cos)  # no pole stands or falls beyond a right angle; half the price of a cosine
        np.multiply(cos, temp, out=product)
        sin *= self._gravity
        sin -= product
        square *= -self._inertia_shift
        square += self._inertia
        np.divide(sin, square, out=angular)
        np.multiply(angular, cos, out=product)
        product *= self._pole
        np.subtract(temp, product, out=linear)

        # Euler's method
        np.multiply(speeds, tau, out=change)
        positions += change
        np.multiply(self._accelerations, tau, out=change)
        speeds += change
        for column, values in self._columns:
            column[:] = values

        np.absolute(positions, out=change)
        np.greater(change, self._bounds, out=self._beyond)
        np.logical_or(self._beyond[0], self._beyond[1], out=view.terminated)
        self._steps += playing
        np.greater_equal(self._steps, self._limit, out=view.truncated)
        if not all_play:
            view.terminated &= playing
            view.truncated &= playing
        np.greater(view.truncated, view.terminated, out=view.truncated)  # truncated and not terminated
        self.finished |= view.terminated
        self.finished |= view.truncated
        np.logical_not(self.finished, out=view.acting)
        if self._sutton_barto_reward:
            np.negative(view.terminated, out=view.reward, dtype=np.float32)
        else:
            view.reward[:] = playing
        return self._views

    def state_dict(self) -> dict[str, Any]:
        """The state of each row's random generator: that of the single environment which played the same episodes."""
        states = []
        for generator, used in zip(self._generators, self._num_used.tolist(), strict=True):
            bits: Any = np.random.PCG64()
            bits.state = generator.bit_generator.state
            bits.advance(-4 * (_AHEAD - used))  # give back what was drawn ahead
            states.append(bits.state)
        return {"generators": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave; then all rows wait for a reset."""
        for generator, inner in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = inner
        self._num_used[:] = _AHEAD
        self.finished[:] = True
        self._view.acting[:] = False


def cartpole_vector(
    spec: EnvSpec,
    agent: AgentID,
    seeds: Sequence[int],
    max_step: int | None,
    scenario_configs: Mapping[str, Any],
) -> CartPoleVector | None:
    """The vector form of ``spec`` where that is a CartPole and ``scenario_configs`` asks for nothing else.

    Episodes are truncated after the lesser of gymnasium's time limit and ``max_step``.
    """
    configs = {**spec.kwargs, **scenario_configs}
    limit = configs.pop("max_episode_steps", None) or spec.max_episode_steps
    if spec.entry_point != _CARTPOLE or spec.additional_wrappers or not configs.keys() <= {_REWARD}:
        return None
    limits = [number for number in (limit, max_step) if number is not None and number != -1]  # -1: gymnasium's none
    return CartPoleVector(agent, seeds, min(limits, default=None), bool(configs.get(_REWARD, False)))
