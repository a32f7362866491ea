"""Ratings: one number per player from the games between them, with how sure it is.

    fit_elo      the most likely Elo ratings given all games at once (Bradley and Terry 1952), with standard errors
    TrueSkill    a belief about each skill, updated game by game (Herbrich, Minka and Graepel 2007)
    alpha_ranking   pool members in the order of their alpha-rank share, which also ranks where wins go in a circle

Ratings of the first two kinds are one number on a line: rock, paper and scissors all come out alike. Who wins how often
against whom is in the payoff table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from malib_lite.config import ConfigError
from malib_lite.population.alpha_rank import alpha_rank

# Elo points per unit of log-odds: 400 points are odds of ten to one.
ELO_SCALE = 400.0 / math.log(10.0)


@dataclass(frozen=True)
class EloRatings:
    """Elo ratings relative to the players' mean, which is 0: only differences mean anything."""

    values: np.ndarray  # (P,) float64, Elo points
    covariance: np.ndarray  # (P, P) float64, Elo points squared

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

    def win_probability(self, first: int, second: int) -> float:
        """Expected score of the first against the second."""
        return 1.0 / (1.0 + math.exp((self.values[second] - self.values[first]) / ELO_SCALE))


def fit_elo(wins: np.ndarray, draws: np.ndarray | None = None, *, prior_deviation: float = 1000.0) -> EloRatings:
    """Elo ratings of largest likelihood: i beats j with probability 1 / (1 + 10^((R_j - R_i) / 400)).

    A draw counts as half a win and half a loss. Draws vary less than wins and losses, so the errors are then rather too
    large than too small. The order of games plays no part: players are taken not to change.

    Args:
        wins: (P, P), games that the row's player won against the column's; fractions are allowed.
        draws: (P, P) symmetric, drawn games; none where omitted.
        prior_deviation: a normal prior on every rating, in Elo points. It keeps the rating of who never lost finite and
            moves that of others by little. ``math.inf`` is plain maximum likelihood.

    Raises:
        ConfigError: without a prior, some players never lost (or drew) against the rest, so nothing bounds their lead
            (Ford 1957).
        ValueError: the counts have the wrong shape, are negative, or a player has games against itself.
    """
    scores = np.asarray(wins, np.float64)
    if draws is not None:
        if not np.array_equal(draws, np.transpose(draws)):
            raise ValueError("draws are symmetric: one game is one draw for either player")
        scores = scores + 0.5 * np.asarray(draws, np.float64)
    size = len(scores)
    if scores.shape != (size, size) or (scores < 0.0).any() or scores.diagonal().any():
        raise ValueError("games are counted in a square table with no negative entries and zeros on its diagonal")
    if math.isinf(prior_deviation) and not _all_reach_all(scores > 0.0):
        raise ConfigError(
            "prior_deviation = inf: some players never lost to the others, so the likelihood has no maximum; "
            "give a finite one, 1000 for example"
        )
    games = scores + scores.T
    precision = (ELO_SCALE / prior_deviation) ** 2
    # Only differences count, so the mean is held at 0; the prior alone would do the same.
    anchor = np.full((size, size), 1.0 / size)

    def log_likelihood(strengths: np.ndarray) -> float:
        lead = strengths[:, None] - strengths[None, :]
        return float(-(scores * np.logaddexp(0.0, -lead)).sum() - 0.5 * precision * strengths @ strengths)

    def information(strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        expected = 1.0 / (1.0 + np.exp(strengths[None, :] - strengths[:, None]))
        weights = games * expected * (1.0 - expected)
        gradient = (scores - games * expected).sum(axis=1) - precision * strengths
        return gradient, np.diag(weights.sum(axis=1) + precision) - weights + anchor

    strengths = np.zeros(size)  # in log-odds
    for _ in range(100):
        gradient, hessian = information(strengths)
        step = np.linalg.solve(hessian, gradient)
        if np.abs(step).max() < 1e-10:
            break
        length, start = 1.0, log_likelihood(strengths)
        while log_likelihood(strengths + length * step) < start and length > 1e-6:
            length *= 0.5
        strengths = strengths + length * step
    centre = np.eye(size) - anchor
    covariance = centre @ np.linalg.inv(information(strengths)[1]) @ centre
    return EloRatings(ELO_SCALE * (strengths - strengths.mean()), ELO_SCALE**2 * covariance)


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
    if not ((scores >= 0.0) & (scores <= 1.0)).all():
        raise ConfigError(
            f"payoffs from {np.min(payoffs)} to {np.max(payoffs)} are not between lowest {lowest} and highest {highest}"
        )
    # Of a score of 0 or 1 the formula would make no games at all.
    spread = np.maximum(scores * (1.0 - scores), 0.25 / max_games)
    variance = (np.asarray(errors, np.float64) / (highest - lowest)) ** 2
    games = np.minimum(max_games, spread / np.maximum(variance, spread / max_games))
    rows, columns = scores.shape
    wins = np.zeros((rows + columns, rows + columns))
    wins[:rows, rows:] = games * scores
    wins[rows:, :rows] = (games * (1.0 - scores)).T
    return wins


class Skill(NamedTuple):
    """What is believed about a player's skill: a normal distribution."""

    mean: float
    deviation: float

    @property
    def conservative(self) -> float:
        """Three standard deviations below the mean: what leader boards show."""
        return self.mean - 3.0 * self.deviation

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Bounds that hold the skill with this probability, by this belief."""
        reach = _normal_quantile(0.5 + confidence / 2.0) * self.deviation
        return self.mean - reach, self.mean + reach


@dataclass(frozen=True)
class TrueSkill:
    """TrueSkill for games of two (Herbrich, Minka and Graepel 2007, section 3 and its appendix).

    In a game each player shows its skill with normal noise; who shows more wins, and within a margin it is a draw. The
    belief afterwards is the normal distribution with the mean and variance of the true posterior (assumed density
    filtering). Games are worked through one after the other and their order matters a little: what a game says depends
    on the beliefs at that time, and earlier games are not seen again. Games tell differences only: a deviation says how
    sure a skill is relative to the players around it, and the level of all of them stays where it began.

    Deviation: two single players only, so the paper's factor graph of teams comes down to closed formulas.
    """

    mean: float = 25.0
    deviation: float = 25.0 / 3.0
    noise: float = 25.0 / 6.0  # beta: a lead of this much in skill wins about 76 % of games
    drift: float = 25.0 / 300.0  # tau: standard deviation of the change in skill before each game
    draw_probability: float = 0.1  # between players of the same skill

    def __post_init__(self) -> None:
        if not 0.0 <= self.draw_probability < 1.0 or min(self.deviation, self.noise) <= 0.0 or self.drift < 0.0:
            raise ConfigError(f"{self}: deviations are more than 0, and the draw probability is in [0, 1)")

    @property
    def new(self) -> Skill:
        """The belief about a player without games."""
        return Skill(self.mean, self.deviation)

    def update(self, first: Skill, second: Skill, score: float) -> tuple[Skill, Skill]:
        """Beliefs after a game: ``score`` 1 if the first won, 0.5 for a draw, 0 if the second won.

        Raises:
            ValueError: another score, or a draw where none can be.
        """
        if score == 0.0:
            winner, loser = self.update(second, first, 1.0)
            return loser, winner
        variances = [skill.deviation**2 + self.drift**2 for skill in (first, second)]
        total = math.sqrt(2.0 * self.noise**2 + sum(variances))  # c in the paper
        lead = (first.mean - second.mean) / total
        margin = _normal_quantile(0.5 + self.draw_probability / 2.0) * math.sqrt(2.0) * self.noise / total
        if score == 1.0:
            shift, shrink = _win_corrections(lead - margin)
        elif score == 0.5 and margin > 0.0:
            shift, shrink = _draw_corrections(lead, margin)
        else:
            raise ValueError(f"a score of {score} with a draw probability of {self.draw_probability}")
        return (
            _corrected(first.mean, variances[0], total, shift, shrink),
            _corrected(second.mean, variances[1], total, -shift, shrink),
        )

    def rate(self, size: int, games: Iterable[tuple[int, int, float]]) -> list[Skill]:
        """Beliefs about ``size`` players after games ``(first, second, score)`` in the order they were played."""
        skills = [self.new] * size
        for first, second, score in games:
            skills[first], skills[second] = self.update(skills[first], skills[second], score)
        return skills


def alpha_ranking(
    payoffs: np.ndarray, *, alpha: float = 4.0, population_size: int = 50
) -> list[list[tuple[int, float]]]:
    """Each player's pool members from the best down, with their share in the alpha-rank distribution.

    Arguments and errors as of :func:`malib_lite.population.alpha_rank.alpha_rank`; ties by index.
    """
    shares = alpha_rank(payoffs, alpha=alpha, population_size=population_size)
    return [[(int(member), float(share[member])) for member in _descending(share)] for share in shares]


def _descending(values: np.ndarray) -> Sequence[int]:
    # What differs by rounding alone is a tie.
    order: list[int] = np.argsort(-values.round(12), kind="stable").tolist()
    return order


def _all_reach_all(edges: np.ndarray) -> bool:
    """Whether a path leads from every node to every other; ``edges`` (P, P) bool."""
    reach = edges | np.eye(len(edges), dtype=bool)
    for _ in range(len(edges).bit_length()):
        reach = reach @ reach
    return bool(reach.all())


def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))


def _win_corrections(lead: float) -> tuple[float, float]:
    """v and w of a win by more than the margin: mean and variance lost by cutting a normal distribution at 0."""
    from scipy.special import log_ndtr

    shift = math.exp(_log_density(lead) - float(log_ndtr(lead)))
    return shift, shift * (shift + lead)


def _draw_corrections(lead: float, margin: float) -> tuple[float, float]:
    """v and w of a draw: the same for cutting on both sides, at -margin and margin.

    Worked out for a lead of the first player, where both tails of the quotient are lower ones and stay exact.
    """
    from scipy.special import log_ndtr

    if lead < 0.0:
        shift, shrink = _draw_corrections(-lead, margin)
        return -shift, shrink
    near, far = margin - lead, -margin - lead  # how far the bounds lie above the mean
    log_near, log_far = float(log_ndtr(near)), float(log_ndtr(far))
    log_mass = log_near + math.log1p(-math.exp(log_far - log_near))
    at_near, at_far = (math.exp(_log_density(bound) - log_mass) for bound in (near, far))
    shift = at_far - at_near
    return shift, shift**2 + near * at_near - far * at_far


def _log_density(x: float) -> float:
    return -0.5 * (x * x + math.log(2.0 * math.pi))


def _corrected(mean: float, variance: float, total: float, shift: float, shrink: float) -> Skill:
    return Skill(mean + variance / total * shift, math.sqrt(variance * max(1e-12, 1.0 - variance / total**2 * shrink)))
