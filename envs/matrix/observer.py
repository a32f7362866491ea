"""What the players of a Markov game see."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from malib_lite.envs.matrix.spec import PARTS, GameTables

_TABLE_LIMIT = 2**22  # numbers in the table of all observations: 16 MB


class Observer:
    """Observations (n,) float32 of a game's situations; see ``observe`` of :class:`GameSpec`.

    A situation is a state (S where the game is over), a last joint action (J before the first round; joint actions are
    numbered in C order) and a number of rounds played.
    """

    def __init__(self, tables: GameTables, parts: Sequence[str]) -> None:
        self._parts = [part in parts for part in PARTS]
        self._num_states, self._num_actions, self._rounds = tables.num_states, tables.num_actions, tables.rounds or 0
        self._num_joint = prod(tables.num_actions)
        lengths = (self._num_states, sum(self._num_actions), self._rounds)
        self.length = sum(length for length, seen in zip(lengths, self._parts, strict=True) if seen)
        self._counts = [self._num_states + 1, self._num_joint + 1, self._rounds + 1]
        counts = [count if seen else 1 for count, seen in zip(self._counts, self._parts, strict=True)]
        self.table: np.ndarray | None = None  # (I, n) float32, every observation; None where they are too many
        if prod(counts) * self.length <= _TABLE_LIMIT:
            self.table = self._encode(*np.indices(counts).reshape(3, -1))
            self.table.setflags(write=False)

    def index(self, state: np.ndarray, last: np.ndarray, num_rounds: np.ndarray) -> np.ndarray:
        """The observations' rows (E,) int64 in ``table``, of situations (E,)."""
        index = np.zeros_like(state)
        for seen, count, number in zip(self._parts, self._counts, (state, last, num_rounds), strict=True):
            if seen:
                index = index * count + number
        return index

    def observe(self, state: np.ndarray, last: np.ndarray, num_rounds: np.ndarray) -> np.ndarray:
        """The observations (E, n) float32 of situations (E,)."""
        if self.table is not None:
            return self.table[self.index(state, last, num_rounds)]
        return self._encode(state, last, num_rounds)

    def _encode(self, state: np.ndarray, last: np.ndarray, num_rounds: np.ndarray) -> np.ndarray:
        columns = []
        if self._parts[0]:
            columns.append(_one_hot(state, self._num_states))
        if self._parts[1]:
            began = (last < self._num_joint)[:, None]
            actions = np.unravel_index(np.where(began[:, 0], last, 0), self._num_actions)
            columns += [_one_hot(a, size) * began for a, size in zip(actions, self._num_actions, strict=True)]
        if self._parts[2]:
            columns.append(_one_hot(num_rounds, self._rounds))
        return np.concatenate(columns, axis=1)


def _one_hot(numbers: np.ndarray, size: int) -> np.ndarray:
    """(E, size) float32; ``size`` itself is all zeros."""
    rows = np.zeros((len(numbers), size + 1), np.float32)
    rows[np.arange(len(numbers)), numbers] = 1.0
    return rows[:, :size]
