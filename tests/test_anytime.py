"""Mixtures that are safe against the whole game: their definition by another program, and NashConv that never rises."""

import numpy as np
import pytest
from test_psro import KUHN, play
from test_psro import make as make_scenario

from malib_lite.config import ConfigError
from malib_lite.envs.matrix import env_desc_gen
from malib_lite.population.anytime import AnytimeSolver
from malib_lite.population.exploitability import ExactEvaluator, exact_game
from malib_lite.population.meta_solvers import nash

EXACT = {"oracle": "exact", "meta_solver": "anytime"}


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_payoffs_may_be_large_or_small(tmp_path, scale):
    """In full precision, what is left of the sums' rounding is no gain, and no answer comes twice."""
    payoffs = scale * np.random.default_rng(0).normal(size=(6, 7))
    game = {"form": "zero_sum", "payoffs": payoffs.tolist()}
    _, lines, _ = play(tmp_path, "psro", "matrix/custom", env_config=game, psro=EXACT, iterations=60)
    assert lines[-1]["nash_conv"] < 0.02 * scale < lines[0]["nash_conv"]


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_no_mixture_of_the_pool_is_safer(constant):
    """In a matrix game the other player's whole game is its actions: one linear program finds the safest mixture."""
    random = np.random.default_rng(7)
    rows = random.normal(size=(9, 12))
    description = env_desc_gen(env_id="custom", payoffs=np.stack([rows, constant - rows], axis=-1))
    groups = {"player_0": ["player_0"], "player_1": ["player_1"]}
    evaluator = ExactEvaluator(exact_game(description, groups, []))
    pools = [random.dirichlet(np.ones(size), size=count) for size, count in ((9, 4), (12, 5))]
    for agent, pool in zip(groups, pools, strict=True):
        for policy in pool:
            evaluator.add_table(agent, policy[None])
    mixtures = AnytimeSolver(evaluator)(evaluator.payoffs())
    first, second = pools[0] @ rows, -pools[1] @ rows.T  # what members earn against every action
    for mixture, safe in zip(mixtures, (first, second), strict=True):
        best = nash(np.stack([safe, -safe]))[0]
        assert (mixture @ safe).min() == pytest.approx((best @ safe).min(), abs=0.01 * np.ptp(rows))
    of_table = nash(evaluator.payoffs())
    exploited = [sum(evaluator.gains(dict(zip(groups, each, strict=True)))) for each in (mixtures, of_table)]
    assert exploited[0] < exploited[1] - 0.05  # which the table alone does not tell


def test_nash_conv_never_rises_and_reaches_zero(tmp_path):
    for solver in ("anytime", "nash"):
        settings = {"oracle": "exact", "meta_solver": solver}
        summary, lines, _ = play(tmp_path / solver, "psro", psro=settings, iterations=20)
        curve = np.array([line["nash_conv"] for line in lines])
        assert summary["nash_conv"] < 1e-6 and summary["iteration"] <= 12
        assert lines[-1]["player_0/value"] == pytest.approx(-1 / 18, abs=1e-8)
        assert np.all(curve[1:] <= 1.01 * curve[:-1] + 1e-9) == (solver == "anytime")  # of nash it does rise


@pytest.mark.parametrize(("iterations", "bound"), [(15, 1.2), pytest.param(100, 0.05, marks=pytest.mark.slow)])
def test_leduc_poker_needs_fewer_rounds(tmp_path, iterations, bound):
    """The double oracle is at 2.8 and 0.4 then, and was at 6.8."""
    summary, lines, _ = play(tmp_path, "psro", "open_spiel/leduc_poker", psro=EXACT, iterations=iterations)
    curve = np.array([line["nash_conv"] for line in lines])
    assert np.all(curve[1:] <= 1.01 * curve[:-1])
    assert summary["nash_conv"] < bound


def test_learnt_best_responses_are_mixed_safely(tmp_path):
    settings = {"meta_solver": "anytime"}
    _, lines, _ = play(tmp_path, "psro", psro=settings, steps=2000, iterations=3, algorithm="ppo")
    curve = np.array([line["nash_conv"] for line in lines])
    assert np.all(curve[1:] <= 1.01 * curve[:-1]) and curve[-1] < 0.75  # untrained networks are at 0.91


def test_symmetric_populations_may_be_one(tmp_path):
    settings = {**EXACT, "symmetric": True}
    summary, _, _ = play(tmp_path, "psro", "matrix/rock_paper_scissors", psro=settings, iterations=5)
    assert summary["nash_conv"] < 1e-6


@pytest.mark.parametrize(
    "env, settings, words",
    [
        ("open_spiel/tic_tac_toe", {}, "'psro.meta_solver' = 'anytime': only for small games"),
        (KUHN, {"payoffs": "sampled"}, "'psro.payoffs' = 'sampled'.*anytime"),
        (f"{KUHN}(players=3)", {}, "two-player zero-sum.*3 players"),
        ("matrix/chicken", {}, "not add up to a constant"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(tmp_path, env, settings, words):
    with pytest.raises(ConfigError, match=words):
        make_scenario(tmp_path, "psro", env, psro={"meta_solver": "anytime", **settings})
