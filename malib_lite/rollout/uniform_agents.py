"""Agents of one group made alike, so that they can share a policy: padded to one size, and told who they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import utils

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.models.actions import num_choices

Spaces = Mapping[AgentID, spaces.Space]


def uniform_spaces(
    groups: Mapping[str, Sequence[AgentID]], observation_spaces: Spaces, action_spaces: Spaces, agent_ids: bool
) -> tuple[dict[AgentID, spaces.Space], dict[AgentID, spaces.Space]]:
    """The array spaces that policies see, for those of the environment.

    In groups of several agents whose observations differ, or who are to be told who they are, every observation
    becomes a flat Box of float32: Discrete as one-hot, zeros up to the longest, then the agent's number as one-hot.
    Discrete actions that differ become those of the agent that has most; masks forbid the others what they have not.

    Raises:
        ConfigError: actions differ and are not all Discrete.
    """
    seen, done = dict(observation_spaces), dict(action_spaces)
    for runtime_id, agents in groups.items():
        own = [observation_spaces[agent] for agent in agents]
        if len(agents) > 1 and (agent_ids or any(space != own[0] for space in own)):
            length = max(utils.flatdim(space) for space in own) + (len(agents) if agent_ids else 0)
            seen.update(dict.fromkeys(agents, spaces.Box(-np.inf, np.inf, (length,), np.float32)))
        actions = [action_spaces[agent] for agent in agents]
        if any(space != actions[0] for space in actions):
            if not all(isinstance(space, spaces.Discrete) for space in actions):
                kinds = "; ".join(dict.fromkeys(map(str, actions)))
                raise ConfigError(
                    f"agents {', '.join(agents)} of runtime id '{runtime_id}' cannot share a policy: their actions "
                    f"differ and are not all Discrete ({kinds})"
                )
            most = max(num_choices(space) or 0 for space in actions)
            done.update(dict.fromkeys(agents, spaces.Discrete(most)))
    return seen, done


def make_uniform(
    environments: VectorEnvironment, groups: Mapping[str, Sequence[AgentID]], agent_ids: bool
) -> VectorEnvironment:
    """The environments with the spaces that :func:`uniform_spaces` says; themselves, if these are their own."""
    seen, done = uniform_spaces(groups, environments.observation_spaces, environments.action_spaces, agent_ids)
    if seen == dict(environments.observation_spaces) and done == dict(environments.action_spaces):
        return environments
    return UniformAgents(environments, groups, seen, done, agent_ids)


class UniformAgents(VectorEnvironment):
    """Environments whose agents have been made alike within their groups."""

    def __init__(
        self,
        environments: VectorEnvironment,
        groups: Mapping[str, Sequence[AgentID]],
        observation_spaces: dict[AgentID, spaces.Space],
        action_spaces: dict[AgentID, spaces.Space],
        agent_ids: bool,
    ) -> None:
        """
        Args:
            observation_spaces, action_spaces: those of :func:`uniform_spaces`.
        """
        self.num_envs = environments.num_envs
        self.possible_agents = environments.possible_agents
        self.observation_spaces = observation_spaces
        self.action_spaces = action_spaces
        self.finished = environments.finished
        self._inner = environments
        self._changed = {
            agent: _Change(
                environments.observation_spaces[agent], observation_spaces[agent],
                environments.action_spaces[agent], action_spaces[agent],
                self.num_envs, (position, len(agents)) if agent_ids and len(agents) > 1 else None,
            )
            for agents in groups.values()
            for position, agent in enumerate(agents)
            if observation_spaces[agent] != environments.observation_spaces[agent]
            or action_spaces[agent] != environments.action_spaces[agent]
        }  # fmt: skip

    @property
    def state(self) -> np.ndarray | None:  # type: ignore[override]
        """The inner environments' own."""
        return self._inner.state

    @property
    def num_crashes(self) -> int:  # type: ignore[override]
        """The inner environments' own."""
        return self._inner.num_crashes

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set."""
        return self._see(self._inner.reset(mask))

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Advance every environment that is not finished by one step."""
        own = {
            agent: self._changed[agent].actions(column) if agent in self._changed else column
            for agent, column in actions.items()
        }
        return self._see(self._inner.step(own))

    def observation_table(self, agent: AgentID) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The inner environments' own, of agents that were not changed."""
        return None if agent in self._changed else self._inner.observation_table(agent)

    def close(self) -> None:
        """Close the inner environments."""
        self._inner.close()

    def state_dict(self) -> dict[str, Any]:
        """The inner environments' own."""
        return self._inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
        self._inner.load_state_dict(state)

    def _see(self, views: Mapping[AgentID, AgentView]) -> dict[AgentID, AgentView]:
        return {
            agent: self._changed[agent].view(view) if agent in self._changed else view for agent, view in views.items()
        }


class _Change:
    """How one agent's view and actions are changed."""

    def __init__(
        self, seen: spaces.Space, seen_as: spaces.Space, done: spaces.Space, done_as: spaces.Space,
        num_envs: int, number: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        self._observation = None
        if seen != seen_as:
            assert seen_as.shape is not None
            self._observation = np.zeros((num_envs, *seen_as.shape), np.float32)
            self._one_hot = isinstance(seen, spaces.Discrete)
            self._length = utils.flatdim(seen)
            if number is not None:
                position, of = number
                self._observation[:, -of + position] = 1.0
        choices, most = num_choices(done), num_choices(done_as)
        self._mask = None
        if choices != most and choices is not None and most is not None:
            self._mask = np.zeros((num_envs, most), bool)
            self._mask[:, :choices] = True
            self._choices = choices

    def actions(self, column: np.ndarray) -> np.ndarray:
        """What the agent does (E, ...), of what the others could do; rows where it is not to act stay possible."""
        return column if self._mask is None else np.minimum(column, self._choices - 1)

    def view(self, view: AgentView) -> AgentView:
        observation, mask = view.observation, view.action_mask
        if self._observation is not None:
            if self._one_hot:
                self._observation[:, : self._length] = np.arange(self._length) == observation[:, None]
            else:
                self._observation[:, : self._length] = observation.reshape(len(observation), -1)
            observation = self._observation
        if self._mask is not None:
            if mask is not None:
                self._mask[:, : self._choices] = mask
            mask = self._mask
        return AgentView(view.acting, observation, mask, view.reward, view.terminated, view.truncated)
