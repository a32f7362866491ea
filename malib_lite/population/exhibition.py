"""Exhibition games: snapshots never change, so each pair of them plays once, and what it came to holds for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from malib_lite.population.ratings import fit_elo, wins_from_payoffs


class Meeting(NamedTuple):
    """The games of a pair, all seats together."""

    games: int
    payoffs: tuple[float, float]  # mean returns of the first and of the second
    errors: tuple[float, float]  # their standard errors
    largest: float  # absolute return that anybody had in any of the games
    lead: float  # by how much the returns of the two differed at most in any of the games

    @property
    def swapped(self) -> Meeting:
        """The same from the second one's side."""
        return self._replace(payoffs=self.payoffs[::-1], errors=self.errors[::-1])


class Rating(NamedTuple):
    """An Elo rating with the interval that holds it with a probability of 95 %."""

    elo: float
    low: float
    high: float


class Exhibition:
    """The table of meetings."""

    def __init__(self) -> None:
        self._meetings: dict[tuple[str, str], Meeting] = {}

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

    def __getitem__(self, pair: tuple[str, str]) -> Meeting:
        """The games of a pair, from the first one's side."""
        return self._meetings[pair] if pair in self._meetings else self._meetings[pair[::-1]].swapped

    def payoffs(self, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
        """Mean returns of the rows against the columns (R, C) float64; NaN where two have not met."""
        table = np.full((len(rows), len(columns)), np.nan)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                if {(row, column), (column, row)} & self._meetings.keys():
                    table[i, j] = self[row, column].payoffs[0]
        return table

    @property
    def largest(self) -> float:
        """The largest absolute return in any of the games; 0 while there are none."""
        return max((meeting.largest for meeting in self._meetings.values()), default=0.0)

    @property
    def lead(self) -> float:
        """By how much the returns of two differed at most in any of the games; 0 while there are none."""
        return max((meeting.lead for meeting in self._meetings.values()), default=0.0)

    def shows_opposite_interests(self) -> bool:
        """Whether what two win together is the same in all meetings; of a single one, whether it is nothing."""
        together = [sum(meeting.payoffs) for meeting in self._meetings.values()]
        spread = max(together, default=0.0) - min(together, default=0.0) if len(together) > 1 else abs(sum(together))
        return spread <= 1e-6 * self.largest

    def game(self, names: Sequence[str]) -> np.ndarray:
        """The symmetric game (2, P, P) float64 of choosing one of those who have all met: mean returns, over all seats,
        of the one that the first player chooses (rows) and of the one that the second chooses (columns).

        Against itself everybody gets half of what two others get together, which is right in constant-sum games.
        """
        payoffs = self.payoffs(names, names)
        shared = (payoffs + payoffs.T)[~np.eye(len(names), dtype=bool)]
        np.fill_diagonal(payoffs, shared.mean() / 2.0 if shared.size else 0.0)
        return np.stack([payoffs, payoffs.T])

    def ratings(self, names: Sequence[str]) -> dict[str, Rating]:
        """Elo ratings by all meetings, relative to the first of ``names``.

        A meeting's score is its players' difference in mean returns, on a scale where the largest difference in any
        game is 1 and its opposite 0: what both get alike plays no part. Where games are won, drawn or lost, that is the
        share of games won; where one can win more or less, as in poker, who wins seldom but much is rated well. A
        meeting counts as the games that tell a share of wins as surely, but as no more than were played: intervals are
        rather too wide than too narrow.

        Args:
            names: everybody who has met.
        """
        wins = np.zeros((len(names), len(names)))
        largest = self.lead or 1.0
        for (first, second), meeting in self._meetings.items():
            lead = np.array([[meeting.payoffs[0] - meeting.payoffs[1]]])
            error = np.array([[sum(meeting.errors)]])
            won = wins_from_payoffs(lead, error, lowest=-largest, highest=largest, max_games=meeting.games)
            pair = [names.index(first), names.index(second)]
            wins[np.ix_(pair, pair)] = won
        elo, ratings = fit_elo(wins), {}
        for number, name in enumerate(names):
            lead_over_first, spread = elo.difference(number, 0)
            ratings[name] = Rating(lead_over_first, lead_over_first - 1.96 * spread, lead_over_first + 1.96 * spread)
        return ratings

    def state_dict(self) -> dict[str, Any]:
        """All meetings, in a form for JSON."""
        return {"meetings": [[*pair, *meeting] for pair, meeting in self._meetings.items()]}
