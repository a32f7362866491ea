"""The vector form of VMAS: E worlds in one batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.envs.vmas.making import spaces_of


class VmasVector(VectorEnvironment):
    """E worlds of a scenario that draws random numbers at the beginning of episodes only.

    VMAS has one random generator for all that it draws; for each beginning it is seeded anew, from the row's stream.
    What a row plays then is the same in any batch up to PyTorch's rounding, which a touch may make much of.

    Args:
        world: VMAS's environment of E worlds, with time limits of its own.
        seeds: E integers, a random stream for each row.
    """

    def __init__(self, world: Any, seeds: Sequence[int]) -> None:
        self.num_envs = num_envs = len(seeds)
        self.observation_spaces, self.action_spaces = spaces_of(world)
        self.possible_agents = list(self.action_spaces)
        self.finished = np.ones(num_envs, bool)
        self._world = world
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._acting, self._terminated, self._truncated = np.zeros((3, num_envs), bool)  # the same for all agents
        self._views = {
            agent: AgentView(
                acting=self._acting,
                observation=np.zeros((num_envs, *(space.shape or ())), np.float32),
                action_mask=None,
                reward=np.zeros(num_envs, np.float32),
                terminated=self._terminated,
                truncated=self._truncated,
            )
            for agent, space in self.observation_spaces.items()
        }

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set."""
        mask = np.array(mask, dtype=bool)  # a copy: it may be ``finished`` itself
        for i in np.flatnonzero(mask).tolist():
            self._world.seed(next_seed(self._rngs[i]))
            self._world.reset_at(i, return_observations=False)
        (observations,) = self._world.get_from_scenario(
            get_observations=True, get_rewards=False, get_infos=False, get_dones=False
        )
        for agent, view in self._views.items():
            view.observation[mask] = observations[agent].numpy()[mask]
            view.reward[mask] = 0.0
        self._terminated[mask] = self._truncated[mask] = self.finished[mask] = False
        self._acting[mask] = True
        return self._views

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Advance every world that is not finished; ``actions`` are (E,) int or (E, K) float for each agent.

        Raises:
            ValueError: an agent's actions are missing or have another shape.
        """
        playing = ~self.finished
        forces = {agent: self._force(agent, actions.get(agent), playing) for agent in self.possible_agents}
        observations, rewards, terminated, truncated, _ = self._world.step(forces)
        for agent, view in self._views.items():
            np.copyto(view.observation, observations[agent].numpy(), where=playing.reshape(_column(view.observation)))
            view.reward.fill(0.0)
            np.copyto(view.reward, rewards[agent].numpy().reshape(-1), where=playing)
        np.logical_and(terminated.numpy(), playing, out=self._terminated)
        np.logical_and(truncated.numpy() & ~terminated.numpy(), playing, out=self._truncated)
        self.finished |= self._terminated | self._truncated
        np.logical_not(self.finished, out=self._acting)
        return self._views

    def state_dict(self) -> dict[str, Any]:
        """The state of each row's random generator."""
        return {"rngs": [rng.bit_generator.state for rng in self._rngs]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave; then all rows wait for a reset."""
        for rng, inner in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = inner
        self.finished[:] = True
        self._acting[:] = False

    def _force(self, agent: AgentID, column: np.ndarray | None, playing: np.ndarray) -> torch.Tensor:
        """An agent's actions as VMAS takes them, (E, K); worlds that are not playing get zeros."""
        space = self.action_spaces[agent]
        shape = (self.num_envs, *(space.shape or ()))
        if column is None or np.shape(column) != shape:
            given = "none" if column is None else str(np.shape(column))
            raise ValueError(f"the actions of {agent!r} must have shape {shape}, not {given}")
        dtype = np.float32 if isinstance(space, spaces.Box) else np.int64
        force = np.array(column, dtype).reshape(self.num_envs, -1)
        force[~playing] = 0  # they are ignored, but must be actions
        return torch.from_numpy(force)


def next_seed(rng: np.random.Generator) -> int:
    """The seed of the next thing to be drawn in a row."""
    return int(rng.integers(2**31))


def _column(observation: np.ndarray) -> tuple[int, ...]:
    """The shape in which (E,) goes with ``observation`` (E, *obs)."""
    return (-1,) + (1,) * (observation.ndim - 1)
