"""Meta-solvers: exact equilibria first, then approximations, then what each refuses."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from malib_lite.config import ConfigError
from malib_lite.population import meta_solvers, normal_form
from malib_lite.population.alpha_rank import _stationary
from malib_lite.population.dominance import unit
from malib_lite.population.meta_solvers import (
    META_SOLVERS,
    alpha_rank,
    fictitious_play,
    nash,
    prd,
    regret_matching,
    replicator_dynamics,
    uniform,
)

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
# Rows and columns are rock, paper, scissors; rock beats scissors by 2. The equilibrium is (1/4, 1/2, 1/4).
BIASED_RPS = np.array([[0.0, -1.0, 2.0], [1.0, 0.0, -1.0], [-2.0, 1.0, 0.0]])
# Three players: strategy 1 brings its player 1 whatever the others do, and costs each of them 0.5.
DILEMMA_3 = 1.5 * np.indices((2, 2, 2)) - 0.5 * np.indices((2, 2, 2)).sum(axis=0)
# The same solvers with fewer iterations, where accuracy is not the question.
QUICK = META_SOLVERS | {
    "fictitious_play": partial(fictitious_play, num_iterations=500),
    "regret_matching": partial(regret_matching, num_iterations=500),
    "prd": partial(prd, num_iterations=1000),
    "replicator_dynamics": partial(replicator_dynamics, num_iterations=500),
}


def zero_sum(matrix):
    return np.stack([matrix, -matrix])


def gains(payoffs, mixtures):
    """What each player would win by its best response; all zero at an equilibrium. Own loop, by einsum."""
    num_players = len(payoffs)
    letters = "abcdefgh"[:num_players]
    result = []
    for player in range(num_players):
        others = [k for k in range(num_players) if k != player]
        subscripts = ",".join([letters] + [letters[k] for k in others]) + "->" + letters[player]
        values = np.einsum(subscripts, payoffs[player], *[mixtures[k] for k in others])
        result.append(values.max() - mixtures[player] @ values)
    return np.array(result)


def assert_distributions(payoffs, mixtures):
    assert [mixture.shape for mixture in mixtures] == [(size,) for size in payoffs.shape[1:]]
    for mixture in mixtures:
        assert mixture.dtype == np.float64
        assert mixture.min() >= 0.0
        assert mixture.sum() == pytest.approx(1.0, abs=1e-12)


def test_nash_of_rps_is_uniform():
    for mixture in nash(zero_sum(RPS)):
        np.testing.assert_allclose(mixture, [1 / 3] * 3, atol=1e-6)


@pytest.mark.parametrize(("paper", "rock", "scissors"), [(1.0, 2.0, 1.0), (3.0, 1.0, 2.0), (0.1, 1.0, 10.0)])
def test_nash_of_biased_rps_matches_the_closed_form(paper, rock, scissors):
    """Each name is what a win with it pays. Antisymmetric and interior: x A = 0, so x ~ (scissors, rock, paper)."""
    matrix = np.array([[0.0, -paper, rock], [paper, 0.0, -scissors], [-rock, scissors, 0.0]])
    for mixture in nash(zero_sum(matrix)):
        np.testing.assert_allclose(mixture, np.array([scissors, rock, paper]) / (paper + rock + scissors), atol=1e-9)


def test_nash_of_an_asymmetric_two_by_two_game():
    """A = [[3, -1], [-2, 1]]: x = (1+2, 3+1)/7, y = (1+1, 3+2)/7, value (3*1 - (-1)(-2))/7 = 1/7."""
    matrix = np.array([[3.0, -1.0], [-2.0, 1.0]])
    x, y = nash(zero_sum(matrix))
    np.testing.assert_allclose(x, [3 / 7, 4 / 7], atol=1e-9)
    np.testing.assert_allclose(y, [2 / 7, 5 / 7], atol=1e-9)
    assert x @ matrix @ y == pytest.approx(1 / 7, abs=1e-9)


def test_uniform_is_no_equilibrium_of_the_biased_game():
    game = zero_sum(BIASED_RPS)
    np.testing.assert_allclose(gains(game, uniform(game)), [1 / 3, 1 / 3])
    assert gains(game, nash(game)).max() < 1e-9


def test_nash_gives_a_dominated_strategy_nothing():
    matrix = np.vstack([RPS, RPS[0] - 0.5])  # worse than rock against everything
    x, y = nash(zero_sum(matrix))
    assert x[3] == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(y, [1 / 3] * 3, atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_nash_of_random_games_leaves_nothing_to_gain(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 20, size=2)
    matrix = rng.normal(size=shape) if seed % 2 else rng.integers(-2, 3, size=shape).astype(float)
    game = zero_sum(100.0 * matrix) / 100.0
    mixtures = nash(game)
    assert_distributions(game, mixtures)
    assert gains(game, mixtures).max() < 1e-8


def test_a_duplicate_row_changes_no_value():
    x, y = nash(zero_sum(BIASED_RPS + 0.25))
    doubled = np.vstack([BIASED_RPS, BIASED_RPS[1]]) + 0.25
    x2, y2 = nash(zero_sum(doubled))
    assert x2 @ doubled @ y2 == pytest.approx(x @ (BIASED_RPS + 0.25) @ y, abs=1e-9)
    assert gains(zero_sum(doubled), [x2, y2]).max() < 1e-9


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_constant_sums_of_any_scale_are_accepted(scale, constant):
    game = np.stack([BIASED_RPS, constant - BIASED_RPS]) * scale
    for mixture in nash(game):
        np.testing.assert_allclose(mixture, [0.25, 0.5, 0.25], atol=1e-9)


def test_rounding_between_equal_strategies_is_not_a_general_sum_game():
    noise = 1e-17 * np.arange(4.0).reshape(2, 2)
    game = np.stack([-1 / 18 + noise, 1 / 18 + noise[::-1]])
    assert_distributions(game, nash(game))


def test_nash_refuses_what_is_not_zero_sum_and_names_solvers_that_fit():
    coordination = np.stack([np.eye(2), np.eye(2)])
    with pytest.raises(ConfigError, match=r"zero-sum.*prd.*fictitious_play.*alpha_rank.*uniform"):
        nash(coordination)
    slightly_off = zero_sum(RPS)
    slightly_off[0, 0, 0] += 1e-4
    with pytest.raises(ConfigError, match="zero-sum"):
        nash(slightly_off)


def test_nash_refuses_three_players_and_names_solvers_that_fit():
    with pytest.raises(ConfigError, match=r"two players and this game has 3.*prd.*fictitious_play.*alpha_rank"):
        nash(DILEMMA_3)


def test_nash_is_what_imports_scipy():
    code = "import sys, malib_lite.population.meta_solvers; sys.exit('scipy.optimize' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("solver", META_SOLVERS.values(), ids=META_SOLVERS)
def test_every_solver_finds_rps(solver):
    for mixture in solver(zero_sum(RPS)):
        np.testing.assert_allclose(mixture, [1 / 3] * 3, atol=1e-2)


@pytest.mark.parametrize("solver", QUICK.values(), ids=QUICK)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 1)])
def test_every_solver_takes_pools_of_one(solver, shape):
    game = zero_sum(np.arange(float(np.prod(shape))).reshape(shape))
    assert_distributions(game, solver(game))
    assert_distributions(game, solver(np.zeros_like(game)))


@pytest.mark.parametrize("solver", QUICK.values(), ids=QUICK)
def test_the_same_table_gives_the_same_bits_and_is_left_alone(solver):
    game = zero_sum(np.random.default_rng(3).normal(size=(4, 6)))
    game.flags.writeable = False
    first, second = solver(game), solver(game)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("solver", QUICK.values(), ids=QUICK)
def test_shift_and_scale_do_not_matter(solver):
    game = zero_sum(np.random.default_rng(4).integers(-3, 4, size=(3, 5)).astype(float))
    for a, b in zip(solver(game), solver(np.stack([1024.0 * game[0] + 256.0, 1024.0 * game[1]])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize(
    ("solver", "bound"), [(fictitious_play, 0.005), (regret_matching, 0.02), (replicator_dynamics, 0.01), (prd, 0.05)]
)
@pytest.mark.parametrize("size", [5, 40])
def test_dynamics_come_near_the_equilibrium_of_random_games(solver, bound, size):
    matrix = np.random.default_rng(size).uniform(-0.5, 0.5, size=(size, size + 3))
    game = zero_sum(matrix)
    mixtures = solver(game)
    assert gains(game, mixtures).sum() < bound
    x, y = nash(game)
    assert mixtures[0] @ matrix @ mixtures[1] == pytest.approx(x @ matrix @ y, abs=bound)


@pytest.mark.parametrize("solver", [fictitious_play, regret_matching, prd, replicator_dynamics])
def test_dynamics_find_the_biased_equilibrium(solver):
    for mixture in solver(zero_sum(BIASED_RPS)):
        np.testing.assert_allclose(mixture, [0.25, 0.5, 0.25], atol=2e-2)


def test_fictitious_play_by_hand():
    """Values of (rock, paper, scissors), first the row player's against uniform beliefs: (1/3, 0, -1/3), so rock.

    Column against (4/3, 1/3, 1/3): (1/3, 1, -7/3), so paper. Row against (1/3, 4/3, 1/3): (-2/3, 0, 2/3), so scissors.
    """
    x, y = fictitious_play(zero_sum(BIASED_RPS), num_iterations=1)
    np.testing.assert_array_equal(x, [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(y, [0.0, 1.0, 0.0])
    x, _ = fictitious_play(zero_sum(BIASED_RPS), num_iterations=2)
    np.testing.assert_array_equal(x, [0.5, 0.0, 0.5])


def test_fictitious_play_breaks_ties_by_the_lowest_index_and_never_plays_the_dominated():
    row = np.random.default_rng(0).normal(size=17)
    x, _ = fictitious_play(zero_sum(np.stack([row - 1.0, row, row, row])))
    np.testing.assert_array_equal(x, [0.0, 1.0, 0.0, 0.0])


def test_fictitious_play_sees_a_tie_through_rounding():
    """0.3 + 0.2 + 0.1 and 0.1 + 0.2 + 0.3 differ in the last bit: against uniform beliefs both orders must tie."""
    for rows in ([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], [[0.3, 0.2, 0.1], [0.1, 0.2, 0.3]]):
        matrix = np.array([*rows, [0.0, 0.0, 0.0], [0.7, -0.1, -0.1]])
        x, _ = fictitious_play(zero_sum(matrix), num_iterations=1)
        np.testing.assert_array_equal(x, [1.0, 0.0, 0.0, 0.0])


def test_regret_matching_by_hand():
    """Against the uniform start (rock, paper, scissors) earn (1/3, 0, -1/3) in either seat, 0 on average: rock next.

    Rock against rock earns (0, 1, -2), 0 on average: regrets (1/3, 1, -7/3), so rock and paper at 1 : 3.
    """
    x, y = regret_matching(zero_sum(BIASED_RPS), num_iterations=2)
    np.testing.assert_allclose(x, [2 / 3, 1 / 6, 1 / 6])
    np.testing.assert_allclose(y, [2 / 3, 1 / 6, 1 / 6])
    x, _ = regret_matching(zero_sum(BIASED_RPS), num_iterations=3)
    np.testing.assert_allclose(x, np.array([1 / 3 + 1 + 1 / 4, 1 / 3 + 3 / 4, 1 / 3]) / 3)


@pytest.mark.parametrize("gamma", [0.0, 0.06, 0.3, 1.0])
def test_prd_respects_its_floor(gamma):
    matrix = np.vstack([RPS, RPS - 1.0])  # three strategies, and the same three worse by 1
    x, y = prd(zero_sum(matrix), gamma=gamma, num_iterations=2000)
    assert x.min() >= gamma / 6 - 1e-12
    assert y.min() >= gamma / 3 - 1e-12
    if gamma > 0.0:
        # The dominated end on the floor; the start from 1/6 is still in the average.
        np.testing.assert_allclose(x[3:], gamma / 6, atol=0.02)


def test_prd_refuses_a_floor_above_one():
    with pytest.raises(ConfigError, match="gamma"):
        prd(zero_sum(RPS), gamma=1.5)


@pytest.mark.parametrize("floor", [0.0, 0.05, 0.2])
def test_projection_is_the_nearest_point(floor):
    """Optimality: (x - p) . (q - p) <= 0 for every admissible q; the corners of the truncated simplex suffice."""
    rng = np.random.default_rng(7)
    for _ in range(50):
        x = rng.normal(0.2, 0.5, size=5)
        x += (1.0 - x.sum()) / 5
        p = meta_solvers._project(x, floor)
        assert p.sum() == pytest.approx(1.0)
        assert p.min() >= floor - 1e-12
        corners = floor + (1.0 - 5 * floor) * np.eye(5)
        assert ((corners - p) @ (x - p)).max() < 1e-12


@pytest.mark.parametrize("solver", [QUICK[name] for name in QUICK if name not in ("nash", "uniform")])
def test_three_players_find_the_dominant_strategies(solver):
    mixtures = solver(DILEMMA_3)
    assert_distributions(DILEMMA_3, mixtures)
    for mixture in mixtures:
        assert mixture[1] > 0.9


def test_three_players_with_unequal_pools():
    game = np.random.default_rng(1).normal(size=(3, 2, 3, 4))
    for name, solver in QUICK.items():
        if name != "nash":
            assert_distributions(game, solver(game))
    for mixture, size in zip(uniform(game), (2, 3, 4), strict=True):
        np.testing.assert_array_equal(mixture, np.full(size, 1 / size))


def test_three_player_values_use_the_right_axes():
    """Player 2 wants to match player 0 and nobody else cares, except that player 0 prefers its strategy 1."""
    game = np.zeros((3, 2, 3, 2))
    game[0, 1] = 1.0
    game[2, 0, :, 0] = game[2, 1, :, 1] = 1.0
    for name in ("fictitious_play", "regret_matching", "prd", "replicator_dynamics", "alpha_rank"):
        first, middle, last = QUICK[name](game)
        assert first[1] > 0.9
        assert last[1] > 0.9
        if name != "fictitious_play":  # which breaks the tie instead
            np.testing.assert_allclose(middle, [1 / 3] * 3, atol=1e-9)


PENNIES_WITH_AN_EXIT = np.array([[2.0, -1.0, 0.3], [-1.0, 1.0, 0.1]])


# Beyond alpha = 1 OpenSpiel's eigenvector solver finds two stationary distributions in "sexes" and gives up.
@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize(
    "game",
    [
        zero_sum(RPS),
        zero_sum(BIASED_RPS),
        zero_sum(PENNIES_WITH_AN_EXIT),
        np.stack([[[3.0, 0.0], [5.0, 1.0]], [[3.0, 5.0], [0.0, 1.0]]]),
        np.stack([[[3.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 3.0]]]),
        np.random.default_rng(2).normal(size=(3, 2, 3, 2)),
    ],
    ids=["rps", "biased", "asymmetric", "dilemma", "sexes", "three players"],
)
def test_alpha_rank_agrees_with_openspiel(game, alpha):
    pytest.importorskip("matplotlib")
    reference = pytest.importorskip("open_spiel.python.egt.alpharank")
    shape = game.shape[1:]
    joint = np.asarray(reference.compute(list(game), m=20, alpha=alpha / unit(game))[2]).reshape(shape)
    for player, mixture in enumerate(alpha_rank(game, alpha=alpha, population_size=20)):
        others = tuple(k for k in range(len(shape)) if k != player)
        np.testing.assert_allclose(mixture, joint.sum(axis=others), atol=1e-7)


def test_alpha_rank_with_strong_selection_agrees_with_openspiels_infinite_alpha():
    """Two strict equilibria, one of them easier to leave: their shares depend on the rate of harmful changes."""
    pytest.importorskip("matplotlib")
    reference = pytest.importorskip("open_spiel.python.egt.alpharank")
    common = np.array([[6.0, 1.0, 5.0], [0.0, 4.0, 2.0]])
    game = np.stack([common, common])
    joint = np.asarray(reference.compute(list(game), use_inf_alpha=True, inf_alpha_eps=1e-5)[2]).reshape(2, 3)
    x, y = alpha_rank(game, alpha=np.inf)
    np.testing.assert_allclose(x, joint.sum(axis=1), atol=1e-4)
    np.testing.assert_allclose(y, joint.sum(axis=0), atol=1e-4)
    assert abs(x[0] - 0.5) > 0.1


def test_alpha_rank_without_selection_is_uniform():
    for mixture in alpha_rank(zero_sum(PENNIES_WITH_AN_EXIT), alpha=0.0):
        np.testing.assert_allclose(mixture, uniform(mixture[None])[0], atol=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 100.0, 1e6])
def test_alpha_rank_stays_exact_where_rates_underflow(alpha):
    """Single player, gain g between neighbours: detailed balance gives ratios e^((m-1) alpha g); the top takes all."""
    game = np.array([[0.0, 0.25, 1.0]])
    (mixture,) = alpha_rank(game, alpha=alpha, population_size=50)
    weights = np.exp(49 * alpha * (game[0] - 1.0) / unit(game))
    np.testing.assert_allclose(mixture, weights / weights.sum(), rtol=1e-9, atol=1e-90)


def test_alpha_rank_shares_between_two_sinks_and_keeps_rps_cyclic_at_any_alpha():
    for alpha in (4.0, 1e3, 1e9):
        # Logarithms of rates are as large as 49 alpha, and a few dozen of them are rounded on the way.
        tolerance = 32 * 49 * alpha * np.finfo(float).eps
        for mixture in alpha_rank(np.stack([np.eye(2), np.eye(2)]), alpha=alpha):
            np.testing.assert_allclose(mixture, [0.5, 0.5], atol=tolerance)
        for mixture in alpha_rank(zero_sum(RPS), alpha=alpha):
            np.testing.assert_allclose(mixture, [1 / 3] * 3, atol=tolerance)


def test_alpha_rank_refuses_too_many_profiles():
    with pytest.raises(ConfigError, match=r"1024 joint profiles, not 1089.*prd"):
        alpha_rank(np.zeros((2, 33, 33)))


def test_rounding_below_zero_is_cleared():
    np.testing.assert_array_equal(normal_form.distribution(np.array([-1e-17, 0.5, 1.5])), [0.0, 0.25, 0.75])


def test_stationary_distribution_of_a_random_chain():
    rng = np.random.default_rng(0)
    rates = rng.random((8, 8)) ** 4
    np.fill_diagonal(rates, 0.0)
    with np.errstate(divide="ignore"):
        mass = _stationary(np.log(rates))
    np.testing.assert_allclose(mass @ rates, mass * rates.sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("payoffs", "message"),
    [
        (np.zeros((2, 3)), "shape"),
        (np.zeros((3, 2, 2)), "shape"),
        (np.zeros((2, 0, 2)), "shape"),
        (np.full((2, 2, 2), np.nan), "not finite"),
    ],
)
def test_malformed_tables_are_refused(payoffs, message):
    for name, solver in META_SOLVERS.items():
        if name != "uniform":
            with pytest.raises(ValueError, match=message):
                solver(payoffs)
