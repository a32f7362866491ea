"""Whom to play: distributions over a history of opponents, oldest first.

    naive            always the latest
    fictitious       every one alike; with best responses to it, fictitious play (Heinrich et al. 2015)
    delta_uniform    alike over the latest share of the history (Bansal et al. 2018, section 5.2)
    pfsp             prioritised fictitious self-play: by how often one wins (Vinyals et al. 2019, methods)

Pure functions: they return probabilities, and whoever calls them draws. The rules of a league, which combine these, are
in :mod:`malib_lite.population.league_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from malib_lite.config import ConfigError, suggest

Weighting: TypeAlias = Callable[[np.ndarray], np.ndarray]


def naive(size: int) -> np.ndarray:
    """Distribution (size,): the latest alone. With exact best responses it need not converge, it may go in circles."""
    return delta_uniform(size, delta=1.0)


def fictitious(size: int) -> np.ndarray:
    """Distribution (size,): every opponent alike."""
    return delta_uniform(size, delta=0.0)


def delta_uniform(size: int, *, delta: float) -> np.ndarray:
    """Distribution (size,): alike over the latest (1 - delta) of the history.

    With v the index of the latest, those from delta v on: delta 0 is all of them and delta 1 the latest alone.

    Raises:
        ConfigError: delta is out of [0, 1].
        ValueError: no opponents.
    """
    if not 0.0 <= delta <= 1.0:
        raise ConfigError(f"delta = {delta} is a share of the history: 0 <= delta <= 1")
    if size < 1:
        raise ValueError("there is nobody to play")
    first = math.ceil(delta * (size - 1) - 1e-9)  # 0.7 * 10 is a little more than 7 in floating point
    return np.where(np.arange(size) >= first, 1.0 / (size - first), 0.0)


def hard(win_probabilities: np.ndarray, *, power: float = 2.0) -> np.ndarray:
    """f_hard(p) = (1 - p)^power: those one loses to; 0 for those that are always beaten."""
    return (1.0 - win_probabilities) ** power


def capped(win_probabilities: np.ndarray) -> np.ndarray:
    """min(1/2, 1 - p): as f_hard with power 1, but all that win more than half count alike."""
    return np.minimum(0.5, 1.0 - win_probabilities)


def variance(win_probabilities: np.ndarray) -> np.ndarray:
    """f_var(p) = p (1 - p): those about as strong as oneself."""
    return win_probabilities * (1.0 - win_probabilities)


WEIGHTINGS: dict[str, Weighting] = {"hard": hard, "capped": capped, "variance": variance}


def get_weighting(weighting: str | Weighting) -> Weighting:
    """The weighting of that name, or ``weighting`` itself where it is a function already."""
    if callable(weighting):
        return weighting
    if weighting not in WEIGHTINGS:
        raise ConfigError(f"unknown weighting {weighting!r}: {suggest(str(weighting), WEIGHTINGS)}")
    return WEIGHTINGS[weighting]


def pfsp(win_probabilities: np.ndarray, weighting: str | Weighting = "hard") -> np.ndarray:
    """Prioritised fictitious self-play: probabilities in proportion to a weight of the win probability.

    Where every weight is 0 (all are beaten, say), every opponent is as good as another.

    Args:
        win_probabilities: (P,) of oneself against each opponent, draws counted half.
        weighting: "hard", "capped", "variance", or a function of the win probabilities.

    Returns:
        Distribution (P,).

    Raises:
        ValueError: no opponents, or numbers that are no probabilities.
    """
    win_probabilities = np.asarray(win_probabilities, np.float64)
    if win_probabilities.size == 0:
        raise ValueError("there is nobody to play")
    if not ((win_probabilities >= 0.0) & (win_probabilities <= 1.0)).all():
        raise ValueError(f"{win_probabilities.tolist()} are not probabilities")
    weights = get_weighting(weighting)(win_probabilities)
    total = weights.sum()
    return weights / total if total > 1e-10 else fictitious(weights.size)
