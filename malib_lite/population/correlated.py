"""Joint meta-solvers: one distribution over joint choices, for games of any number of players and any sums.

``solve(payoffs) -> joint`` takes the payoffs (N, P_1, ..., P_N) and returns a distribution (P_1, ..., P_N) from which
a mediator draws. Meta-solvers in :mod:`malib_lite.population.meta_solvers` let every player draw alone instead. The
difference reaches the oracle (joint policy-space response oracles, Marris et al. 2021):

    coarse correlated equilibrium   nobody gains by a strategy chosen *before* the draw. A best response is trained
    (CCE)                           against :func:`cce_opponents`, the others' part of the draw.
    correlated equilibrium (CE)     nobody gains by departing from the strategy that the mediator *tells* it. One best
                                    response per recommendation, against :func:`ce_opponents`, what the others do when
                                    this one is told that.

Every Nash equilibrium is a CE and every CE is a CCE, and all are found by convex programs. Among the many:

    max_welfare_cce, max_welfare_ce   largest sum of the players' payoffs; a linear program
    max_entropy_cce, max_entropy_ce   largest Shannon entropy; a convex program with one solution, where the other may
                                      stop at any of many (Ortiz, Schapire and Kakade 2007)

Deviation: Marris et al. maximise the Gini impurity, a quadratic program over the same sets. Entropy, too, spreads the
draw as evenly as the incentives allow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from malib_lite.config import ConfigError, suggest
from malib_lite.population.dominance import restrict, undominated, unit
from malib_lite.population.normal_form import check_table, distribution, normalise

JointSolver: TypeAlias = Callable[[np.ndarray], np.ndarray]

# Joint profiles that the maximum entropy programs take: they solve dense systems of this size.
MAX_JOINT_PROFILES = 2048
# What incentives may leave to gain before they are scaled, as a part of what they usually are.
ACCURACY = 1e-8
# What a player may gain by departing from a joint distribution of largest welfare, as a part of what is played for.
WELFARE_ACCURACY = 1e-6
MAX_NEWTON_STEPS = 200  # about 25 are needed


def max_welfare_cce(payoffs: np.ndarray) -> np.ndarray:
    """The coarse correlated equilibrium with the largest sum of payoffs; a vertex of them where there are many.

    Where payoffs differ by too many orders of magnitude for double precision, it is that with the largest sum among
    those that never play a strictly dominated strategy.
    """
    game = normalise(payoffs)
    joint = _max_welfare(game, _cce_incentives(game))
    if cce_gains(payoffs, joint).max() <= WELFARE_ACCURACY * unit(payoffs):
        return joint
    part, kept = _undominated(payoffs)
    return _among_all(_max_welfare(part, _cce_incentives(part)), kept, payoffs)


def max_welfare_ce(payoffs: np.ndarray) -> np.ndarray:
    """The correlated equilibrium with the largest sum of payoffs; a vertex of them where there are many."""
    game, kept = _undominated(payoffs)
    return _among_all(_max_welfare(game, _ce_incentives(game)), kept, payoffs)


def max_entropy_cce(payoffs: np.ndarray, *, epsilon: float = 1e-6) -> np.ndarray:
    """The coarse correlated equilibrium of largest entropy.

    Args:
        payoffs: (N, P_1, ..., P_N).
        epsilon: what a player may still gain, in units of the payoff range of what is not strictly dominated; more than
            0. What an exact equilibrium never plays gets a probability of about this size. Of a zero-sum game the
            equilibria may be a single point, and epsilon is all the room there is: 1e-8 is too little for some.

    Returns:
        Joint distribution (P_1, ..., P_N). Where payoffs differ by too many orders of magnitude for double precision,
        the one of largest entropy among those that never play a strictly dominated strategy.

    Raises:
        ConfigError: more than ``MAX_JOINT_PROFILES`` joint profiles, or an epsilon that is not positive.
        RuntimeError: epsilon is too small for double precision.
    """
    game, kept = _undominated(payoffs)
    if game.size < np.size(payoffs):
        # A strictly dominated strategy may well have a place in a coarse correlated equilibrium.
        whole = check_table(payoffs) / unit(payoffs)
        try:
            joint = _max_entropy(whole, _cce_incentives(whole), epsilon)
            if cce_gains(whole, joint).max() <= 2.0 * epsilon:
                return joint
        except RuntimeError:  # of the program alone: what is asked for was checked before
            pass
    return _among_all(_max_entropy(game, _cce_incentives(game), epsilon), kept, payoffs)


def max_entropy_ce(payoffs: np.ndarray, *, epsilon: float = 1e-6) -> np.ndarray:
    """The correlated equilibrium of largest entropy; arguments and errors as of :func:`max_entropy_cce`.

    ``epsilon`` bounds what a recommendation leaves to gain, times the recommendation's probability. Strictly dominated
    strategies are never recommended.
    """
    game, kept = _undominated(payoffs)
    return _among_all(_max_entropy(game, _ce_incentives(game), epsilon), kept, payoffs)


JOINT_SOLVERS: dict[str, JointSolver] = {
    "max_welfare_cce": max_welfare_cce,
    "max_welfare_ce": max_welfare_ce,
    "max_entropy_cce": max_entropy_cce,
    "max_entropy_ce": max_entropy_ce,
}


# Joint profiles that solvers of a limited size take, by name.
JOINT_PROFILE_LIMITS = dict.fromkeys(("max_entropy_cce", "max_entropy_ce"), MAX_JOINT_PROFILES)


def get_joint_solver(solver: str | JointSolver) -> JointSolver:
    """The joint meta-solver of that name, or ``solver`` itself where it is a function already."""
    if callable(solver):
        return solver
    if solver not in JOINT_SOLVERS:
        raise ConfigError(f"unknown joint meta-solver {solver!r}: {suggest(str(solver), JOINT_SOLVERS)}")
    return JOINT_SOLVERS[solver]


def cce_opponents(joint: np.ndarray, player: int) -> np.ndarray:
    """What the others play, whatever ``player`` is told: (P of the other players in order), sums to 1."""
    return joint.sum(axis=player)


def ce_opponents(joint: np.ndarray, player: int, *, min_probability: float = 1e-6) -> dict[int, np.ndarray]:
    """What the others play given each recommendation to ``player`` that has at least ``min_probability``.

    Returns:
        By the player's own strategy: distribution (P of the other players in order).
    """
    by_recommendation = np.moveaxis(joint, player, 0)
    return {
        own: others / others.sum() for own, others in enumerate(by_recommendation) if others.sum() >= min_probability
    }


def cce_gains(payoffs: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """What each player (N,) would gain by the best strategy chosen before the draw; none positive at a CCE."""
    gains = []
    for player, payoff in enumerate(payoffs):
        values = np.moveaxis(payoff, player, 0).reshape(joint.shape[player], -1) @ joint.sum(axis=player).ravel()
        gains.append(values.max() - (payoff * joint).sum())
    return np.array(gains)


def ce_gains(payoffs: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """What each player (N,) would gain by the best answer to every recommendation; all 0 at a CE, never below."""
    gains = []
    for player, payoff in enumerate(payoffs):
        values = np.moveaxis(payoff, player, 0).reshape(joint.shape[player], -1)
        told = np.moveaxis(joint, player, 0).reshape(joint.shape[player], -1)
        worth = told @ values.T  # [recommended, played]
        gains.append((worth.max(axis=1) - worth.diagonal()).sum())
    return np.array(gains)


def _undominated(payoffs: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The game without its strictly dominated strategies, normalised, and which strategies it has."""
    payoffs = check_table(payoffs)
    kept = undominated(payoffs)
    return normalise(restrict(payoffs, kept)), kept


def _among_all(joint: np.ndarray, kept: list[np.ndarray], payoffs: np.ndarray) -> np.ndarray:
    """The joint distribution over all strategies from that over the strategies that are kept."""
    whole = np.zeros(np.shape(payoffs)[1:])
    whole[np.ix_(*kept)] = joint
    return whole


def _cce_incentives(game: np.ndarray) -> np.ndarray:
    """Matrix A (sum of P_n, joint profiles): A @ joint is what each fixed strategy gains over the draw."""
    rows = []
    for player, payoff in enumerate(game):
        for own in range(game.shape[1 + player]):
            instead = np.take(payoff, [own], axis=player)  # the player's axis has length 1 and is spread again
            rows.append((instead - payoff).ravel())
    return np.array(rows)


def _ce_incentives(game: np.ndarray) -> Any:
    """Sparse matrix A (sum of P_n (P_n - 1), joint profiles): what another strategy gains, told a certain one.

    A row is the gain times the probability of the recommendation, so that it is linear in the joint distribution.
    """
    from scipy.sparse import csr_array  # scipy takes long to import, and only some solvers need it

    profiles = np.arange(game[0].size).reshape(game.shape[1:])
    values, columns, ends = [np.zeros(0)], [np.zeros(0, np.intp)], [0]
    for player, payoff in enumerate(game):
        by_strategy = np.moveaxis(payoff, player, 0).reshape(game.shape[1 + player], -1)
        index = np.moveaxis(profiles, player, 0).reshape(by_strategy.shape)
        for told, told_values in enumerate(by_strategy):
            for own, own_values in enumerate(by_strategy):
                if own != told:
                    values.append(own_values - told_values)
                    columns.append(index[told])
                    ends.append(ends[-1] + len(own_values))
    return csr_array((np.concatenate(values), np.concatenate(columns), ends), shape=(len(ends) - 1, profiles.size))


def _max_welfare(game: np.ndarray, incentives: Any) -> np.ndarray:
    """Maximise the sum of payoffs over joint distributions with ``incentives @ joint <= 0``.

    The program's tolerances are absolute. Where they leave more to gain than a small part of what an incentive usually
    is, every incentive gets a unit of its own, which changes no equilibrium.
    """
    from scipy.sparse import csr_array, diags_array  # scipy takes long to import, and only some solvers need it

    joint = _welfare_program(game, incentives)
    rows = csr_array(incentives)
    units = np.array([_usual(rows.data[start:end]) for start, end in itertools.pairwise(rows.indptr)])
    gains = lambda joint: (rows @ joint.ravel() / units).max(initial=0.0)  # noqa: E731
    if joint is None or gains(joint) > ACCURACY:
        # Where payoffs differ in size by so much, the simplex method at times gives up; interior points do not.
        again = _welfare_program(game, diags_array(1.0 / units) @ rows, method="highs-ipm")
        if joint is None or (again is not None and gains(again) < gains(joint)):
            joint = again
    if joint is None:
        raise RuntimeError("the linear program for the correlated equilibrium was not solved")
    return joint


def _usual(values: np.ndarray) -> float:
    """Size of the values that are not zero, which half of them do not exceed; 1 where all are."""
    sizes = np.sort(np.abs(values[values != 0.0]))
    return float(sizes[(len(sizes) - 1) // 2]) if sizes.size else 1.0


def _welfare_program(game: np.ndarray, incentives: Any, method: str = "highs") -> np.ndarray | None:
    """The program's solution; None where there was none."""
    from scipy.optimize import linprog

    welfare = game.sum(axis=0)
    solution = linprog(
        c=-welfare.ravel(),
        A_ub=incentives if incentives.shape[0] else None,
        b_ub=np.zeros(incentives.shape[0]) if incentives.shape[0] else None,
        A_eq=np.ones((1, welfare.size)),
        b_eq=[1.0],
        method=method,
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solution.status != 0 or not (solution.x > 0.0).any():
        return None
    return distribution(solution.x).reshape(welfare.shape)


def _max_entropy(game: np.ndarray, incentives: Any, epsilon: float) -> np.ndarray:
    """Maximise the entropy over joint distributions x with A x <= epsilon, A the incentives.

    A primal-dual interior-point method (Boyd and Vandenberghe 2004, section 11.7) on the conditions of optimality.
    With slacks s and prices y of the constraints, prices w of x >= 0 and a price z of the sum, they are

        log x + A^T y + z = w        A x + s = epsilon        sum(x) = 1        s_k y_k = 0        x_i w_i = 0

    Newton's steps meet the first three while the products, all positive, go to 0 together. Entropy alone would keep x
    positive, but what must vanish would then have to fall to e^-1000 instead of to epsilon.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.sparse import diags_array

    if not epsilon > 0.0:
        raise ConfigError(f"epsilon = {epsilon} of maximum entropy: more than 0, or there may be no interior")
    num_constraints, num_profiles = incentives.shape
    if num_profiles > MAX_JOINT_PROFILES:
        raise ConfigError(
            f"maximum entropy takes up to {MAX_JOINT_PROFILES} joint profiles, not {num_profiles}: "
            "choose max_welfare_cce or max_welfare_ce"
        )
    x, w = np.full(num_profiles, 1.0 / num_profiles), np.ones(num_profiles)
    s, y, z = np.ones(num_constraints), np.ones(num_constraints), 0.0
    length = 1.0
    for _ in range(MAX_NEWTON_STEPS):
        gap = s @ y + x @ w
        stationary = np.log(x) + incentives.T @ y + z - w
        gained = incentives @ x + s - epsilon
        missing = 1.0 - x.sum()
        if max(gap, np.abs(x * stationary).sum(), np.abs(gained).max(initial=0.0)) < 0.1 * epsilon:
            return distribution(x).reshape(game.shape[1:])
        # After a short step the next one first returns to the middle.
        target = max(0.1, 1.0 - length) * gap / (num_profiles + num_constraints)
        # The other steps put into the first condition leave ((1 + w)/x + A^T (y/s) A) dx + dz = right.
        right = incentives.T @ ((s * y - target - y * gained) / s) - stationary - (x * w - target) / x
        root = np.sqrt(x / (1.0 + w))
        scaled = diags_array(np.sqrt(y / s)) @ incentives @ diags_array(root)
        try:
            factor = cho_factor(scaled.T @ scaled + np.eye(num_profiles))
        except np.linalg.LinAlgError:  # what should be positive definite is so no more after rounding
            break
        toward = root * cho_solve(factor, root * right)
        across = root * cho_solve(factor, root)
        dz = (toward.sum() - missing) / across.sum()
        dx = toward - dz * across
        ds = -gained - incentives @ dx
        dy = -(s * y - target + y * ds) / s
        dw = -(x * w - target + w * dx) / x
        limits = [float((-d / v).max()) for v, d in ((x, dx), (w, dw), (s, ds), (y, dy)) if len(d)]
        length = min(1.0, 0.95 / max(1e-9, *limits))
        x, w, s, y, z = x + length * dx, w + length * dw, s + length * ds, y + length * dy, z + length * dz
    raise RuntimeError(f"the entropy program for the correlated equilibrium was not solved with epsilon = {epsilon}")
