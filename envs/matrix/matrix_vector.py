"""Thousands of copies of a Markov game, stepped together by table look-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.streams import RowStreams
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.envs.matrix.observer import Observer
from malib_lite.envs.matrix.spec import GameTables


def agents_of(tables: GameTables) -> list[AgentID]:
    """Agent ids: player_0, player_1, ..."""
    return [f"player_{player}" for player in range(tables.num_players)]


class Chance:
    """Draws first and next states; where nothing is left to chance, nothing is drawn."""

    def __init__(self, tables: GameTables) -> None:
        num_states = tables.num_states
        transitions = tables.transitions.reshape(-1, num_states + 1)  # (S * J, S + 1)
        self.start, self.next = _cumulate(tables.start[None]), _cumulate(transitions)
        self.only_start = int(tables.start.argmax()) if tables.start.max() == 1.0 else None
        self.only_next = transitions.argmax(axis=1) if (transitions.max(axis=1) == 1.0).all() else None  # (S * J,)

    def first(self, rows: np.ndarray, streams: RowStreams) -> np.ndarray:
        """First states of the environments ``rows`` (B,)."""
        if self.only_start is not None:
            return np.full(len(rows), self.only_start)
        return _draw(np.broadcast_to(self.start, (len(rows), self.start.shape[1])), streams.uniform(rows))

    def after(self, entries: np.ndarray, rows: np.ndarray, streams: RowStreams) -> np.ndarray:
        """Next states (B,) after ``entries`` (B,), which are state * J + joint action; S is the end."""
        if self.only_next is not None:
            return self.only_next[entries]
        return _draw(self.next[entries], streams.uniform(rows))


class MatrixVector(VectorEnvironment):
    """E copies of a Markov game; all players act in every step, and they share their views' arrays but the rewards."""

    def __init__(self, tables: GameTables, seeds: Sequence[int], max_step: int | None = None) -> None:
        """
        Args:
            tables: the game.
            seeds: E integers, a stream of chance for each row.
            max_step: episodes are truncated after so many rounds.
        """
        self.num_envs = num_envs = len(seeds)
        self.possible_agents = agents_of(tables)
        self._observer = Observer(tables, tables.observe)
        sees = spaces.Box(0.0, 1.0, (self._observer.length,), np.float32)
        self.observation_spaces = dict.fromkeys(self.possible_agents, sees)
        self.action_spaces = {
            agent: spaces.Discrete(size) for agent, size in zip(self.possible_agents, tables.num_actions, strict=True)
        }
        self.finished = np.ones(num_envs, bool)
        self._streams = RowStreams(seeds)
        self._chance = Chance(tables)
        self._tables = tables
        self._num_joint = prod(tables.num_actions)
        self._payoffs = tables.payoffs.reshape(-1, tables.num_players).astype(np.float32)  # (S * J, n)
        self._max_step = max_step
        self._state = np.zeros(num_envs, np.int64)
        self._last = np.full(num_envs, self._num_joint)
        self._num_rounds = np.zeros(num_envs, np.int64)
        shared = AgentView(
            acting=np.zeros(num_envs, bool),
            observation=np.zeros((num_envs, self._observer.length), np.float32),
            action_mask=None,
            reward=np.zeros(num_envs, np.float32),
            terminated=np.zeros(num_envs, bool),
            truncated=np.zeros(num_envs, bool),
            observation_index=None if self._observer.table is None else np.zeros(num_envs, np.int64),
        )
        self._shared = shared
        self._views = {agent: replace(shared, reward=np.zeros(num_envs, np.float32)) for agent in self.possible_agents}

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set."""
        rows = np.flatnonzero(mask)  # before ``finished`` changes, which may be the mask itself
        if len(rows) == 0:
            return self._views
        self._state[rows] = self._chance.first(rows, self._streams)
        self._last[rows] = self._num_joint
        self._num_rounds[rows] = 0
        self.finished[rows] = False
        for view in self._views.values():
            view.reward[rows] = 0.0
        self._shared.terminated[rows] = False
        self._shared.truncated[rows] = False
        self._look()
        return self._views

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Play one round in every environment that is not finished.

        Raises:
            ValueError: an action is missing or out of range where the game goes on.
        """
        rows = np.flatnonzero(~self.finished)
        joint = self._joint_actions(actions, rows)
        entries = self._state[rows] * self._num_joint + joint
        for view, payoffs in zip(self._views.values(), self._payoffs.T, strict=True):
            view.reward.fill(0.0)
            view.reward[rows] = payoffs[entries]
        state = self._chance.after(entries, rows, self._streams)
        num_rounds = self._num_rounds[rows] + 1
        over = state == self._tables.num_states
        if self._tables.rounds is not None:
            over |= num_rounds >= self._tables.rounds
        cut = np.zeros_like(over) if self._max_step is None else ~over & (num_rounds >= self._max_step)
        self._state[rows], self._last[rows], self._num_rounds[rows] = state, joint, num_rounds
        self.finished[rows] = over | cut
        for flags, now in ((self._shared.terminated, over), (self._shared.truncated, cut)):
            flags.fill(False)
            flags[rows] = now
        self._look()
        return self._views

    def observation_table(self, agent: AgentID) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Every observation (I, n) float32, the same for all agents; None where they are very many."""
        table = self._observer.table
        return None if table is None else (table.copy(), None)

    def state_dict(self) -> dict[str, Any]:
        """The random streams."""
        return self._streams.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
        self._streams.load_state_dict(state)

    def _joint_actions(self, actions: Mapping[AgentID, np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Numbers of the joint actions in ``rows``, (B,) int64."""
        joint = np.zeros(len(rows), np.int64)
        for agent, size in zip(self.possible_agents, self._tables.num_actions, strict=True):
            if agent not in actions:
                raise ValueError(f"{agent} is to act and has no action")
            action = np.asarray(actions[agent])[rows]
            if len(rows) and not (action.min() >= 0 and action.max() < size):
                first = rows[int(np.flatnonzero((action < 0) | (action >= size))[0])]
                raise ValueError(
                    f"action {actions[agent][first]} of {agent} in environment {first} is not below {size}"
                )
            joint = joint * size + action
        return joint

    def _look(self) -> None:
        """Set who acts and what they see."""
        shared, situation = self._shared, (self._state, self._last, self._num_rounds)
        np.logical_not(self.finished, out=shared.acting)
        if shared.observation_index is not None and self._observer.table is not None:
            shared.observation_index[:] = self._observer.index(*situation)
            self._observer.table.take(shared.observation_index, axis=0, out=shared.observation, mode="clip")
        else:
            shared.observation[:] = self._observer.observe(*situation)


def _cumulate(probs: np.ndarray) -> np.ndarray:
    """Cumulative sums over the last axis, from the last possible outcome on exactly one."""
    sums = np.cumsum(probs, axis=1)
    return sums / sums[:, -1:]


def _draw(cumulative: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Outcomes (B,) from cumulative probabilities (B, K) and numbers (B,) in [0, 1)."""
    return (chances[:, None] >= cumulative).sum(axis=1)
