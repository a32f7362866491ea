"""Combinations of choices as single ones, for algorithms that compare actions and for policies that are truly joint."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from math import prod

import numpy as np
from gymnasium import spaces

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import AgentID, Environment, TimeStep
from malib_lite.envs.wrappers import Wrapper
from malib_lite.models.actions import ActionReader

_MOST = 10_000  # choices that an output for each of them is reasonable for


class SingleChoice(Wrapper):
    """The environment inside, where every agent chooses one of all combinations of its parts' choices.

    Two parts of 3 and 2 choices make a Discrete of 6, which counts the last part fastest. A policy of all combinations
    can prefer some of them without preferring their parts, which one that draws part by part cannot. A combination is
    legal where all its parts are.

    Raises:
        ConfigError: an agent's actions are not all discrete, or there are more than 10,000 combinations.
    """

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        self._readers = {agent: ActionReader(space) for agent, space in env.action_spaces.items()}
        self._parts: dict[AgentID, tuple[int, ...]] = {}
        for agent, reader in self._readers.items():
            space = reader.array_space
            if isinstance(space, spaces.Box):
                raise ConfigError(f"agent {agent!r} acts by {env.action_spaces[agent]}: no choices to combine")
            parts = space.nvec if isinstance(space, spaces.MultiDiscrete) else [space.n]
            self._parts[agent] = tuple(int(n) for n in parts)
            if prod(self._parts[agent]) > _MOST:
                raise ConfigError(
                    f"agent {agent!r} has {prod(self._parts[agent]):,} combinations of choices {self._parts[agent]}; "
                    f"up to {_MOST:,} can be single choices"
                )
        self._action_spaces: dict[AgentID, spaces.Space] = {
            agent: spaces.Discrete(prod(parts)) for agent, parts in self._parts.items()
        }

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """A Discrete for every agent."""
        return self._action_spaces

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Begin an episode inside."""
        return self._combine(super().reset_episode(seed))

    def time_step(self, actions: Mapping[AgentID, int]) -> TimeStep:
        """One step inside, with the parts of what was chosen."""
        chosen = {}
        for agent, action in actions.items():
            parts = np.array([np.unravel_index(int(action), self._parts[agent])])
            chosen[agent] = self._readers[agent](parts if parts.shape[1] > 1 else parts[:, 0])[0]
        return self._combine(super().time_step(chosen))

    def _combine(self, step: TimeStep) -> TimeStep:
        masks = {}
        for agent, mask in step.action_masks.items():
            of_parts = np.split(np.asarray(mask, bool), np.cumsum(self._parts[agent])[:-1])
            masks[agent] = reduce(np.logical_and.outer, of_parts).ravel()
        return step._replace(action_masks=masks)
