"""Iterated elimination of strictly dominated strategies, and whether two players' payoffs add up to a constant.

One bad member of a pool may lose a thousand times what all others play for. Whatever is measured by the range of all
payoffs (step sizes, tolerances, intensities of selection) is then measured by it. A strategy that earns less than
another one against everything is played in no Nash and in no correlated equilibrium, and neither is one of which that
is so once such strategies are gone (Luce and Raiffa 1957, section 5.8), so solvers may leave it out beforehand.

Deviation: only domination by single strategies counts. A mixture may dominate where none of them does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Differences below this, as a part of the largest payoff, are rounding.
ROUNDING = 1e-12
# Largest departure from a constant sum, as a part of what an entry and most others differ from the middle by, that
# still counts as rounding: environments pay in single precision.
SUM_TOLERANCE = 1e-5


def undominated(payoffs: np.ndarray) -> list[np.ndarray]:
    """The strategies of each player that survive, as ascending indices; at least one of every player.

    Args:
        payoffs: (N, P_1, ..., P_N).
    """
    kept = [np.arange(size) for size in payoffs.shape[1:]]
    settled = 0  # players one after the other that have nothing to lose
    while settled < len(kept):
        for player, own in enumerate(kept):
            rows = np.moveaxis(payoffs[player][np.ix_(*kept)], player, 0).reshape(len(own), -1)
            dominated = _dominated(rows)
            kept[player] = own[~dominated]
            settled = 0 if dominated.any() else settled + 1
    return kept


def unit(payoffs: np.ndarray) -> float:
    """The largest of the players' payoff ranges among what is not strictly dominated; positive.

    Where that is a single profile, or all profiles are alike: the last one that was not 0, as strategies were left out
    one after the other, those first that lose the most. 1 where all payoffs are alike to begin with.

    Args:
        payoffs: (N, P_1, ..., P_N).
    """
    if (span := _range(restrict(payoffs, undominated(payoffs)))) > 0.0:
        return span
    left, found = payoffs, 1.0
    while (span := _range(left)) > 0.0:
        found = span
        losses = [
            _losses(np.moveaxis(own, player, 0).reshape(own.shape[player], -1)) for player, own in enumerate(left)
        ]
        player = int(np.argmax([loss.max() for loss in losses]))
        if losses[player].max() == 0.0:
            break
        left = np.delete(left, losses[player].argmax(), axis=1 + player)
    return found


def _range(payoffs: np.ndarray) -> float:
    """The largest of the players' payoff ranges; 0 if that is rounding."""
    widest = max(float(np.ptp(own)) for own in payoffs)
    return widest if widest > ROUNDING * float(np.abs(payoffs).max()) else 0.0


def restrict(payoffs: np.ndarray, kept: Sequence[np.ndarray]) -> np.ndarray:
    """The payoffs (N, Q_1, ..., Q_N) of the strategies that are kept."""
    return payoffs[np.ix_(np.arange(len(payoffs)), *kept)]


def spread_out(weights: np.ndarray, kept: np.ndarray, size: int) -> np.ndarray:
    """A mixture (size,) from one over the strategies that are kept; 0 for all others."""
    whole = np.zeros(size)
    whole[kept] = weights
    return whole


def sums_to(payoffs: np.ndarray, constant: float | None = None) -> bool:
    """Whether the payoffs (2, P_1, P_2) of two players add up to ``constant`` everywhere; None: to any constant.

    Each entry is judged by how far it and most others lie from the middle. So a single entry that is a thousand times
    as large as all others excuses nothing but itself.
    """
    if payoffs[0].size == 0:
        return True
    sums = payoffs.sum(axis=0)
    deviations = np.abs(payoffs - np.median(payoffs, axis=(1, 2), keepdims=True)).mean(axis=0)
    rounding = ROUNDING * float(np.abs(payoffs).max())
    differing = deviations[deviations > rounding]  # of a table with few payoffs that differ, too
    typical = float(np.quantile(differing, 0.25)) if differing.size else 0.0
    allowed = SUM_TOLERANCE * (deviations + typical) + rounding
    return bool((np.abs(sums - (np.median(sums) if constant is None else constant)) <= allowed).all())


def _dominated(rows: np.ndarray) -> np.ndarray:
    """Which strategies (P,) bool another one beats against everything; rows (P, choices of the others)."""
    return _losses(rows) > 0.0


def _losses(rows: np.ndarray) -> np.ndarray:
    """By how much at least (P,) each strategy is beaten against everything by another one; 0 if by none."""
    margin = ROUNDING * float(np.abs(rows).max())
    behind = rows.max(axis=0) - rows
    losses = np.zeros(len(rows))
    for own in np.flatnonzero(behind.min(axis=1) > margin):
        # Few are better where this one comes nearest to the best.
        nearest = behind[own].argmin()
        rivals = rows[rows[:, nearest] > rows[own, nearest] + margin]
        least = float((rivals - rows[own]).min(axis=1).max(initial=0.0))
        losses[own] = least if least > margin else 0.0
    return losses
