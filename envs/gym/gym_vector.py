"""CartPole by the hundred: gymnasium's own vector environment behind the engine's vector interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.vector import AgentView, VectorEnvironment

_CARTPOLE = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"
_REWARD = "sutton_barto_reward"
_NO_LIMIT = np.iinfo(np.int32).max  # gymnasium counts steps in int32


class ResettableCartPole(CartPoleVectorEnv):
    """Gymnasium's vectorised CartPole in ``AutoresetMode.DISABLED``, with a random stream for each row.

    Gymnasium's class knows but NEXT_STEP, which restarts a row in the step after its end. Here a row that is over
    stands still until ``reset(options={"reset_mask": mask})`` restarts it. A row that is seeded like a single
    ``CartPole`` plays the same episodes, up to rounding.
    """

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": AutoresetMode.DISABLED}
    generators: list[np.random.Generator]
    state: Any  # (4, E) float64; None before the first reset

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Restart the rows of ``options["reset_mask"]`` (E,) bool, or all.

        ``seed`` has an integer for each row; a single one is counted up, as gymnasium does elsewhere.
        """
        if seed is not None:
            seed = range(seed, seed + self.num_envs) if isinstance(seed, int) else seed
            self.generators = [seeding.np_random(number)[0] for number in seed]
        mask = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        if self.state is None:
            self.state = np.zeros((4, self.num_envs))
        for i in np.flatnonzero(mask).tolist():
            self.state[:, i] = self.generators[i].uniform(self.low, self.high, size=4)
        self.steps[mask] = 0
        self.prev_done[mask] = False
        return self.state.T.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance the rows that are not over; the others' results mean nothing."""
        over = self.prev_done
        if not over.any():
            return super().step(action)
        standing, steps = self.state[:, over], self.steps[over]
        self.prev_done = np.zeros_like(over)  # or they would restart
        _, reward, terminated, truncated, info = super().step(action)
        self.state[:, over], self.steps[over] = standing, steps
        self.prev_done |= over
        return self.state.T.astype(np.float32), reward, terminated, truncated, info


class GymVector(VectorEnvironment):
    """Gymnasium's CartPole, all rows in one array computation, with one agent.

    Args:
        venv: the vector environment, with time limits of its own.
        agent: the agent's name.
        seeds: E integers, a random stream for each row; every episode of a row goes on in it.
    """

    def __init__(self, venv: ResettableCartPole, agent: AgentID, seeds: Sequence[int]) -> None:
        num_envs, space = venv.num_envs, venv.single_observation_space
        self.num_envs = num_envs
        self.possible_agents = [agent]
        self.observation_spaces: dict[AgentID, spaces.Space] = {agent: space}
        self.action_spaces: dict[AgentID, spaces.Space] = {agent: venv.single_action_space}
        self.finished = np.ones(num_envs, dtype=bool)
        self._venv = venv
        self._view = AgentView(
            acting=np.zeros(num_envs, dtype=bool),
            observation=np.zeros((num_envs, *(space.shape or ())), dtype=space.dtype),
            action_mask=None,
            reward=np.zeros(num_envs, dtype=np.float32),
            terminated=np.zeros(num_envs, dtype=bool),
            truncated=np.zeros(num_envs, dtype=bool),
        )
        self._views = {agent: self._view}
        venv.reset(seed=seeds, options={"reset_mask": self._view.acting})  # seeds every row, begins none

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set."""
        mask = np.array(mask, dtype=bool)  # a copy: it may be ``finished`` itself
        observation, _ = self._venv.reset(options={"reset_mask": mask})
        view = self._view
        view.observation[mask] = observation[mask]
        view.reward[mask] = 0.0
        view.terminated[mask] = view.truncated[mask] = self.finished[mask] = False
        view.acting[mask] = True
        return self._views

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Advance every environment that is not finished by one step; ``actions`` are (E,) int."""
        (agent,) = self.possible_agents
        view, action = self._view, np.asarray(actions[agent])
        playing = ~self.finished
        if not playing.all():
            action = np.where(playing, action, 0)  # it is ignored, but must be an action
        observation, reward, terminated, truncated, _ = self._venv.step(action)
        np.copyto(view.observation, observation, where=playing[:, None])
        np.multiply(reward, playing, out=view.reward)
        np.logical_and(terminated, playing, out=view.terminated)
        np.logical_and(truncated & ~terminated, playing, out=view.truncated)
        self.finished |= view.terminated
        self.finished |= view.truncated
        np.logical_not(self.finished, out=view.acting)
        return self._views

    def close(self) -> None:
        """Close the gymnasium environment."""
        self._venv.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of each row's random generator."""
        return {"generators": [generator.bit_generator.state for generator in self._venv.generators]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave; then all rows wait for a reset."""
        for generator, inner in zip(self._venv.generators, state["generators"], strict=True):
            generator.bit_generator.state = inner
        self.finished[:] = True
        self._view.acting[:] = False


def cartpole_vector(
    spec: EnvSpec,
    agent: AgentID,
    seeds: Sequence[int],
    max_step: int | None,
    scenario_configs: Mapping[str, Any],
) -> GymVector | None:
    """The vector form of ``spec`` where that is a CartPole and ``scenario_configs`` asks for nothing else.

    Episodes are truncated after the lesser of gymnasium's time limit and ``max_step``.
    """
    configs = {**spec.kwargs, **scenario_configs}
    limit = configs.pop("max_episode_steps", None) or spec.max_episode_steps
    if spec.vector_entry_point != _CARTPOLE or spec.additional_wrappers or not configs.keys() <= {_REWARD}:
        return None
    limits = [number for number in (limit, max_step) if number is not None and number != -1]  # -1: gymnasium's none
    venv = ResettableCartPole(len(seeds), max_episode_steps=min(limits, default=_NO_LIMIT), **configs)
    return GymVector(venv, agent, seeds)
