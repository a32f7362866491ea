"""Meta-solvers: from the payoffs between pool members to one mixture per player.

A meta-solver is a pure function ``solve(payoffs) -> mixtures``: ``payoffs[n, i_1, ..., i_N]`` is the expected return
of player n when every player k plays its strategy i_k, and ``mixtures[n]`` is a distribution over the P_n strategies
of player n. No solver draws a random number, so the same table always gives the same mixtures.

Every solver first shifts and scales the payoffs so that they span one unit. Equilibria do not change, and step sizes,
selection intensities and tolerances mean the same in every game.

    nash                 linear program; two players, zero-sum or constant-sum; exact
    fictitious_play      Brown (1951)
    prd                  projected replicator dynamics, Lanctot et al. (2017)
    replicator_dynamics  Taylor and Jonker (1978), without a floor of exploration
    alpha_rank           Omidshafiei et al. (2019)
    uniform              every strategy alike; with best responses to it, the outer loop is fictitious play

Other settings than the defaults: ``functools.partial(prd, gamma=0.05)`` is a meta-solver too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from malib_lite.config import ConfigError, suggest

MetaSolver: TypeAlias = Callable[[np.ndarray], list[np.ndarray]]

# Largest departure from a constant sum, as a part of the payoff range, that still counts as rounding.
ZERO_SUM_TOLERANCE = 1e-6
# Joint profiles that alpha_rank takes (two pools of 32): time grows with the cube, about a second here.
MAX_JOINT_PROFILES = 1024
# Payoffs nearer than this, in units of the payoff range, are a tie in fictitious play.
TIE = 1e-12
# Rates of the alpha-rank chain stay above e^-230 = 1e-100, so that products of three of them are still numbers.
LOWEST_LOG_RATE = -230.0


def is_constant_sum(payoffs: np.ndarray) -> bool:
    """Whether this is a table (2, P_1, P_2) of two players whose payoffs add up to a constant."""
    return len(payoffs) == 2 and bool(np.ptp(_normalise(payoffs).sum(axis=0)) <= ZERO_SUM_TOLERANCE)


def uniform(payoffs: np.ndarray) -> list[np.ndarray]:
    """Every strategy with the same probability; of ``payoffs`` (N, P_1, ..., P_N) only the shape matters."""
    return [np.full(size, 1.0 / size) for size in np.shape(payoffs)[1:]]


def nash(payoffs: np.ndarray) -> list[np.ndarray]:
    """Nash equilibrium of a two-player constant-sum game, by one linear program.

    The first player maximises the value v that its mixture x guarantees: max v with x^T A >= v, sum(x) = 1, x >= 0.
    The dual variables of the guarantees are the second player's equilibrium mixture (von Neumann's minimax theorem,
    as a program: Dantzig 1951). Where there are many equilibria, the result is the vertex that the simplex method
    reaches; all have the same value.

    Args:
        payoffs: (2, P_1, P_2).

    Returns:
        Mixtures (P_1,) and (P_2,).

    Raises:
        ConfigError: not two players, or their payoffs do not add up to a constant.
    """
    from scipy.optimize import linprog  # takes a good part of a second to import, and only this solver needs it

    game = _normalise(payoffs)
    others = "choose prd, replicator_dynamics, fictitious_play, alpha_rank or uniform"
    if len(game) != 2:
        raise ConfigError(f"meta-solver 'nash' is for two players and this game has {len(game)}: {others}")
    if not is_constant_sum(payoffs):
        gap = np.ptp(game.sum(axis=0))
        raise ConfigError(
            "meta-solver 'nash' is for zero-sum games, and the two players' payoffs do not add up to a constant "
            f"(the sum varies by {gap:.2g} of the payoff range): {others}"
        )
    matrix = (game[0] - game[1]) / 2.0  # (P_1, P_2); spreads what rounding is left over both players
    rows, columns = matrix.shape
    solution = linprog(
        c=np.append(np.zeros(rows), -1.0),  # variables: x_1 .. x_P, v; linprog minimises
        A_ub=np.column_stack([-matrix.T, np.ones(columns)]),
        b_ub=np.zeros(columns),
        A_eq=np.append(np.ones(rows), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0.0, None)] * rows + [(None, None)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solution.status != 0:
        raise RuntimeError(f"the linear program for the Nash equilibrium was not solved: {solution.message}")
    return [_distribution(solution.x[:-1]), _distribution(-solution.ineqlin.marginals)]


def fictitious_play(payoffs: np.ndarray, *, num_iterations: int = 10_000) -> list[np.ndarray]:
    """Time-averaged play when each player in turn answers what the others played so far (Brown 1951).

    The players move one after the other, as in Brown's paper: each sees the newest move of those before it. On zero-sum
    games this comes several times nearer to equilibrium than simultaneous moves. Beliefs start uniform, with the weight
    of one observation, and this start is not part of the average: a strategy never chosen has probability 0.

    Args:
        payoffs: (N, P_1, ..., P_N).
        num_iterations: moves per player; the error shrinks roughly with its square root.

    Returns:
        One distribution (P_n,) per player.
    """
    rows = _own_axis_first(_normalise(payoffs))
    beliefs = uniform(payoffs)  # (P_n,) each: how often each strategy was played
    for iteration in range(num_iterations):
        # Products of counts instead of probabilities: one division less, so the tie margin grows along.
        margin = TIE * (iteration + 2.0) ** (len(rows) - 1)
        for player, belief in enumerate(beliefs):
            values = _deviation_values(rows, beliefs, player)
            # The margin makes the lowest index win a tie whatever the rounding of the matrix product.
            belief[(values >= values.max() - margin).argmax()] += 1.0
    return [_distribution(belief - start) for belief, start in zip(beliefs, uniform(payoffs), strict=True)]


def prd(
    payoffs: np.ndarray, *, gamma: float = 1e-3, step: float = 0.03, num_iterations: int = 10_000
) -> list[np.ndarray]:
    """Projected replicator dynamics, averaged over time (Lanctot et al. 2017, section 3.1).

    From uniform mixtures, Euler steps of dx_i/dt = x_i (u_i - x . u), with u the values of a player's own strategies
    against the others' mixtures; after each step the mixture goes to the nearest point, in Euclidean distance, of the
    simplex on which no strategy has less than gamma / P_n. So no policy of a pool is ever left without opponents.

    Known limit: a Euclidean projection takes the same amount from rare and from frequent strategies, which can hold
    a rare one at the floor although it gains. The other solvers come nearer to an equilibrium.

    Args:
        payoffs: (N, P_1, ..., P_N).
        gamma: probability that is spread evenly over all strategies, in [0, 1].
        step: 1 would double a strategy that is better than its player's average by the whole payoff range.
        num_iterations: number of steps.

    Returns:
        One distribution (P_n,) per player, no entry below gamma / P_n.
    """
    if not 0.0 <= gamma <= 1.0:
        raise ConfigError(f"gamma = {gamma} of projected replicator dynamics is a probability: 0 <= gamma <= 1")
    rows = _own_axis_first(_normalise(payoffs))
    mixtures = uniform(payoffs)
    totals = [np.zeros_like(mixture) for mixture in mixtures]
    for _ in range(num_iterations):
        values = [_deviation_values(rows, mixtures, player) for player in range(len(rows))]
        for player, (x, u) in enumerate(zip(mixtures, values, strict=True)):
            mixtures[player] = _project(x + step * x * (u - x @ u), gamma / len(x))
            totals[player] += mixtures[player]
    return [_distribution(total) for total in totals]


def replicator_dynamics(payoffs: np.ndarray, *, step: float = 0.1, num_iterations: int = 10_000) -> list[np.ndarray]:
    """Replicator dynamics of one population per player (Taylor and Jonker 1978), averaged over time.

    :func:`prd` without the floor, so what does badly dies out. Arguments and result as there.
    """
    return prd(payoffs, gamma=0.0, step=step, num_iterations=num_iterations)


def alpha_rank(payoffs: np.ndarray, *, alpha: float = 4.0, population_size: int = 50) -> list[np.ndarray]:
    """Marginals of the alpha-rank distribution, one population per player (Omidshafiei et al. 2019).

    A Markov chain over joint pure profiles: one player at a time tries another strategy, and it takes over that
    player's population with the fixation probability rho of :func:`_log_fixation`. The stationary distribution says how
    much time evolution spends in each profile. Deviation: alpha multiplies the normalised payoffs. A very large alpha
    comes to the paper's infinite-alpha chain, in which every harmful change has the same tiny rate.

    Args:
        payoffs: (N, P_1, ..., P_N).
        alpha: intensity of selection, per payoff range.
        population_size: individuals per population, m in the paper; at least 2.

    Returns:
        One distribution (P_n,) per player. The product of the marginals need not be the joint distribution.

    Raises:
        ConfigError: more than ``MAX_JOINT_PROFILES`` joint profiles.
    """
    game = _normalise(payoffs)
    shape = game.shape[1:]
    if game[0].size > MAX_JOINT_PROFILES:
        raise ConfigError(
            f"meta-solver 'alpha_rank' takes up to {MAX_JOINT_PROFILES} joint profiles, not {game[0].size}: "
            "choose prd, replicator_dynamics, fictitious_play or uniform"
        )
    profiles = np.arange(game[0].size).reshape(shape)
    rates = np.zeros((profiles.size, profiles.size))
    for player in range(len(game)):
        payoff = np.moveaxis(game[player], player, -1)  # (other players' strategies, P_n)
        index = np.moveaxis(profiles, player, -1)
        gain = payoff[..., None, :] - payoff[..., :, None]  # [..., from, to]
        rates[index[..., :, None], index[..., None, :]] = np.exp(_log_fixation(gain, alpha, population_size))
    np.fill_diagonal(rates, 0.0)
    joint = _stationary(rates).reshape(shape)
    return [np.moveaxis(joint, player, 0).reshape(size, -1).sum(axis=1) for player, size in enumerate(shape)]


META_SOLVERS: dict[str, MetaSolver] = {
    "nash": nash,
    "fictitious_play": fictitious_play,
    "prd": prd,
    "replicator_dynamics": replicator_dynamics,
    "alpha_rank": alpha_rank,
    "uniform": uniform,
}


def get_meta_solver(solver: str | MetaSolver) -> MetaSolver:
    """The meta-solver of that name, or ``solver`` itself where it is a function already."""
    if callable(solver):
        return solver
    if solver not in META_SOLVERS:
        raise ConfigError(f"unknown meta-solver {solver!r}: {suggest(str(solver), META_SOLVERS)}")
    return META_SOLVERS[solver]


def _normalise(payoffs: np.ndarray) -> np.ndarray:
    """Check a payoff table (N, P_1, ..., P_N); shift each player's payoffs to start at 0, scale all to span 1."""
    payoffs = np.asarray(payoffs, dtype=np.float64)
    if payoffs.ndim < 2 or payoffs.ndim != len(payoffs) + 1 or payoffs.size == 0:
        raise ValueError(f"payoffs of N players have the shape (N, P_1, ..., P_N), not {payoffs.shape}")
    if not np.isfinite(payoffs).all():
        raise ValueError("payoffs have entries that are not finite: were all match-ups evaluated?")
    profile_axes = tuple(range(1, payoffs.ndim))
    shifted = payoffs - payoffs.min(axis=profile_axes, keepdims=True)
    # The second bound keeps rounding errors between strategies that are alike from being blown up to full scale.
    scale = max(float(shifted.max()), 1e-9 * float(np.abs(payoffs).max()))
    return shifted / scale if scale > 0.0 else shifted


def _own_axis_first(game: np.ndarray) -> list[np.ndarray]:
    """Each player's payoffs as (P_n, P of the other players in order)."""
    return [np.ascontiguousarray(np.moveaxis(payoff, player, 0)) for player, payoff in enumerate(game)]


def _deviation_values(rows: list[np.ndarray], weights: list[np.ndarray], player: int) -> np.ndarray:
    """(P_n,) payoff of each own strategy, the others weighted by ``weights``; rows as from _own_axis_first."""
    values = rows[player]
    for other in range(len(weights) - 1, -1, -1):
        if other != player:
            values = values @ weights[other]  # sums over the last axis
    return values


def _distribution(weights: np.ndarray) -> np.ndarray:
    """Clear the small negative entries that rounding leaves, and let the rest sum to one."""
    weights = np.clip(weights, 0.0, None)
    return weights / weights.sum()


def _project(x: np.ndarray, floor: float) -> np.ndarray:
    """Nearest point to x (P,) among the distributions with no entry below floor (Duchi et al. 2008, figure 1)."""
    if x.min() >= floor:  # inside already: only the sum's rounding error is taken back, before it can grow
        return x / x.sum()
    above = x - floor
    ordered = np.sort(above)[::-1]
    # All entries go down by one threshold and are cut at the floor; those above their own threshold are not cut.
    thresholds = (np.cumsum(ordered) - (1.0 - len(x) * floor)) / np.arange(1, len(x) + 1)
    kept = max(1, int(np.count_nonzero(ordered > thresholds)))
    return np.maximum(above - thresholds[kept - 1], 0.0) + floor


def _log_fixation(gain: np.ndarray, alpha: float, population_size: int) -> np.ndarray:
    """Logarithm of the probability that one mutant takes over a population of size m (Omidshafiei et al. 2019).

    rho = (1 - e^(-alpha gain)) / (1 - e^(-m alpha gain)), and 1/m where the gain is 0. With s = alpha |gain|, a loss
    gives e^(-(m-1) s) times what the same gain would: no exponential can overflow.
    """
    selection = np.maximum(alpha * np.abs(gain), 1e-12)  # at 1e-12 the ratio below is 1/m to twelve digits
    log_rho = np.log(np.expm1(-selection) / np.expm1(-population_size * selection))
    log_rho -= np.where(gain < 0.0, (population_size - 1) * selection, 0.0)
    return np.maximum(log_rho, LOWEST_LOG_RATE)


def _stationary(rates: np.ndarray) -> np.ndarray:
    """Stationary distribution (S,) of the Markov chain with ``rates[i, j]`` from state i to j, diagonal 0.

    Elimination of states one by one without a subtraction (Grassmann, Taksar and Heyman 1985): each entry keeps its
    relative accuracy even where rates differ by 200 orders of magnitude and an eigenvector solver returns noise.
    Taking the most quickly left state first keeps every ratio between 0 and 1.
    """
    rates = rates.copy()
    order = np.arange(len(rates))
    last = len(rates) - 1
    while last > 0:
        outflow = rates[: last + 1, : last + 1].sum(axis=1)
        pivot = outflow.argmax()
        if outflow[pivot] == 0.0:  # what is left differs by less than the smallest number: a tie
            break
        rates[[pivot, last]] = rates[[last, pivot]]
        rates[:, [pivot, last]] = rates[:, [last, pivot]]
        order[[pivot, last]] = order[[last, pivot]]
        rates[:last, last] /= outflow[pivot]
        rates[:last, :last] += np.outer(rates[:last, last], rates[last, :last])
        np.fill_diagonal(rates[:last, :last], 0.0)
        last -= 1
    mass = np.ones(len(rates))
    for state in range(last + 1, len(rates)):
        mass[state] = mass[:state] @ rates[:state, state]
    return _distribution(mass[np.argsort(order)])
