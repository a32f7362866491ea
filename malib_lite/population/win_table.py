"""The ledger of games between pairs: wins, draws and losses, and the win probabilities that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Record(NamedTuple):
    """Games of one against another, from the one's side; fractions where old games have faded."""

    wins: float = 0.0
    draws: float = 0.0
    losses: float = 0.0

    @property
    def games(self) -> float:
        """How many games, faded ones in part."""
        return self.wins + self.draws + self.losses


class WinTable:
    """What every pair's games came to. Each result is written once and read from both sides."""

    def __init__(self, *, decay: float = 1.0, prior_games: float = 0.0) -> None:
        """
        Args:
            decay: what remains of a pair's earlier games with each new one of it, in (0, 1]; learners change, and 0.99
                remembers the last hundred or so games.
            prior_games: imagined draws added to each pair in :meth:`win_probability`. With none, one lucky game makes
                an opponent "beaten", and one whose win probability is 1 is never chosen again by a rule that asks for
                hard opponents: a league of few games needs one or two.

        Raises:
            ValueError: a number out of its range.
        """
        if not 0.0 < decay <= 1.0 or not prior_games >= 0.0:
            raise ValueError(f"decay {decay} is in (0, 1], and prior_games {prior_games} is at least 0")
        self._decay, self._prior_games = decay, prior_games
        self._records: dict[tuple[str, str], Record] = {}  # by pair in alphabetical order, from the first one's side

    def record(self, home: str, away: str, *, wins: float = 0, draws: float = 0, losses: float = 0) -> None:
        """Add games between two, counted from ``home``'s side. Of games added in one call none fades another.

        Raises:
            ValueError: a player against itself, whose probability to win is one half anyway, or a negative number.
        """
        if home == away:
            raise ValueError(f"{home} against itself says nothing")
        if min(wins, draws, losses) < 0:
            raise ValueError(f"{wins} wins, {draws} draws, {losses} losses of {home} against {away}")
        if home > away:
            home, away, wins, losses = away, home, losses, wins
        old = self._records.get((home, away), Record())
        kept = self._decay ** (wins + draws + losses)
        self._records[home, away] = Record(kept * old.wins + wins, kept * old.draws + draws, kept * old.losses + losses)

    def __getitem__(self, pair: tuple[str, str]) -> Record:
        """The games of the first against the second, from the first's side."""
        home, away = pair
        if home > away:
            wins, draws, losses = self[away, home]
            return Record(losses, draws, wins)
        return self._records.get((home, away), Record())

    def win_probability(self, home: str, away: str) -> float:
        """Wins and half the draws, as a part of all games; 0.5 as long as nothing is known."""
        record = self[home, away]
        games = record.games + self._prior_games
        return (record.wins + 0.5 * (record.draws + self._prior_games)) / games if games > 0.0 else 0.5

    def win_probabilities(self, home: str, opponents: Sequence[str]) -> np.ndarray:
        """:meth:`win_probability` against each of the opponents, (P,) float64."""
        return np.array([self.win_probability(home, away) for away in opponents], np.float64)

    def forget(self, player: str) -> None:
        """Drop a player's games, because it starts anew and they no longer say anything about it."""
        self._records = {pair: record for pair, record in self._records.items() if player not in pair}

    def state_dict(self) -> dict[str, Any]:
        """All records, in a form for JSON."""
        return {"records": [[*pair, *record] for pair, record in self._records.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._records = {(home, away): Record(*counts) for home, away, *counts in state["records"]}
