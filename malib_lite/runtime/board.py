"""The board: a few shared counters per actor that everybody may read at any time.

Each actor writes its own row only. The main process reads all of them: a pulse that stands still is a hang, the
counters feed the progress display.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

COLUMNS = ("pulse", "env_steps", "episodes", "updates", "step")
_ROW = 8  # words; a cache line of its own for every actor


class Row:
    """One actor's row."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = words  # (8,) int64

    def pulse(self) -> None:
        """Show that the actor is alive: called at least once in every loop that can last."""
        self._words[0] = time.monotonic_ns()

    def add(self, **counts: int) -> None:
        """Add to counters, e.g. ``add(env_steps=64, episodes=3)``."""
        for name, count in counts.items():
            self._words[COLUMNS.index(name)] += count
        self.pulse()

    def work(self) -> int:
        """A number that changes whenever the actor gets something done."""
        return int(self._words[1:].sum())


class Board:
    """Rows of counters over shared or private memory."""

    @staticmethod
    def num_bytes(num_rows: int) -> int:
        """Memory that a board of ``num_rows`` actors needs."""
        return num_rows * _ROW * 8

    def __init__(self, memory: Any, num_rows: int) -> None:
        self._words = np.frombuffer(memory, dtype=np.int64, count=num_rows * _ROW).reshape(num_rows, _ROW)

    def row(self, index: int) -> Row:
        """The row of actor ``index``."""
        return Row(self._words[index])

    def seconds_since_pulse(self, index: int) -> float:
        """How long actor ``index`` has shown no sign of life."""
        return (time.monotonic_ns() - int(self._words[index, 0])) / 1e9

    def totals(self) -> Mapping[str, int]:
        """The sum of every counter over all actors."""
        return {name: int(self._words[:, i].sum()) for i, name in enumerate(COLUMNS) if name != "pulse"}
