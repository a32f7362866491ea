"""Ratings: one number per player from the games between them, with how sure it is.

    fit_elo      the most likely Elo ratings given all games (Bradley and Terry 1952)
    fit_skills   the most likely skills by TrueSkill's model, which knows draws (Herbrich, Minka and Graepel 2007)
    alpha_ranking   pool members in the order of their alpha-rank share, which also ranks where wins go in a circle

Ratings of the first two kinds are one number on a line: rock, paper and scissors all come out alike. Who wins how often
against whom is in the payoff table. Both look at all games at once. Those who are rated are taken not to change, so the
order of games plays no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from malib_lite.config import ConfigError
from malib_lite.population.alpha_rank import alpha_rank

# Elo points per unit of log-odds: 400 points are odds of ten to one.
ELO_SCALE = 400.0 / math.log(10.0)
# TrueSkill's settings: the belief about a player without games, and the noise of what it shows in one (beta); a lead of
# so much in skill wins about 76 % of games without draws.
SKILL_MEAN, SKILL_DEVIATION, SKILL_NOISE = 25.0, 25.0 / 3.0, 25.0 / 6.0

# From leads (P, P) of the row's player over the column's: the log-likelihood of the games that are counted for the
# row's, its slope and its negative curvature by the lead, each (P, P).
Likelihood: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Ratings:
    """Ratings of which only differences mean anything: the players' mean is a convention."""

    values: np.ndarray  # (P,) float64
    covariance: np.ndarray  # (P, P) float64, of the values relative to their mean

    @property
    def errors(self) -> np.ndarray:
        """Standard error (P,) of each rating relative to the mean."""
        return np.sqrt(np.maximum(self.covariance.diagonal(), 0.0))

    def intervals(self, confidence: float = 0.95) -> np.ndarray:
        """Lower and upper bounds (P, 2) that hold each rating with this probability, by the normal approximation."""
        reach = _normal_quantile(0.5 + confidence / 2.0) * self.errors
        return np.stack([self.values - reach, self.values + reach], axis=1)

    def difference(self, first: int, second: int) -> tuple[float, float]:
        """By how much the first is rated above the second, and the standard error of that."""
        pick = np.zeros(len(self.values))
        pick[first] += 1.0
        pick[second] -= 1.0
        return float(pick @ self.values), math.sqrt(max(0.0, float(pick @ self.covariance @ pick)))


def fit_elo(wins: np.ndarray, *, prior_deviation: float = 1000.0) -> Ratings:
    """Elo ratings of largest likelihood: i beats j with probability 1 / (1 + 10^((R_j - R_i) / 400)); mean 0.

    Args:
        wins: (P, P), games that the row's player won against the column's; fractions are allowed, a draw is half a win
            for either (draws vary less than wins and losses, so the errors are then rather too large than too small).
        prior_deviation: a normal prior on every rating, in Elo points. It keeps the rating of who never lost finite and
            moves that of others by little.

    Raises:
        ValueError: the counts have the wrong shape, are negative, or a player has games against itself.
    """
    wins = _counts(wins)

    def likelihood(leads: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        loses = 1.0 / (1.0 + np.exp(leads))
        return -wins * np.logaddexp(0.0, -leads), wins * loses, wins * loses * (1.0 - loses)

    return _fit(likelihood, len(wins), ELO_SCALE, prior_deviation / ELO_SCALE, mean=0.0)[0]


def fit_skills(wins: np.ndarray, draws: np.ndarray) -> Ratings:
    """Skills of largest posterior probability by TrueSkill's model, with its settings; mean 25.

    In a game each player shows its skill with normal noise; who shows more wins, and within a margin it is a draw. So
    draws say that two are about as good, and not only that neither is better. The margin is what makes the games
    likeliest.

    Deviations: TrueSkill works through games one after the other, keeps a belief about each player apart, has skills
    change from game to game, and is given the margin; here the posterior of all skills after all games is approximated
    at its mode. Games are between two; for those of more see :func:`~malib_lite.population.cross_play.head_to_head`.

    Args:
        wins: (P, P), games that the row's player won against the column's; fractions are allowed.
        draws: (P, P) symmetric, drawn games.

    Raises:
        ValueError: the counts have the wrong shape, are negative, or a player has games against itself.
    """
    from scipy.optimize import minimize_scalar  # takes a good part of a second to import

    wins, draws = _counts(wins), _counts(draws)
    if draws.shape != wins.shape or not np.array_equal(draws, draws.T):
        raise ValueError("draws are symmetric: one game is one draw for either player")
    scale = math.sqrt(2.0) * SKILL_NOISE  # of the noise in a lead

    def fit(margin: float) -> tuple[Ratings, float]:
        def likelihood(leads: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            parts = zip(_win(leads - margin), _draw(leads, margin), strict=True)
            total, slope, curvature = (wins * of_win + draws / 2.0 * of_draw for of_win, of_draw in parts)
            return total, slope, curvature

        return _fit(likelihood, len(wins), scale, SKILL_DEVIATION / scale, mean=SKILL_MEAN)

    # Within one deviation of the noise two thirds of the games of equals are drawn, within four all but one in 16,000.
    best = minimize_scalar(lambda margin: -fit(margin)[1], bounds=(0.0, 4.0), method="bounded")
    return fit(float(best.x))[0]


def wins_from_payoffs(
    payoffs: np.ndarray, errors: np.ndarray, *, lowest: float, highest: float, max_games: float = 1000.0
) -> np.ndarray:
    """The win table that says as much as a payoff table with standard errors: for :func:`fit_elo`.

    A payoff is read as a score between 0 (``lowest``) and 1 (``highest``); its entry stands for as many games as give
    the same standard error to a share of wins, s (1 - s) / error^2.

    Args:
        payoffs: (P_1, P_2), of the first player; the second's are taken to be the opposite.
        errors: (P_1, P_2), standard errors, 0 where a payoff is exact.
        lowest: payoff of a loss.
        highest: payoff of a win.
        max_games: what an exact entry, or one without any variation, counts at most.

    Returns:
        Wins (P_1 + P_2, P_1 + P_2): the first player's members, then the second's, which meet only the first's. The
        members of one shared pool have two ratings so, one in each seat.

    Raises:
        ConfigError: a payoff is not between lowest and highest.
    """
    scores = (np.asarray(payoffs, np.float64) - lowest) / (highest - lowest)
    # Bounds that were worked out from the payoffs themselves are rounded, the more so where all payoffs are alike.
    rounding = 1e-9 + 8.0 * np.finfo(np.float64).eps * max(abs(lowest), abs(highest)) / (highest - lowest)
    if not ((scores >= -rounding) & (scores <= 1.0 + rounding)).all():
        raise ConfigError(
            f"payoffs from {np.min(payoffs)} to {np.max(payoffs)} are not between lowest {lowest} and highest {highest}"
        )
    scores = np.clip(scores, 0.0, 1.0)
    # Of a score of 0 or 1 the formula would make no games at all.
    spread = np.maximum(scores * (1.0 - scores), 0.25 / max_games)
    variance = (np.asarray(errors, np.float64) / (highest - lowest)) ** 2
    games = np.minimum(max_games, spread / np.maximum(variance, spread / max_games))
    rows, columns = scores.shape
    wins = np.zeros((rows + columns, rows + columns))
    wins[:rows, rows:] = games * scores
    wins[rows:, :rows] = (games * (1.0 - scores)).T
    return wins


def alpha_ranking(
    payoffs: np.ndarray, *, alpha: float = 4.0, population_size: int = 50
) -> list[list[tuple[int, float]]]:
    """Each player's pool members from the best down, with their share in the alpha-rank distribution.

    Arguments and errors as of :func:`malib_lite.population.alpha_rank.alpha_rank`; ties by index.
    """
    shares = alpha_rank(payoffs, alpha=alpha, population_size=population_size)
    return [[(int(member), float(share[member])) for member in _descending(share)] for share in shares]


# -- inside ------------------------------------------------------------------------------------------------------------


def _counts(games: np.ndarray) -> np.ndarray:
    games = np.asarray(games, np.float64)
    if games.shape != (len(games),) * 2 or (games < 0.0).any() or games.diagonal().any():
        raise ValueError("games are counted in a square table with no negative entries and zeros on its diagonal")
    return games


def _fit(likelihood: Likelihood, size: int, scale: float, deviation: float, mean: float) -> tuple[Ratings, float]:
    """Ratings of largest posterior probability, and its logarithm, by Newton's method: likelihoods are concave.

    Args:
        scale: of the ratings, per unit of a lead.
        deviation: of the normal prior on every strength, in units of a lead.
        mean: of the ratings.
    """
    precision = deviation**-2.0
    # Only differences count, so the mean is held at 0; the prior alone would do the same.
    anchor = np.full((size, size), 1.0 / size)

    def posterior(strengths: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Its logarithm, gradient (P,) and negative Hessian (P, P)."""
        total, slope, curvature = likelihood(strengths[:, None] - strengths[None, :])
        weights = curvature + curvature.T
        gradient = (slope - slope.T).sum(axis=1) - precision * strengths
        value = float(total.sum()) - 0.5 * precision * float(strengths @ strengths)
        return value, gradient, np.diag(weights.sum(axis=1) + precision) - weights + anchor

    strengths = np.zeros(size)
    for _ in range(100):
        value, gradient, hessian = posterior(strengths)
        step = np.linalg.solve(hessian, gradient)
        if np.abs(step).max() < 1e-10:
            break
        length = 1.0
        while posterior(strengths + length * step)[0] < value and length > 1e-6:
            length *= 0.5
        strengths = strengths + length * step
    value, _, hessian = posterior(strengths)
    centre = np.eye(size) - anchor
    covariance = centre @ np.linalg.inv(hessian) @ centre
    return Ratings(mean + scale * (strengths - strengths.mean()), scale**2 * covariance), value


def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri  # takes a fifth of a second to import

    return float(ndtri(probability))


def _win(lead: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithm of the probability that normal noise leaves a lead above 0, its slope and its negative curvature: the
    paper's functions v and w."""
    from scipy.special import log_ndtr

    value = log_ndtr(lead)
    slope = np.exp(_log_density(lead) - value)
    return value, slope, slope * (slope + lead)


def _draw(lead: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for a lead that is left between -margin and margin.

    Worked out for leads of the first player, where both tails of the difference are lower ones and stay exact.
    """
    from scipy.special import log_ndtr

    near, far = margin - np.abs(lead), -margin - np.abs(lead)  # how far the bounds lie above the lead
    log_near = log_ndtr(near)
    value = log_near + np.log1p(-np.exp(log_ndtr(far) - log_near))
    at_near, at_far = (np.exp(_log_density(bound) - value) for bound in (near, far))
    slope = at_far - at_near
    return value, np.sign(lead) * slope, slope**2 + near * at_near - far * at_far


def _log_density(x: np.ndarray) -> np.ndarray:
    return -0.5 * (x * x + math.log(2.0 * math.pi))


def _descending(values: np.ndarray) -> Sequence[int]:
    # What differs by rounding alone is a tie.
    order: list[int] = np.argsort(-values.round(12), kind="stable").tolist()
    return order
