"""Meta-solvers: from the payoffs between pool members to one mixture per player.

A meta-solver is a pure function ``solve(payoffs) -> mixtures``: ``payoffs[n, i_1, ..., i_N]`` is the expected return
of player n when every player k plays its strategy i_k, and ``mixtures[n]`` is a distribution over the P_n strategies
of player n. No solver draws a random number, so the same table always gives the same mixtures.

No solver's result depends on the payoffs' unit, nor on what a strictly dominated strategy earns. The dynamics
(fictitious_play, regret_matching, prd, replicator_dynamics) first leave such strategies out, again and again
(:mod:`malib_lite.population.dominance`), and scale each player's payoffs to span one unit. Where a strategy is given up
although none dominates it, as where everybody loses a thousand when two of them crash, the last three go on in the unit
of what is left (:class:`_Pace`); fictitious play needs none. alpha_rank takes its unit from what is not dominated.

    nash                 linear program; two players, zero-sum or constant-sum; exact
    fictitious_play      Brown (1951)
    regret_matching      Hart and Mas-Colell (2000)
    prd                  projected replicator dynamics, Lanctot et al. (2017)
    replicator_dynamics  Taylor and Jonker (1978), without a floor of exploration
    alpha_rank           Omidshafiei et al. (2019)
    uniform              every strategy alike; with best responses to it, the outer loop is fictitious play, and psro
                         weighs a strategy by how often it was a best response

Other settings than the defaults: ``functools.partial(prd, gamma=0.05)`` is a meta-solver too, and so is a function of
your own. These solvers let the players draw independently. Those of :mod:`malib_lite.population.correlated` give one
distribution over joint choices instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from malib_lite.config import ConfigError, told
from malib_lite.population.alpha_rank import alpha_rank
from malib_lite.population.dominance import restrict, spread_out, sums_to, undominated
from malib_lite.population.matrix_game import solve_matrix
from malib_lite.population.normal_form import (
    check_table,
    deviation_values,
    distribution,
    normalise,
    normalise_each,
    own_axis_first,
)

MetaSolver: TypeAlias = Callable[[np.ndarray], list[np.ndarray]]

# Payoffs nearer than this, in units of the payoff range, are a tie.
TIE = 1e-12


def is_constant_sum(payoffs: np.ndarray) -> bool:
    """Whether this is a table (2, P_1, P_2) of two players whose payoffs add up to a constant, up to rounding."""
    payoffs = check_table(payoffs)
    return len(payoffs) == 2 and sums_to(payoffs)


def uniform(payoffs: np.ndarray) -> list[np.ndarray]:
    """Every strategy with the same probability; of ``payoffs`` (N, P_1, ..., P_N) only the shape matters."""
    return [np.full(size, 1.0 / size) for size in np.shape(payoffs)[1:]]


def nash(payoffs: np.ndarray) -> list[np.ndarray]:
    """Nash equilibrium of a two-player constant-sum game (von Neumann's minimax theorem, as a program: Dantzig 1951).

    Where there are many equilibria, the result is one at which the simplex method stops; all have the same value. What
    is left to gain is at most 1e-8 of what the game is about, and with entries a thousand million times as large at
    most 1e-6: see :func:`~malib_lite.population.matrix_game.solve_matrix`.

    Args:
        payoffs: (2, P_1, P_2).

    Returns:
        Mixtures (P_1,) and (P_2,).

    Raises:
        ConfigError: not two players, or their payoffs do not add up to a constant.
    """
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
    first, second = np.asarray(payoffs, np.float64)
    return list(solve_matrix((first - second) / 2.0))  # spreads what rounding is left over both players


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
    kept, rows, sizes = _without_dominated(payoffs)
    starts = [np.full(size, 1.0 / size) for size in sizes]
    beliefs = [start.copy() for start in starts]  # (P_n,) each: how often each strategy was played
    for iteration in range(num_iterations):
        # Products of counts instead of probabilities: one division less, so the tie margin grows along.
        margin = TIE * (iteration + 2.0) ** (len(rows) - 1)
        for player, belief in enumerate(beliefs):
            values = deviation_values(rows, beliefs, player)
            # The margin makes the lowest index win a tie whatever the rounding of the matrix product.
            belief[(values >= values.max() - margin).argmax()] += 1.0
    played = [distribution(belief - start) for belief, start in zip(beliefs, starts, strict=True)]
    return _among_all(played, kept, payoffs)


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
    kept, rows, sizes = _without_dominated(payoffs)
    regrets = [np.zeros(size) for size in sizes]
    totals = [np.zeros(size) for size in sizes]
    pace = _Pace(rows, num_iterations)
    for _ in range(num_iterations):
        positive = [np.maximum(regret, 0.0) for regret in regrets]
        # What is positive by rounding alone says nothing about strategies that are alike.
        mixtures = [p / p.sum() if p.sum() > TIE * pace.elapsed else np.full(len(p), 1.0 / len(p)) for p in positive]
        for player, (mixture, regret, total) in enumerate(zip(mixtures, regrets, totals, strict=True)):
            values = deviation_values(rows, mixtures, player)
            regret += pace.weight * (values - mixture @ values)
            total += pace.weight * mixture
        pace.advance(totals)
    return _among_all([distribution(total) for total in totals], kept, payoffs)


def prd(
    payoffs: np.ndarray, *, gamma: float = 1e-3, step: float = 0.03, num_iterations: int = 10_000
) -> list[np.ndarray]:
    """Projected replicator dynamics, averaged over time (Lanctot et al. 2017, section 3.1).

    From uniform mixtures, Euler steps of dx_i/dt = x_i (u_i - x . u), with u the values of a player's own strategies
    against the others' mixtures; after each step the mixture goes to the nearest point, in Euclidean distance, of the
    simplex on which no strategy has less than gamma / P_n. So no policy of a pool is ever left without opponents.

    Deviations: a strategy that does badly is held at the floor, where strictly dominated ones start, and the average
    x . u is over all others. In the paper it counts, and as a Euclidean projection takes the same from rare and from
    frequent strategies, one that loses much holds rare ones at the floor although they gain.

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
    kept, rows, sizes = _without_dominated(payoffs)
    mixtures = [np.full(size, 1.0 / size) for size in sizes]
    totals = [np.zeros(size) for size in sizes]
    floors = [gamma / size for size in sizes]
    pace = _Pace(rows, num_iterations, least=[2.0 * floor for floor in floors])
    for _ in range(num_iterations):
        values = [deviation_values(rows, mixtures, player) for player in range(len(rows))]
        growths = [_growth(*each) for each in zip(mixtures, values, floors, strict=True)]
        # However long the steps have become, none doubles a share at once, or takes all of it.
        fastest = max(max(growth.max(), (x * -growth).max()) for x, growth in zip(mixtures, growths, strict=True))
        weight = min(pace.weight, 1.0 / max(fastest, TIE))
        for player, (x, growth, floor) in enumerate(zip(mixtures, growths, floors, strict=True)):
            mixtures[player] = _project(x + step * weight * x * growth, floor)
            totals[player] += weight * mixtures[player]
        pace.advance(totals, weight)
    return [
        np.maximum(gamma / len(mixture), (1.0 - gamma * (mixture == 0.0).mean()) * mixture) if gamma > 0.0 else mixture
        for mixture in _among_all([distribution(total) for total in totals], kept, payoffs)
    ]


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


class _Pace:
    """How much an iteration counts, both as a step and in the averages over time: 1 to begin with.

    All payoffs of a player span one unit. When the strategies that matter bring the players' payoffs less far apart,
    as the losses that set the unit are not met with any more, iterations count as much more as that is smaller: for the
    dynamics time has another unit, and what happened until then weighs as little as it lasted in that. A strategy
    matters if it is played or nearly as good as the best one: in equilibrium, too, one may be played very seldom.

    Source: regrets and averages whose weights grow with time, Brown and Sandholm 2019 (discounted regret minimisation);
    here by the scale of the payoffs, in twenty stages.
    """

    def __init__(self, rows: list[np.ndarray], num_iterations: int, least: Sequence[float] | None = None) -> None:
        """
        Args:
            rows: as from own_axis_first, the payoffs of each player spanning 1 or nothing.
            least: share of a stage above which a strategy is played; None: all that is more than rounding.
        """
        self.weight = 1.0
        self.elapsed = 0.0  # sum of all weights
        self._rows, self._stage = rows, max(100, num_iterations // 20)
        self._least = [max(1e-6, bound) for bound in least or [0.0] * len(rows)]
        self._iterations = 0
        self._before = [np.zeros(len(own)) for own in rows]

    def advance(self, totals: list[np.ndarray], weight: float | None = None) -> None:
        """An iteration is over.

        Args:
            totals: (P_n,) each, the weighted sums of all mixtures so far.
            weight: what it counted, if less than it might have.
        """
        self.elapsed += self.weight if weight is None else weight
        self._iterations += 1
        if self._iterations % self._stage:
            return
        played = [distribution(total - before) for total, before in zip(totals, self._before, strict=True)]
        self._before = [total.copy() for total in totals]
        matter = []
        for player, share in enumerate(played):
            values = deviation_values(self._rows, played, player)
            matter.append(np.flatnonzero((share > self._least[player]) | (values > values.max() - 0.1 / self.weight)))
        spans = [np.ptp(own[np.ix_(matter[n], *matter[:n], *matter[n + 1 :])]) for n, own in enumerate(self._rows)]
        if max(spans) > TIE:  # else every player has come to one strategy, or to several that are alike
            self.weight = 1.0 / float(max(spans))


def _without_dominated(payoffs: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
    """The strategies that are not strictly dominated, by index; their payoffs as from own_axis_first, those of each
    player spanning 1; and how many they are."""
    payoffs = check_table(payoffs)
    kept = undominated(payoffs)
    return kept, own_axis_first(normalise_each(restrict(payoffs, kept))), list(map(len, kept))


def _among_all(mixtures: list[np.ndarray], kept: list[np.ndarray], payoffs: np.ndarray) -> list[np.ndarray]:
    """Mixtures over all strategies from those over the strategies that are kept."""
    return [spread_out(*each) for each in zip(mixtures, kept, np.shape(payoffs)[1:], strict=True)]


def _growth(x: np.ndarray, u: np.ndarray, floor: float) -> np.ndarray:
    """By what rates the shares x (P,) grow with their values u (P,): those at the floor only if they do better than the
    rest."""
    above = x > floor * (1.0 + 1e-9)
    if above.all() or not above.any():
        return u - x @ u
    free = above | (u > x[above] @ u[above] / x[above].sum())
    return np.where(free, u - x[free] @ u[free] / x[free].sum(), 0.0)


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
