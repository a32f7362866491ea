"""Cross-play: populations that grew apart, each mixed as its own run mixed it, against one another.

A population's figures against itself say little: who is far from equilibrium may look even at home. Between runs, seeds
or algorithms the table of all against all says who is worth what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from malib_lite.population.meta_solvers import nash


@dataclass(frozen=True)
class CrossPlay:
    """What each population earns as the first player against each as the second."""

    names: tuple[str, ...]
    values: np.ndarray  # (K, K) float64, expected return of the first player
    errors: np.ndarray  # (K, K) float64, standard errors; 0 where payoffs are exact

    @property
    def strengths(self) -> np.ndarray:
        """What each population (K,) earns on average over both seats and all others, the game being zero-sum."""
        lead = (self.values - self.values.T) / 2.0
        return lead.sum(axis=1) / max(1, len(self.names) - 1)

    def lines(self) -> list[str]:
        """A plain text table: first players in rows, second players in columns, and the strengths."""
        width = max(16, *(len(name) for name in self.names))
        rows = ["".join(f"{name:>{width}}" for name in ("", *self.names, "strength"))]
        for name, values, errors, strength in zip(self.names, self.values, self.errors, self.strengths, strict=True):
            cells = [f"{value:+.3f} ± {error:.3f}" for value, error in zip(values, errors, strict=True)]
            rows.append("".join(f"{cell:>{width}}" for cell in (name, *cells, f"{strength:+.3f}")))
        return rows


def cross_play(
    payoffs: Mapping[tuple[str, str], np.ndarray],
    mixtures: Mapping[str, Sequence[np.ndarray]],
    errors: Mapping[tuple[str, str], np.ndarray] | None = None,
) -> CrossPlay:
    """Average the payoffs between members to those between populations.

    Args:
        payoffs: by (population of the first player, of the second): (P_1, P_2), the first player's expected returns.
        mixtures: each population's (P_1,) as the first and (P_2,) as the second player.
        errors: standard errors of the payoffs, by the same keys; exact where omitted. Entries count as independent.

    Raises:
        ValueError: a pair has no payoffs, or they do not fit the mixtures.
    """
    names = tuple(mixtures)
    values, spreads = np.zeros((2, len(names), len(names)))
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if (first, second) not in payoffs:
                raise ValueError(f"no payoffs of '{first}' against '{second}'")
            x, y = mixtures[first][0], mixtures[second][1]
            table = payoffs[first, second]
            if table.shape != (len(x), len(y)):
                raise ValueError(
                    f"payoffs {table.shape} of '{first}' against '{second}' for {len(x)} x {len(y)} members"
                )
            values[i, j] = x @ table @ y
            if errors is not None:
                spreads[i, j] = np.sqrt(x**2 @ errors[first, second] ** 2 @ y**2)
    return CrossPlay(names, values, spreads)


def relative_performance(payoffs: np.ndarray) -> float:
    """Relative population performance (Balduzzi et al. 2019, definition 3): the value of the game between two pools.

    Each side mixes its members as well as it can *against the other*, so it does not depend on what the runs made of
    them, and a member that nobody needs counts nothing.

    Args:
        payoffs: (P_1, P_2), expected returns of the first pool's members in a zero-sum game.

    Returns:
        What the first pool earns; above 0 it is the better one, where the game is symmetric.
    """
    x, y = nash(np.stack([payoffs, -payoffs]))
    return float(x @ payoffs @ y)
