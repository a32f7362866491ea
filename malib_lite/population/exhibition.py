"""Exhibition games: snapshots never change, so each pair of them plays once, and what it came to holds for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from malib_lite.population.ratings import fit_elo
from malib_lite.population.win_table import WinTable


class Meeting(NamedTuple):
    """The games of a pair, from the first one's side, all seats together."""

    wins: float
    draws: float
    losses: float
    payoffs: tuple[float, float]  # mean returns of the first and of the second
    errors: tuple[float, float]  # their standard errors

    @property
    def swapped(self) -> Meeting:
        """The same from the second one's side."""
        return Meeting(self.losses, self.draws, self.wins, self.payoffs[::-1], self.errors[::-1])


class Rating(NamedTuple):
    """An Elo rating with the interval that holds it with a probability of 95 %."""

    elo: float
    low: float
    high: float


class Exhibition:
    """The table of meetings."""

    def __init__(self) -> None:
        self._meetings: dict[tuple[str, str], Meeting] = {}
        self._table = WinTable()

    def missing(self, rows: Sequence[str], columns: Sequence[str]) -> list[tuple[str, str]]:
        """Pairs of a row and another column that have not met, each once."""
        new: dict[tuple[str, str], None] = {}
        for row in rows:
            for column in columns:
                known = {(row, column), (column, row)}
                if row != column and not known & self._meetings.keys() and not known & new.keys():
                    new[row, column] = None
        return list(new)

    def record(self, first: str, second: str, meeting: Meeting) -> None:
        """Note what the games of a pair came to.

        Raises:
            ValueError: they have met already, or are one and the same.
        """
        if first == second or (first, second) in self._meetings or (second, first) in self._meetings:
            raise ValueError(f"{first} against {second}: every pair plays once")
        self._meetings[first, second] = meeting
        self._table.record(first, second, wins=meeting.wins, draws=meeting.draws, losses=meeting.losses)

    def __getitem__(self, pair: tuple[str, str]) -> Meeting:
        """The games of a pair, from the first one's side."""
        return self._meetings[pair] if pair in self._meetings else self._meetings[pair[::-1]].swapped

    def win_rates(self, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
        """Wins and half the draws as a part of all games (R, C) float64; NaN where two have not met."""
        rates = np.full((len(rows), len(columns)), np.nan)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                if self._table[row, column].games:
                    rates[i, j] = self._table.win_probability(row, column)
        return rates

    def ratings(self, names: Sequence[str]) -> dict[str, Rating]:
        """Elo ratings by all meetings of ``names``, relative to the first of them."""
        elo = fit_elo(*self._table.counts(names))
        ratings = {}
        for number, name in enumerate(names):
            lead, error = elo.difference(number, 0)
            ratings[name] = Rating(lead, lead - 1.96 * error, lead + 1.96 * error)
        return ratings

    def state_dict(self) -> dict[str, Any]:
        """All meetings, in a form for JSON."""
        return {"meetings": [[*pair, *meeting] for pair, meeting in self._meetings.items()]}
