"""Solvers beside payoffs of very different sizes: what one bad member earns changes nothing among the others."""

import itertools
import math

import numpy as np
import pytest

from malib_lite.population.alpha_rank import alpha_rank, alpha_rank_joint
from malib_lite.population.correlated import JOINT_SOLVERS, cce_gains, ce_gains
from malib_lite.population.dominance import spread_out, sums_to, undominated, unit
from malib_lite.population.matrix_game import solve_matrix
from malib_lite.population.meta_solvers import (
    META_SOLVERS,
    fictitious_play,
    is_constant_sum,
    nash,
    prd,
    regret_matching,
    replicator_dynamics,
)
from malib_lite.population.payoff_manager import PayoffManager

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
# The equilibrium is (1/4, 1/2, 1/4); uniform play leaves 2/3.
BIASED_RPS = np.array([[0.0, -1.0, 2.0], [1.0, 0.0, -1.0], [-2.0, 1.0, 0.0]])
DYNAMICS = [fictitious_play, regret_matching, prd, replicator_dynamics]


def zero_sum(matrix):
    return np.stack([matrix, -matrix])


def with_a_bad_member(payoffs, loss):
    """One strategy more for every player, which loses so much whatever the others do; they get nothing by it."""
    worse = np.pad(payoffs, [(0, 0), *[(0, 1)] * len(payoffs)], mode="edge")
    for player in range(len(payoffs)):
        np.moveaxis(worse[player], player, 0)[-1] -= loss
    return worse


def crashes(payoffs, loss):
    """One strategy more for every player, with which all lose so much; a tenth less when all choose it. So it is the
    best answer to itself, and nothing dominates it."""
    worse = np.pad(payoffs, [(0, 0), *[(0, 1)] * len(payoffs)], mode="edge")
    for player in range(len(payoffs)):
        for choice in np.ndindex(*worse.shape[1:]):
            bad = [index == size - 1 for index, size in zip(choice, worse.shape[1:], strict=True)]
            worse[(player, *choice)] -= any(bad) * loss * (0.9 if all(bad) else 1.0)
    return worse


def gap(payoffs, mixtures):
    """NashConv within a table."""
    total = 0.0
    for player, payoff in enumerate(payoffs):
        values = np.moveaxis(payoff, player, 0)
        for other in reversed([k for k in range(len(payoffs)) if k != player]):
            values = values @ mixtures[other]
        total += values.max() - mixtures[player] @ values
    return total


def among_the_good(mixtures):
    return [mixture[:-1] / mixture[:-1].sum() for mixture in mixtures]


# -- dominance -----------------------------------------------------------------------------------------------------


def undominated_by_loops(payoffs):
    kept = [list(range(size)) for size in payoffs.shape[1:]]
    while True:
        for player in range(len(kept)):
            others = list(itertools.product(*[own for k, own in enumerate(kept) if k != player]))
            earns = {
                own: [payoffs[(player, *other[:player], own, *other[player:])] for other in others]
                for own in kept[player]
            }
            bad = [
                own
                for own in kept[player]
                if any(all(a > b for a, b in zip(earns[rival], earns[own], strict=True)) for rival in kept[player])
            ]
            if bad:
                kept[player] = [own for own in kept[player] if own not in bad]
                break
        else:
            return kept


@pytest.mark.parametrize("seed", range(30))
def test_what_survives_is_what_plain_loops_find(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 5, size=rng.integers(2, 5))
    table = (len(shape), *shape)
    payoffs = rng.integers(0, 4, size=table).astype(float) if seed % 2 else rng.normal(size=table)
    for player in range(len(shape)):  # strategies of different strength, so that there is something to leave out
        np.moveaxis(payoffs[player], player, 0)[:] += rng.integers(0, 4, size=(shape[player], *[1] * (len(shape) - 1)))
    assert [own.tolist() for own in undominated(payoffs)] == undominated_by_loops(payoffs)


def test_what_differs_by_rounding_is_not_dominated():
    payoffs = np.stack([np.array([[0.3, 0.6], [0.3 + 1e-16, 0.6 + 1e-15]]), np.zeros((2, 2))])
    assert [len(own) for own in undominated(payoffs)] == [2, 2]


def test_a_dominated_strategy_may_hide_another():
    """Column 2 is best against row 2 alone, and row 2 is dominated."""
    rows = np.array([[3.0, 1.0, 2.0], [2.0, 3.0, 1.0], [0.0, 0.0, 0.0]])
    columns = np.array([[1.0, 3.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    assert [own.tolist() for own in undominated(np.stack([rows, columns]))] == [[0, 1], [0, 1]]


def test_the_unit_is_the_range_of_what_is_left():
    game = zero_sum(BIASED_RPS)
    assert unit(game) == 4.0 and unit(with_a_bad_member(game, 1e9)) == 4.0
    assert unit(1e-9 * game) == pytest.approx(4e-9) and unit(np.ones((2, 3, 3))) == 1.0


def test_where_one_strategy_is_left_the_unit_is_what_the_last_two_differed_by():
    """Each member beats the one before it: by 1e6, then by 3."""
    own = np.array([0.0, 1e6, 1e6 + 3.0])
    game = np.stack([own[:, None] + np.zeros(3), own[None, :] + np.zeros((3, 1))])
    assert unit(game) == pytest.approx(3.0)
    for mixture in alpha_rank(game):
        assert mixture[2] > 0.99


# -- what sums are ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_one_great_loss_makes_no_zero_sum_game_of_the_rest(scale):
    coordination = np.stack([np.eye(3), np.eye(3)])
    table = with_a_bad_member(coordination, 0.0)
    table[0, 3, :], table[1, 3, :] = -1e9, 1e9
    assert not is_constant_sum(table * scale)
    manager = PayoffManager(["a", "b"])
    manager.expand([4, 4])
    manager.record_exact(table * scale)
    np.testing.assert_array_equal(manager.table(), table * scale)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_sums_are_constant_up_to_rounding_at_every_scale_and_offset(scale, offset):
    matrix = np.random.default_rng(0).normal(size=(7, 5))
    game = np.stack([matrix + offset, 3.0 - matrix - offset]) * scale
    assert is_constant_sum(game)
    assert sums_to(game, 3.0 * scale) and not sums_to(game, 3.1 * scale)
    game[0, 2, 2] += 0.01 * scale
    assert not is_constant_sum(game)


def test_sums_of_rewards_in_single_precision_are_constant():
    matrix = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    assert is_constant_sum(np.stack([matrix, (np.float32(0.7) - matrix)]).astype(np.float64))
    assert is_constant_sum(np.zeros((2, 3, 3))) and is_constant_sum(np.stack([np.eye(9), -np.eye(9)]))


def test_sums_of_a_zero_sum_game_are_made_exactly_zero():
    manager = PayoffManager(["a", "b"])
    manager.expand([3, 3])
    manager.record_exact(np.stack([BIASED_RPS, -BIASED_RPS * (1.0 + 1e-12)]))
    assert not manager.table().sum(axis=0).any()


# -- the program -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.0, 1e3, 1e9, 1e12, 1e15])
def test_nash_beside_a_dominated_member(loss):
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = RPS
    matrix[3, :3], matrix[:3, 3] = -loss, loss
    for mixture in nash(zero_sum(matrix)) if loss else nash(zero_sum(RPS)):
        np.testing.assert_allclose(mixture[:3], [1 / 3] * 3, atol=1e-6)


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("kind", ["row", "entries", "player"])
def test_nash_of_random_games_with_a_few_huge_payoffs(size, kind):
    """What is left to gain is little of what the game is about: the distance between both players' pure guarantees."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        matrix = rng.normal(size=rng.integers(2, 20, size=2))
        rows, columns = matrix.shape
        if kind == "entries":
            for _ in range(3):
                matrix[rng.integers(rows), rng.integers(columns)] *= size
        elif kind == "row":
            matrix[rng.integers(rows)] *= size
        else:
            matrix[:, rng.integers(columns)] += size
        mixtures = nash(zero_sum(matrix))
        about = matrix.max(axis=0).min() - matrix.min(axis=1).max()
        rounding = 16.0 * np.finfo(float).eps * np.ptp(matrix)
        assert gap(zero_sum(matrix), mixtures) <= max(1e-6 * about, rounding)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_matrix_games_of_every_shape_and_scale(scale):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        matrix = rng.integers(-2, 3, size=rng.integers(1, 9, size=2)).astype(float) * scale
        if seed % 4 == 0:
            matrix = np.repeat(np.repeat(matrix, 2, axis=0), 3, axis=1)  # duplicates
        x, y = solve_matrix(matrix)
        assert gap(zero_sum(matrix), [x, y]) <= 1e-8 * scale


# -- the dynamics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [1e2, 1e9, 1e15])
@pytest.mark.parametrize("solver", [*DYNAMICS, nash])
def test_what_a_dominated_member_loses_changes_no_mixture(solver, loss):
    """One that loses a hundred is dominated as well as one that loses more: the same bits come out."""
    game = with_a_bad_member(zero_sum(BIASED_RPS), 0.0)
    if solver is nash:
        game[1, 3] = -game[0, 3]
        game[0, :, 3] = -game[1, :, 3]
    else:
        game = with_a_bad_member(zero_sum(BIASED_RPS), loss)
        alone = solver(zero_sum(BIASED_RPS), gamma=0.0) if solver is prd else solver(zero_sum(BIASED_RPS))
        with_it = solver(game, gamma=0.0) if solver is prd else solver(game)
        for mixture, other in zip(with_it, alone, strict=True):
            assert mixture[3] == 0.0
            np.testing.assert_array_equal(mixture[:3], other)


@pytest.mark.parametrize("loss", [30.0, 1e4, 1e9])
def test_prd_keeps_dominated_members_at_the_floor(loss):
    mixtures = prd(with_a_bad_member(zero_sum(BIASED_RPS), loss), gamma=0.1)
    for mixture in mixtures:
        assert mixture.sum() == pytest.approx(1.0, abs=1e-12)
        assert mixture[3] == pytest.approx(0.025, abs=1e-12) and mixture.min() >= 0.025 - 1e-12


@pytest.mark.parametrize("num_players", [2, 3, 4])
@pytest.mark.parametrize("solver", DYNAMICS)
def test_dominated_members_of_games_of_more_players(solver, num_players):
    rng = np.random.default_rng(num_players)
    game = rng.normal(size=(num_players, *[3] * num_players))
    for mixture, other in zip(
        solver(with_a_bad_member(game, 1e6), num_iterations=500), solver(game, num_iterations=500), strict=True
    ):
        np.testing.assert_allclose(mixture[:3], other, atol=1e-3)  # the floor of prd, spread over four


@pytest.mark.parametrize("loss", [30.0, 1e3, 1e6])
@pytest.mark.parametrize("solver", DYNAMICS)
def test_what_nobody_comes_to_does_not_slow_the_others_down(solver, loss):
    """Among the others play is as near the equilibrium as without crashes, where uniform play leaves 2/3 to gain."""
    game = crashes(zero_sum(BIASED_RPS), loss)
    assert [len(own) for own in undominated(game)] == [4, 4]
    assert gap(zero_sum(BIASED_RPS), among_the_good(solver(game))) < 0.05


@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e12])
@pytest.mark.parametrize("solver", DYNAMICS)
def test_every_player_has_a_unit_of_its_own(solver, factor):
    game = zero_sum(BIASED_RPS)
    game[1] *= factor
    for mixture, other in zip(solver(game), solver(zero_sum(BIASED_RPS)), strict=True):
        np.testing.assert_allclose(mixture, other, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e12])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 2), (2, 1, 3), (2, 2, 2, 2)])
@pytest.mark.parametrize("name", META_SOLVERS)
def test_ties_constants_and_lone_strategies_at_every_scale(name, shape, scale):
    solver = META_SOLVERS[name]
    if name == "nash" and len(shape) != 2:
        return
    rng = np.random.default_rng(0)
    for own in (np.zeros(shape), np.ones(shape), rng.integers(0, 2, size=shape)):
        tables = [own, -own] if len(shape) == 2 else [own] * len(shape)
        for mixture, size in zip(solver(np.stack(tables) * scale), shape, strict=True):
            assert mixture.shape == (size,) and mixture.min() >= 0.0 and mixture.sum() == pytest.approx(1.0, abs=1e-12)


def test_mixtures_are_spread_over_all():
    np.testing.assert_array_equal(spread_out(np.array([0.3, 0.7]), np.array([1, 3]), 4), [0.0, 0.3, 0.0, 0.7])


# -- alpha-rank --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [2.0, 12.0, 16.0, 100.0, 1e4])
def test_alpha_rank_of_a_coordination_game_is_exact_at_every_alpha(alpha):
    """Prizes 3 and 1, so harm is 1 and 1/3 of the range. Both coordinate in time all but e^(-alpha / 3), and the odds
    of the first are those of leaving the second: e^(49 alpha (1 - 1/3)) times (1 - e^-s) / (1 - e^-50s) each."""
    joint = alpha_rank_joint(np.stack([[[3.0, 0.0], [0.0, 1.0]]] * 2), alpha=alpha)
    log_odds = 49 * alpha * 2 / 3
    assert joint[0, 0] > 0.99
    if log_odds < 700:  # else the share is no number any more
        ratio = joint[1, 1] / joint[0, 0]
        assert math.log(ratio) == pytest.approx(-log_odds, abs=2.0)  # the two factors differ by less than e^2


def log_shares_by_trees(log_rates):
    """The Markov chain tree theorem: a state's share is the sum, over all trees that lead to it, of their rates."""
    size = len(log_rates)
    totals = np.full(size, -np.inf)
    for root in range(size):
        rest = [state for state in range(size) if state != root]
        for targets in itertools.product(range(size), repeat=size - 1):
            to = dict(zip(rest, targets, strict=True))
            if all(_arrives(state, to, root) for state in rest):
                rates = sum(log_rates[state, target] for state, target in to.items())
                totals[root] = np.logaddexp(totals[root], rates)
    return totals - np.logaddexp.reduce(totals)


def _arrives(state, to, root):
    for _ in range(len(to)):
        state = to[state]
        if state == root:
            return True
        if to.get(state) is None:
            return False
    return False


@pytest.mark.parametrize("alpha", [1.0, 20.0, 100.0, 1000.0])
@pytest.mark.parametrize("seed", range(4))
def test_alpha_rank_is_what_the_chains_trees_say(alpha, seed):
    game = np.random.default_rng(seed).normal(size=(2, 2, 2))
    profiles = list(np.ndindex(2, 2))
    log_rates = np.full((4, 4), -np.inf)
    for one, other in itertools.permutations(range(4), 2):
        changed = [k for k in range(2) if profiles[one][k] != profiles[other][k]]
        if len(changed) == 1:
            gain = alpha * (game[(changed[0], *profiles[other])] - game[(changed[0], *profiles[one])]) / unit(game)
            # log of (1 - e^-g) / (1 - e^-50g), for losses multiplied by e^50g / e^g above and below
            log_rate = math.log(math.expm1(-abs(gain)) / math.expm1(-50 * abs(gain)))
            log_rates[one, other] = log_rate - (49 * abs(gain) if gain < 0.0 else 0.0)
    joint = alpha_rank_joint(game, alpha=alpha)
    # Relative accuracy is that of the logarithms, which are as large as 49 alpha and more.
    rounding = 100 * 3 * 50 * alpha * np.finfo(float).eps
    np.testing.assert_allclose(joint.ravel(), np.exp(log_shares_by_trees(log_rates)), rtol=rounding, atol=1e-300)


def test_openspiels_alpha_rank_gives_up_on_a_coordination_game():
    """Two states that are hardly ever left: its eigenvector solver finds two stationary distributions, or none."""
    pytest.importorskip("matplotlib")
    reference = pytest.importorskip("open_spiel.python.egt.alpharank")
    common = np.array([[3.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="stationary"):
        reference.compute([common, common], m=50, alpha=100.0)
    np.testing.assert_allclose(alpha_rank(np.stack([common, common]), alpha=100.0)[0], [1.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("loss", [30.0, 1e4, 1e9])
def test_alpha_ranks_selection_is_as_strong_beside_a_bad_member(loss):
    alone = alpha_rank(zero_sum(BIASED_RPS))
    for mixture, other in zip(alpha_rank(with_a_bad_member(zero_sum(BIASED_RPS), loss)), alone, strict=True):
        np.testing.assert_allclose(mixture[:3], other, atol=1e-12)
        assert mixture[3] < 1e-12


# -- joint distributions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [30.0, 1e4, 1e9])
@pytest.mark.parametrize("name", JOINT_SOLVERS)
def test_joint_distributions_beside_a_dominated_member(name, loss):
    """What is left to gain is little of what the others play for: epsilon for each recommendation, or rounding."""
    for seed in range(4):
        game = with_a_bad_member(np.random.default_rng(seed).normal(size=(2, 4, 3)), loss)
        joint = JOINT_SOLVERS[name](game)
        gains = (ce_gains if name.endswith("_ce") else cce_gains)(game, joint)
        # Epsilon is kept to a tenth, by each of up to five recommendations.
        assert gains.max() <= (5 * 1.1e-6 * unit(game) if "entropy" in name else 1e-6)
        if name.endswith("_ce"):
            assert not joint[4].any() and not joint[:, 3].any()


@pytest.mark.parametrize("loss", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("name", ["max_welfare_cce", "max_welfare_ce"])
def test_largest_welfare_beside_crashes(name, loss):
    game = crashes(np.random.default_rng(0).normal(size=(2, 4, 4)), loss)
    joint = JOINT_SOLVERS[name](game)
    assert (ce_gains if name.endswith("_ce") else cce_gains)(game, joint).max() < 1e-6


def test_payoffs_from_1e_minus_9_to_1e12_with_ties_duplicates_and_outliers():
    """Random games of two to four players: distributions come out, and programs are solved."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        num_players = 2 + seed % 3
        shape = rng.integers(1, 4, size=num_players)
        game = rng.integers(-2, 3, size=(num_players, *shape)).astype(float)
        if seed % 4 == 1:
            game = np.repeat(game, 2, axis=1)
        index = tuple(rng.integers(size) for size in game.shape[1:])
        if seed % 4:
            game[(slice(None), *index)] *= 10.0 ** rng.integers(1, 10)
        elif num_players == 2:
            game[1] = -game[0]
        game *= 10.0 ** rng.integers(-9, 13)
        solvers = {name: solver for name, solver in META_SOLVERS.items() if name != "nash" or is_constant_sum(game)}
        for name, solver in solvers.items():
            settings = {"num_iterations": 200} if solver in DYNAMICS else {}
            for mixture, size in zip(solver(game, **settings), game.shape[1:], strict=True):
                assert mixture.shape == (size,) and mixture.min() >= 0.0, (seed, name)
                assert mixture.sum() == pytest.approx(1.0, abs=1e-9), (seed, name)
        for name, solver in JOINT_SOLVERS.items():
            joint = solver(game)
            assert joint.min() >= 0.0 and joint.sum() == pytest.approx(1.0, abs=1e-9), (seed, name)
