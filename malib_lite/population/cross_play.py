"""Cross-play: populations that grew apart, each mixed as its own run mixed it, against one another.

A population's figures against itself say little: who is far from equilibrium may look even at home. Between runs, seeds
or algorithms the table of all against all says who is worth what.

With N players every population takes each seat in turn, while all other seats are taken by one other population.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Lineup = tuple[int, ...]  # the number of the population that plays for each player


@dataclass(frozen=True)
class CrossPlay:
    """What each population (first of the two last axes) earns where all others are of one population (last axis)."""

    names: tuple[str, ...]
    values: np.ndarray  # (N, K, K) float64, expected return of each player
    errors: np.ndarray  # (N, K, K) float64, standard errors; 0 where payoffs are exact

    @property
    def mean(self) -> np.ndarray:
        """The mean (K, K) over the seats: first-mover advantages cancel, two alike earn the same against each other."""
        return self.values.mean(axis=0)

    @property
    def mean_errors(self) -> np.ndarray:
        """Standard errors (K, K) of :attr:`mean`. Seats are games of their own; but on the diagonal, where they are
        one and the same, this is the most that it can be."""
        errors = np.sqrt((self.errors**2).sum(axis=0)) / len(self.errors)
        np.fill_diagonal(errors, self.errors.mean(axis=0).diagonal())
        return errors

    @property
    def strengths(self) -> np.ndarray:
        """What each population (K,) earns on average over all seats and all others."""
        others = self.mean.sum(axis=1) - self.mean.diagonal()
        return others / max(1, len(self.names) - 1)


def lineups(num_populations: int, num_players: int) -> list[Lineup]:
    """All that have to be played: one population in one seat, another one (or itself) in all others."""
    found = {
        _lineup(seat, one, others, num_players): None
        for one in range(num_populations)
        for others in range(num_populations)
        for seat in range(num_players)
    }
    return list(found)


def cross_play(
    names: Sequence[str], returns: Mapping[Lineup, tuple[Sequence[float], Sequence[float]]], num_players: int
) -> CrossPlay:
    """Put the returns of all :func:`lineups` into tables.

    Args:
        names: of the populations.
        returns: by lineup, the mean return of each player and its standard error, 0 where it is exact.

    Raises:
        ValueError: a lineup is missing.
    """
    values, errors = np.zeros((2, num_players, len(names), len(names)))
    for seat, one, others in np.ndindex(values.shape):
        lineup = _lineup(seat, one, others, num_players)
        if lineup not in returns:
            raise ValueError(f"no returns of the lineup {[names[number] for number in lineup]}")
        means, spreads = returns[lineup]
        values[seat, one, others], errors[seat, one, others] = means[seat], spreads[seat]
    return CrossPlay(tuple(names), values, errors)


def head_to_head(
    placings: Mapping[Lineup, Sequence[Sequence[int]]], num_populations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Wins and draws (K, K) float64 of the row's population against the column's, for
    :func:`malib_lite.population.ratings.fit_skills`.

    An episode is one game, of the population that has one seat against the one that has all others: won by the share of
    seats that it leaves behind, drawn by the share that it is level with. Of two players that is who got more. It says
    who comes off better at the same table, not how much is earned: where all want the same, every game is a draw.

    Args:
        placings: by lineup, [ahead, level, behind] of each player: how many others it came off better than, alike,
            worse, in all episodes together.
    """
    wins, draws = np.zeros((2, num_populations, num_populations))
    for lineup, of_players in placings.items():
        if len(set(lineup)) == 1:
            continue
        seat = next(seat for seat, who in enumerate(lineup) if lineup.count(who) == 1)
        one, others = lineup[seat], lineup[seat - 1]
        ahead, level, behind = np.array(of_players[seat], np.float64) / (len(lineup) - 1)
        wins[one, others] += ahead
        wins[others, one] += behind
        draws[[one, others], [others, one]] += level
    return wins, draws


def _lineup(seat: int, one: int, others: int, num_players: int) -> Lineup:
    return tuple(one if player == seat else others for player in range(num_players))
