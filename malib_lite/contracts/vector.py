"""E copies of an environment stepped together, as a struct of arrays: what the rollout loop runs on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.contracts.environment import AgentID


@dataclass
class AgentView:
    """One agent's share of a vector step; rows mean something only where a flag says so.

    The arrays belong to the vector environment and may change with its next ``reset`` or ``step``: copy what is kept.
    """

    acting: np.ndarray  # (E,) bool: the agent must act now
    observation: np.ndarray  # (E, *obs): where acting, and the final one where truncated
    action_mask: np.ndarray | None  # (E, A) bool: where acting; at least one True in every row. None: all legal
    reward: np.ndarray  # (E,) float32: earned in the last step, zero after a reset
    terminated: np.ndarray  # (E,) bool: ended in the last step
    truncated: np.ndarray  # (E,) bool: cut off in the last step
    observation_index: np.ndarray | None = None  # (E,) int64: row of ``observation`` in observation_table(agent)


class VectorEnvironment(ABC):
    """E environments with one rhythm. Episodes never restart by themselves: the caller resets where ``finished``.

    The call loop::

        views = venv.reset(np.ones(E, bool))
        while True:
            views = venv.step({agent: actions of shape (E, ...)})   # rows that are not acting are ignored
            if venv.finished.any():
                views = venv.reset(venv.finished)                   # rewards and flags of those rows are cleared

    ``finished`` is (E,) bool; stepping ignores environments that are finished. The caller may set it to park one.
    """

    num_envs: int
    possible_agents: list[AgentID]
    observation_spaces: Mapping[AgentID, spaces.Space]
    action_spaces: Mapping[AgentID, spaces.Space]
    finished: np.ndarray  # (E,) bool
    state: np.ndarray | None = None  # (E, S) float32: the global state, flat, after the last reset or step; None: none
    num_crashes: int = 0  # processes of environments that have died and been replaced

    @abstractmethod
    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set."""

    @abstractmethod
    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Advance every environment that is not finished by one step."""

    def observation_table(self, agent: AgentID) -> tuple[np.ndarray, np.ndarray | None] | None:
        """All observations the agent can ever have, (I, *obs), and their action masks (I, A) bool.

        None where they are not a small finite set. With a table, acting is a look-up for any fixed policy.
        """
        return None

    def close(self) -> None:
        """Free what the environments hold."""

    def state_dict(self) -> dict[str, Any]:
        """The random state, for exact resumption between episodes."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
