"""How pool members stand to each other, by the payoff table of their population: Elo and alpha-rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from malib_lite.population.alpha_rank import MAX_JOINT_PROFILES
from malib_lite.population.meta_solvers import is_constant_sum
from malib_lite.population.ratings import alpha_ranking, fit_elo, wins_from_payoffs

_MAX_RATED = 600  # members of both players: the fit takes the cube of it


@dataclass(frozen=True)
class Standing:
    """One member's place."""

    player: str
    member: int  # its number in the pool, oldest first
    mixture: float  # how probably the population plays it
    elo: float | None  # relative to all members of both players; None where there is no such rating
    elo_low: float | None  # 95 % interval
    elo_high: float | None
    alpha_rank: float | None  # share of the player's population in the alpha-rank distribution


def standings(payoffs: np.ndarray, errors: np.ndarray, mixtures: Mapping[str, np.ndarray]) -> dict[str, list[Standing]]:
    """Every player's members, the strongest first: by Elo, or by alpha-rank where there is no Elo.

    Elo is for two players with opposite interests. The largest payoff in the table counts as a win, its negative as a
    loss, what is between as a share of wins; exact payoffs count as a thousand games
    (:func:`~malib_lite.population.ratings.wins_from_payoffs`). Alpha-rank is left out of tables with more than
    1,024 joint choices, and Elo where there are more than 600 members: they would take minutes.

    Args:
        payoffs: (N, P_1, ..., P_N), expected returns.
        errors: of the same shape, standard errors; 0 where a payoff is exact.
        mixtures: (P,) of every player, in the order of the table's axes.
    """
    players, sizes = list(mixtures), payoffs.shape[1:]
    elo = np.full((sum(sizes), 3), np.nan)
    if is_constant_sum(payoffs) and sum(sizes) <= _MAX_RATED:
        centre = float(payoffs.sum(axis=0).mean()) / 2.0  # of constant-sum games that are no zero-sum games
        stake = float(np.abs(payoffs[0] - centre).max()) or 1.0
        wins = wins_from_payoffs(payoffs[0], errors[0], lowest=centre - stake, highest=centre + stake)
        ratings = fit_elo(wins)
        elo = np.column_stack([ratings.values, ratings.intervals()])
    shares = {player: np.full(size, np.nan) for player, size in zip(players, sizes, strict=True)}
    if np.prod(sizes) <= MAX_JOINT_PROFILES:
        for player, ranking in zip(players, alpha_ranking(payoffs), strict=True):
            for member, share in ranking:
                shares[player][member] = share
    result, first = {}, 0
    for player, size in zip(players, sizes, strict=True):
        rows = []
        for member, mixed in enumerate(mixtures[player].tolist()):
            rating, low, high = map(_known, elo[first + member])
            rows.append(Standing(player, member, mixed, rating, low, high, _known(shares[player][member])))
        result[player] = sorted(rows, key=_strength, reverse=True)
        first += size
    return result


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _strength(standing: Standing) -> tuple[float, float, int]:
    """What is sorted by; of two that differ by rounding the older one is first."""
    return round(standing.elo or 0.0, 6), round(standing.alpha_rank or 0.0, 9), -standing.member
