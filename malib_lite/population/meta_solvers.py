"""Meta-solvers: from the payoffs between pool members to one mixture per player.

A meta-solver is a pure function ``solve(payoffs) -> mixtures``: ``payoffs[n, i_1, ..., i_N]`` is the expected return
of player n when every player k plays its strategy i_k, and ``mixtures[n]`` is a distribution over the P_n strategies
of player n. No solver draws a random number, so the same table always gives the same mixtures.

Every solver first shifts and scales the payoffs so that they span one unit. Equilibria do not change, and step sizes,
selection intensities and tolerances mean the same in every game.

    nash                 linear program; two players, zero-sum or constant-sum; exact
    fictitious_play      Brown (1951)
    regret_matching      Hart and Mas-Colell (2000)
    prd                  projected replicator dynamics, Lanctot et al. (2017)
    replicator_dynamics  Taylor and Jonker (1978), without a floor of exploration
    alpha_rank           Omidshafiei et al. (2019)
    uniform              every strategy alike; with best responses to it, the outer loop is fictitious play

Other settings than the defaults: ``functools.partial(prd, gamma=0.05)`` is a meta-solver too, and so is a function of
your own. These solvers let the players draw independently. Those of :mod:`malib_lite.population.correlated` give one
distribution over joint choices instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from malib_lite.config import ConfigError, told
from malib_lite.population.alpha_rank import alpha_rank
from malib_lite.population.normal_form import deviation_values, distribution, normalise, own_axis_first

MetaSolver: TypeAlias = Callable[[np.ndarray], list[np.ndarray]]

# Largest departure from a constant sum, as a part of the payoff range, that still counts as rounding.
ZERO_SUM_TOLERANCE = 1e-6
# Payoffs nearer than this, in units of the payoff range, are a tie.
TIE = 1e-12


def is_constant_sum(payoffs: np.ndarray) -> bool:
    """Whether this is a table (2, P_1, P_2) of two players whose payoffs add up to a constant."""
    return len(payoffs) == 2 and bool(np.ptp(normalise(payoffs).sum(axis=0)) <= ZERO_SUM_TOLERANCE)


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

    game = normalise(payoffs)
    others = "choose prd, replicator_dynamics, fictitious_play, regret_matching, alpha_rank or uniform"
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
        # A full table leaves nothing to presolve, and looking for it takes a quarter of the time.
        options={"presolve": False, "primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solution.status != 0:
        raise RuntimeError(f"the linear program for the Nash equilibrium was not solved: {solution.message}")
    return [distribution(solution.x[:-1]), distribution(-solution.ineqlin.marginals)]


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
    rows = own_axis_first(normalise(payoffs))
    beliefs = uniform(payoffs)  # (P_n,) each: how often each strategy was played
    for iteration in range(num_iterations):
        # Products of counts instead of probabilities: one division less, so the tie margin grows along.
        margin = TIE * (iteration + 2.0) ** (len(rows) - 1)
        for player, belief in enumerate(beliefs):
            values = deviation_values(rows, beliefs, player)
            # The margin makes the lowest index win a tie whatever the rounding of the matrix product.
            belief[(values >= values.max() - margin).argmax()] += 1.0
    return [distribution(belief - start) for belief, start in zip(beliefs, uniform(payoffs), strict=True)]


def regret_matching(payoffs: np.ndarray, *, num_iterations: int = 10_000) -> list[np.ndarray]:
    """Time-averaged play when each strategy is played in proportion to its regret (Hart and Mas-Colell 2000).

    The regret of a strategy is what it would have earned so far, played all the time, beyond what was earned. All
    players move at once; with no positive regret, a player mixes evenly. The average of a two-player zero-sum game
    comes near an equilibrium. In other games regret matching leads to the set of coarse correlated equilibria, by the
    average of *joint* play, and the mixtures returned here are no more than its marginals.

    Deviations: regrets are unconditional ("Hannan consistent play" in the paper's section 4, not its main procedure,
    whose regrets are between pairs of strategies), and they grow by expected payoffs instead of sampled ones.

    Args:
        payoffs: (N, P_1, ..., P_N).
        num_iterations: moves per player; the largest average regret shrinks with its square root or faster.

    Returns:
        One distribution (P_n,) per player.
    """
    rows = own_axis_first(normalise(payoffs))
    regrets = [np.zeros(size) for size in np.shape(payoffs)[1:]]
    totals = [np.zeros(size) for size in np.shape(payoffs)[1:]]
    for iteration in range(num_iterations):
        positive = [np.maximum(regret, 0.0) for regret in regrets]
        # What is positive by rounding alone says nothing about strategies that are alike.
        mixtures = [p / p.sum() if p.sum() > TIE * iteration else np.full(len(p), 1.0 / len(p)) for p in positive]
        for player, (mixture, regret, total) in enumerate(zip(mixtures, regrets, totals, strict=True)):
            values = deviation_values(rows, mixtures, player)
            regret += values - mixture @ values
            total += mixture
    return [distribution(total) for total in totals]


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
    rows = own_axis_first(normalise(payoffs))
    mixtures = uniform(payoffs)
    totals = [np.zeros_like(mixture) for mixture in mixtures]
    for _ in range(num_iterations):
        values = [deviation_values(rows, mixtures, player) for player in range(len(rows))]
        for player, (x, u) in enumerate(zip(mixtures, values, strict=True)):
            mixtures[player] = _project(x + step * x * (u - x @ u), gamma / len(x))
            totals[player] += mixtures[player]
    return [distribution(total) for total in totals]


def replicator_dynamics(payoffs: np.ndarray, *, step: float = 0.1, num_iterations: int = 10_000) -> list[np.ndarray]:
    """Replicator dynamics of one population per player (Taylor and Jonker 1978), averaged over time.

    :func:`prd` without the floor, so what does badly dies out. Arguments and result as there.
    """
    return prd(payoffs, gamma=0.0, step=step, num_iterations=num_iterations)


META_SOLVERS: dict[str, MetaSolver] = {
    "nash": nash,
    "fictitious_play": fictitious_play,
    "regret_matching": regret_matching,
    "prd": prd,
    "replicator_dynamics": replicator_dynamics,
    "alpha_rank": alpha_rank,
    "uniform": uniform,
}


def checked(solver: MetaSolver) -> MetaSolver:
    """The same meta-solver, somebody else's, for whom mistakes are told.

    Raises:
        ConfigError: it cannot be called; or (the result, when it is called) it raises an error, or gives something else
            than a distribution for each player.
    """
    name = f"'psro.meta_solver' = {getattr(solver, '__qualname__', solver)}"
    if not callable(solver):
        raise ConfigError(f"{name}: must be a function of the payoffs")

    def solve(payoffs: np.ndarray) -> list[np.ndarray]:
        try:
            mixtures = [np.asarray(mixture, np.float64) for mixture in solver(payoffs)]
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"{name}: payoffs of shape {payoffs.shape} lead to {told(error)}") from error
        sizes = [(size,) for size in payoffs.shape[1:]]
        if [mixture.shape for mixture in mixtures] != sizes:
            raise ConfigError(
                f"{name}: gives arrays of shapes {[mixture.shape for mixture in mixtures]}, not one mixture for each "
                f"player: {sizes}"
            )
        # Written so that NaN fails too.
        if not all(mixture.min() >= 0.0 and abs(mixture.sum() - 1.0) < 1e-6 for mixture in mixtures):
            raise ConfigError(f"{name}: gives what is no distribution: {mixtures}")
        return mixtures

    return solve


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
