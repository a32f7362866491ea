"""Arithmetic on payoff tables that every solver shares.

A table is ``payoffs[n, i_1, ..., i_N]``, shape (N, P_1, ..., P_N): the expected return of player n when every player k
plays its strategy i_k. A mixture is a distribution (P_n,) over one player's strategies, a joint distribution has the
shape (P_1, ..., P_N).
"""

from __future__ import annotations

import numpy as np


def check_table(payoffs: np.ndarray) -> np.ndarray:
    """A payoff table (N, P_1, ..., P_N) as float64.

    Raises:
        ValueError: the shape is another, or an entry is not finite.
    """
    payoffs = np.asarray(payoffs, dtype=np.float64)
    if payoffs.ndim < 2 or payoffs.ndim != len(payoffs) + 1 or payoffs.size == 0:
        raise ValueError(f"payoffs of N players have the shape (N, P_1, ..., P_N), not {payoffs.shape}")
    if not np.isfinite(payoffs).all():
        raise ValueError("payoffs have entries that are not finite: were all match-ups evaluated?")
    return payoffs


def normalise(payoffs: np.ndarray) -> np.ndarray:
    """Shift each player's payoffs of a table (N, P_1, ..., P_N) to start at 0, scale all together to span 1.

    Raises:
        ValueError: as of :func:`check_table`.
    """
    payoffs = check_table(payoffs)
    return _to_one(payoffs - _lowest(payoffs), float(np.abs(payoffs).max()))


def normalise_each(payoffs: np.ndarray) -> np.ndarray:
    """:func:`normalise` with a unit of its own for each player, so that the payoffs of each span 1."""
    payoffs = check_table(payoffs)
    return np.stack(
        [_to_one(own, float(np.abs(p).max())) for own, p in zip(payoffs - _lowest(payoffs), payoffs, strict=True)]
    )


def _lowest(payoffs: np.ndarray) -> np.ndarray:
    return payoffs.min(axis=tuple(range(1, payoffs.ndim)), keepdims=True)


def _to_one(shifted: np.ndarray, largest: float) -> np.ndarray:
    # The second bound keeps rounding errors between strategies that are alike from being blown up to full scale.
    scale = max(float(shifted.max()), 1e-9 * largest)
    return shifted / scale if scale > 0.0 else shifted


def own_axis_first(game: np.ndarray) -> list[np.ndarray]:
    """Each player's payoffs as (P_n, P of the other players in order)."""
    return [np.ascontiguousarray(np.moveaxis(payoff, player, 0)) for player, payoff in enumerate(game)]


def deviation_values(rows: list[np.ndarray], weights: list[np.ndarray], player: int) -> np.ndarray:
    """(P_n,) payoff of each own strategy, the others weighted by ``weights``; rows as from own_axis_first."""
    values = rows[player]
    for other in range(len(weights) - 1, -1, -1):
        if other != player:
            values = values @ weights[other]  # sums over the last axis
    return values


def distribution(weights: np.ndarray) -> np.ndarray:
    """Clear the small negative entries that rounding leaves, and let the rest sum to one."""
    weights = np.clip(weights, 0.0, None)
    return weights / weights.sum()


def marginals(joint: np.ndarray) -> list[np.ndarray]:
    """One mixture (P_n,) per player from a joint distribution (P_1, ..., P_N)."""
    return [np.moveaxis(joint, player, 0).reshape(size, -1).sum(axis=1) for player, size in enumerate(joint.shape)]
