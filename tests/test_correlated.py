"""Joint meta-solvers and rectified Nash: games with known answers, and incentives counted by plain loops."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog, minimize
from scipy.special import logsumexp, softmax

from malib_lite.config import ConfigError
from malib_lite.population import correlated
from malib_lite.population.correlated import (
    JOINT_SOLVERS,
    cce_gains,
    cce_opponents,
    ce_gains,
    ce_opponents,
    get_joint_solver,
    max_entropy_cce,
    max_entropy_ce,
    max_welfare_cce,
    max_welfare_ce,
)
from malib_lite.population.dominance import restrict, undominated
from malib_lite.population.meta_solvers import nash, uniform
from malib_lite.population.normal_form import marginals
from malib_lite.population.rectified import rectified_opponents

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
ZERO_SUM_RPS = np.stack([RPS, -RPS])
# Dare, chicken (Aumann 1974): both daring is a crash.
CHICKEN = np.array([[[0.0, 7.0], [2.0, 6.0]], [[0.0, 2.0], [7.0, 6.0]]])
SEXES = np.array([[[3.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 3.0]]])
DILEMMA = np.array([[[3.0, 0.0], [5.0, 1.0]], [[3.0, 5.0], [0.0, 1.0]]])
DILEMMA_3 = 1.5 * np.indices((2, 2, 2)) - 0.5 * np.indices((2, 2, 2)).sum(axis=0)
# The first two want to agree, the third wants to name what they agreed on, which they dislike.
WATCHED_3 = np.zeros((3, 2, 2, 2))
for profile in itertools.product(range(2), repeat=3):
    agreed = profile[0] == profile[1]
    seen = agreed and profile[2] == profile[0]
    WATCHED_3[(slice(None), *profile)] = (agreed - 0.5 * seen, agreed - 0.5 * seen, seen)
GAMES = {
    "rps": ZERO_SUM_RPS,
    "chicken": CHICKEN,
    "sexes": SEXES,
    "dilemma": DILEMMA,
    "dilemma of three": DILEMMA_3,
    "watched": WATCHED_3,
    "random": np.random.default_rng(0).normal(size=(2, 4, 6)),
    "random, three players": np.random.default_rng(1).normal(size=(3, 2, 4, 3)),
    "integers": np.random.default_rng(2).integers(-2, 3, size=(3, 3, 3, 3)).astype(float),
    "one strategy": np.ones((2, 1, 3)) * [[[1.0]], [[-1.0]]],
    "constant": np.zeros((2, 2, 2)),
}


def constraints(payoffs, conditional):
    """Incentive constraints by plain loops over profiles: rows @ joint.ravel() <= 0."""
    shape = payoffs.shape[1:]
    rows = []
    for player, size in enumerate(shape):
        for told in range(size) if conditional else [None]:
            for deviation in range(size):
                row = np.zeros(shape)
                for choice in np.ndindex(*shape):
                    if told is None or choice[player] == told:
                        other = (*choice[:player], deviation, *choice[player + 1 :])
                        row[choice] = payoffs[player][other] - payoffs[player][choice]
                rows.append(row.ravel())
    return np.array(rows)


def best_welfare(payoffs, conditional):
    rows = constraints(payoffs, conditional)
    return -linprog(
        -payoffs.sum(axis=0).ravel(),
        A_ub=rows,
        b_ub=np.zeros(len(rows)),
        A_eq=np.ones((1, rows.shape[1])),
        b_eq=[1.0],
        method="highs-ipm",
    ).fun


def entropy(joint):
    positive = joint[joint > 0.0]
    return -(positive * np.log(positive)).sum()


@pytest.mark.parametrize("name", JOINT_SOLVERS)
@pytest.mark.parametrize("game", GAMES)
def test_every_solver_keeps_the_incentive_constraints(game, name):
    payoffs = GAMES[game]
    joint = JOINT_SOLVERS[name](payoffs)
    assert joint.shape == payoffs.shape[1:] and joint.dtype == np.float64
    assert joint.min() >= 0.0 and joint.sum() == pytest.approx(1.0, abs=1e-12)
    conditional = name.endswith("_ce")
    span = max(1.0, np.ptp(payoffs))
    assert (constraints(payoffs, conditional) @ joint.ravel()).max() < 1.2e-6 * span
    gains = (ce_gains if conditional else cce_gains)(payoffs, joint)
    assert gains.max() < 1.2e-6 * span * (max(joint.shape) if conditional else 1)


@pytest.mark.parametrize("game", GAMES)
def test_max_welfare_is_the_largest_that_the_constraints_allow(game):
    payoffs = GAMES[game]
    for solver, conditional in ((max_welfare_cce, False), (max_welfare_ce, True)):
        assert (solver(payoffs) * payoffs).sum() == pytest.approx(best_welfare(payoffs, conditional), abs=1e-6)


@pytest.mark.parametrize("game", ["chicken", "sexes", "watched", "random"])
@pytest.mark.parametrize(("solver", "conditional"), [(max_entropy_cce, False), (max_entropy_ce, True)])
def test_max_entropy_is_the_largest_that_the_constraints_allow(game, solver, conditional):
    """No entropy is above any value of the dual problem: log sum exp(-A^T y) + epsilon sum(y), for prices y >= 0."""
    payoffs, epsilon = GAMES[game], 1e-6
    kept = undominated(payoffs)
    part = restrict(payoffs, kept)
    rows = constraints(part if conditional else payoffs, conditional)
    slack = epsilon * max(np.ptp(payoff) for payoff in part)

    def dual(prices):
        logits = -rows.T @ prices
        return logsumexp(logits) + slack * prices.sum(), slack - rows @ softmax(logits)

    bounds, options = [(0.0, None)] * len(rows), {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-10}
    least = minimize(dual, np.zeros(len(rows)), jac=True, bounds=bounds, method="L-BFGS-B", options=options)
    joint = solver(payoffs, epsilon=epsilon)
    if conditional:  # what is strictly dominated is recommended in no equilibrium
        assert joint.sum() == pytest.approx(joint[np.ix_(*kept)].sum(), abs=1e-15)
        joint = joint[np.ix_(*kept)]
    assert (rows @ joint.ravel()).max() <= slack * (1.0 + 1e-6)
    assert entropy(joint) == pytest.approx(least.fun, abs=1e-7)


def test_entropy_is_larger_than_any_nash_equilibriums_and_than_that_of_the_smaller_set():
    game = GAMES["random"]
    assert entropy(max_entropy_cce(game)) >= entropy(max_entropy_ce(game)) - 1e-6
    assert entropy(max_entropy_ce(game)) >= entropy(max_welfare_ce(game)) - 1e-6
    x, y = nash(ZERO_SUM_RPS)
    assert entropy(max_entropy_cce(ZERO_SUM_RPS)) >= entropy(np.outer(x, y)) - 1e-9


def test_chicken_has_the_textbook_correlated_equilibrium():
    """Told chicken, 6 c + 2 a >= 7 c, so a >= c/2; told dare, the other yields. Largest 12 c + 18 a: c 1/2, a 1/4."""
    for solver in (max_welfare_ce, max_welfare_cce):
        joint = solver(CHICKEN)
        np.testing.assert_allclose(joint, [[0.0, 0.25], [0.25, 0.5]], atol=1e-8)
        assert (joint * CHICKEN).sum() == pytest.approx(10.5)
    x = 2 / 3  # the mixed Nash equilibrium's probability of chicken; it yields 2 * 14/3
    mixed = np.outer([1 - x, x], [1 - x, x])
    np.testing.assert_allclose(ce_gains(CHICKEN, mixed), 0.0, atol=1e-12)
    assert (mixed * CHICKEN).sum() == pytest.approx(28 / 3)


def test_a_dominated_strategy_is_never_recommended():
    for solver in JOINT_SOLVERS.values():
        assert solver(DILEMMA)[1, 1] == pytest.approx(1.0, abs=2e-5)
        assert solver(DILEMMA_3)[1, 1, 1] == pytest.approx(1.0, abs=2e-5)


def test_rps_has_one_correlated_equilibrium_and_many_coarse_ones():
    for solver in (max_welfare_ce, max_entropy_ce, max_entropy_cce):
        np.testing.assert_allclose(solver(ZERO_SUM_RPS), np.full((3, 3), 1 / 9), atol=1e-7)
    ties = np.eye(3) / 3  # always the same: told rock, paper gains 1; but not before one is told
    np.testing.assert_allclose(cce_gains(ZERO_SUM_RPS, ties), 0.0, atol=1e-12)
    np.testing.assert_allclose(ce_gains(ZERO_SUM_RPS, ties), 1.0)


def test_a_coarse_equilibrium_can_be_worth_more_than_any_correlated_one():
    """Rock, paper, scissors in which both lose 1/2 unless they tie (after Moulin and Vial 1978).

    Always to tie is coarse: any strategy chosen before the draw ties in a third of games and loses 1/3 on average.
    Told what to play, each would rather beat the other, so all that is left is the even mixture, at -2/3.
    """
    game = ZERO_SUM_RPS - 0.5 * (1.0 - np.eye(3))
    assert (cce_gains(game, np.eye(3) / 3) < 0.0).all()
    assert (max_welfare_cce(game) * game).sum() == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(max_welfare_ce(game), np.full((3, 3), 1 / 9), atol=1e-8)


def test_three_players_correlate_what_independent_players_cannot():
    """Two agree by a coin that the third does not see: worth 2, and 1 to players with the same marginals alone."""
    agreed = np.zeros((2, 2, 2))
    agreed[0, 0] = agreed[1, 1] = 0.25
    np.testing.assert_allclose(ce_gains(WATCHED_3, agreed), 0.0, atol=1e-12)
    assert (agreed * WATCHED_3).sum() == (max_welfare_ce(WATCHED_3) * WATCHED_3).sum() == 2.0
    alone = np.einsum("i,j,k->ijk", *marginals(agreed))
    assert (alone * WATCHED_3).sum() == 1.0
    np.testing.assert_allclose(max_entropy_ce(WATCHED_3), alone, atol=1e-3)
    seen = np.zeros((2, 2, 2))  # the third sees the coin: still an equilibrium, and the two would rather not be seen
    seen[0, 0, 0] = seen[1, 1, 1] = 0.5
    np.testing.assert_allclose(ce_gains(WATCHED_3, seen), 0.0, atol=1e-12)
    hidden = np.zeros((2, 2, 2))
    hidden[0, 0, 1] = hidden[1, 1, 0] = 0.5
    np.testing.assert_allclose(ce_gains(WATCHED_3, hidden), [0.0, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(cce_gains(WATCHED_3, hidden), [-0.5, -0.5, 0.5], atol=1e-12)


def test_shift_and_scale_do_not_matter():
    game = np.random.default_rng(4).integers(-3, 4, size=(2, 3, 5)).astype(float)
    moved = np.stack([64.0 * game[0] + 256.0, 64.0 * game[1] - 7.0])
    for solver in JOINT_SOLVERS.values():
        np.testing.assert_allclose(solver(game), solver(moved), atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_maximum_entropy_of_random_games(seed):
    rng = np.random.default_rng(seed)
    players = 2 + seed % 2
    shape = (players, *rng.integers(2, 6, size=players))
    game = rng.normal(size=shape) if seed % 4 < 2 else rng.integers(-1, 2, size=shape).astype(float)
    for solver, gains in ((max_entropy_ce, ce_gains), (max_entropy_cce, cce_gains)):
        assert gains(game, solver(game)).max() < 1.2e-6 * np.ptp(game) * max(shape)


@pytest.mark.parametrize("seed", range(4))
def test_maximum_entropy_of_zero_sum_games_whose_equilibria_leave_no_room(seed):
    """Equilibria of zero-sum games often are one point, and then only epsilon gives the set an inside."""
    matrix = np.random.default_rng(seed).normal(size=(6, 8))
    game = np.stack([matrix, -matrix])
    x, y = nash(game)
    joint = max_entropy_ce(game)
    assert (joint * game[0]).sum() == pytest.approx(x @ matrix @ y, abs=1e-4)
    np.testing.assert_allclose(marginals(joint)[0], x, atol=1e-2)


def test_maximum_entropy_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="epsilon = 0"):
        max_entropy_cce(SEXES, epsilon=0.0)
    with pytest.raises(ConfigError, match=r"2048 joint profiles, not 2500.*max_welfare_cce"):
        max_entropy_cce(np.zeros((2, 50, 50)))


def test_opponents_of_a_coarse_and_of_a_conditional_best_response():
    joint = np.array([[0.0, 0.25], [0.25, 0.5]])
    np.testing.assert_allclose(cce_opponents(joint, 0), [0.25, 0.75])
    told = ce_opponents(joint, 0)
    np.testing.assert_allclose(told[0], [0.0, 1.0])
    np.testing.assert_allclose(told[1], [1 / 3, 2 / 3])
    three = np.zeros((2, 3, 2))
    three[1, 2, 0] = three[1, 0, 1] = 0.5
    assert list(ce_opponents(three, 0)) == [1]
    assert cce_opponents(three, 1).shape == (2, 2)
    np.testing.assert_allclose(ce_opponents(three, 1)[2], [[0.0, 0.0], [1.0, 0.0]])


def test_best_responses_to_these_opponents_gain_what_the_gains_say():
    game = np.random.default_rng(3).normal(size=(3, 2, 3, 4))
    joint = np.random.default_rng(4).dirichlet(np.ones(24)).reshape(2, 3, 4)
    for player in range(3):
        payoff = np.moveaxis(game[player], player, 0)
        plays = (joint * game[player]).sum()
        others = cce_opponents(joint, player)
        before = max((payoff[own] * others).sum() for own in range(len(payoff))) - plays
        assert cce_gains(game, joint)[player] == pytest.approx(before)
        mass = marginals(joint)[player]
        told = ce_opponents(joint, player).items()
        after = sum(mass[own] * max((row * seen).sum() for row in payoff) for own, seen in told) - plays
        assert ce_gains(game, joint)[player] == pytest.approx(after)


def test_get_joint_solver():
    assert get_joint_solver("max_entropy_ce") is max_entropy_ce

    def mine(payoffs):
        return np.ones(payoffs.shape[1:]) / payoffs[0].size

    assert get_joint_solver(mine) is mine
    with pytest.raises(ConfigError, match="did you mean 'max_entropy_ce'"):
        get_joint_solver("max_entropie_ce")


@pytest.mark.parametrize("payoffs", [np.zeros((3, 2, 2)), np.full((2, 2, 2), np.nan)])
def test_malformed_tables_are_refused(payoffs):
    for solver in JOINT_SOLVERS.values():
        with pytest.raises(ValueError, match=r"shape|not finite"):
            solver(payoffs)


def test_an_unsolved_program_says_so(monkeypatch):
    matrix = np.random.default_rng(234).normal(size=(6, 10))
    with pytest.raises(RuntimeError, match="not solved with epsilon = 1e-14"):
        max_entropy_ce(np.stack([matrix, -matrix]), epsilon=1e-14)
    monkeypatch.setattr(correlated, "MAX_NEWTON_STEPS", 2)
    with pytest.raises(RuntimeError, match="not solved"):
        max_entropy_ce(CHICKEN)


# -- rectified Nash ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("player", [0, 1])
def test_rectified_rps_trains_against_what_it_beats_or_ties_with(player):
    """Rock (0) beats scissors (2), paper beats rock, scissors beat paper."""
    opponents = rectified_opponents(ZERO_SUM_RPS, nash(ZERO_SUM_RPS), player)
    np.testing.assert_allclose(opponents[0], [0.5, 0.0, 0.5], atol=1e-9)
    np.testing.assert_allclose(opponents[1], [0.5, 0.5, 0.0], atol=1e-9)
    np.testing.assert_allclose(opponents[2], [0.0, 0.5, 0.5], atol=1e-9)


def test_rectified_shares_are_the_equilibriums():
    """Biased game, equilibrium (1/4, 1/2, 1/4): paper ties with itself and beats rock, at 2 : 1."""
    matrix = np.array([[0.0, -1.0, 2.0], [1.0, 0.0, -1.0], [-2.0, 1.0, 0.0]])
    game = np.stack([matrix, -matrix])
    np.testing.assert_allclose(rectified_opponents(game, nash(game), 0)[1], [1 / 3, 2 / 3, 0.0], atol=1e-9)


def test_only_members_that_the_equilibrium_plays_are_trained_from():
    matrix = np.vstack([RPS, RPS[0] - 0.5])
    game = np.stack([matrix, -matrix])
    assert list(rectified_opponents(game, nash(game), 0)) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_every_played_member_has_somebody_to_beat_whatever_the_value(seed):
    matrix = np.random.default_rng(seed).normal(loc=5.0, size=(7, 9))
    game = np.stack([matrix, 3.0 - matrix])
    mixtures = nash(game)
    value = mixtures[0] @ matrix @ mixtures[1]
    for member, opponents in rectified_opponents(game, mixtures, 0).items():
        assert opponents.sum() == pytest.approx(1.0)
        assert (matrix[member][opponents > 0.0] > value - 1e-4).all()
    for member, opponents in rectified_opponents(game, mixtures, 1).items():
        assert (matrix[:, member][opponents > 0.0] < value + 1e-4).all()


def test_rectified_nash_is_for_two():
    with pytest.raises(ValueError, match="two players, not 3"):
        rectified_opponents(DILEMMA_3, uniform(DILEMMA_3), 0)
