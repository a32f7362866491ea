"""PSRO, XDO and self-play as scenarios: oracles that know and oracles that learn, on games whose answers are known."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from malib_lite.backend.members import Member, MemberFolder
from malib_lite.config import ConfigError, describe
from malib_lite.population.correlated import JOINT_SOLVERS
from malib_lite.population.meta_solvers import META_SOLVERS
from malib_lite.population.saved import SavedPopulation
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.scenarios import psro_config
from malib_lite.scenarios.psro_config import PSROConfig
from malib_lite.scenarios.psro_scenario import PSROScenario
from malib_lite.train import TrainConfig, build, make_scenario

KUHN = "open_spiel/kuhn_poker"


def make(folder, scenario, env=KUHN, **settings):
    return make_scenario(
        build(TrainConfig, {"scenario": scenario, "env": env, "workers": 0, "logdir": str(folder), **settings})
    )


def play(folder, scenario, env=KUHN, **settings):
    """Run in this process; returns summary, the metrics' lines, and the saved state."""
    summary = run(make(folder, scenario, env, **settings), Console(quiet=True))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return summary, lines, json.loads((folder / "checkpoints" / "state.json").read_text())


# -- exact best responses -------------------------------------------------------------------------------------------


def test_exact_best_responses_solve_kuhn_poker(tmp_path):
    summary, lines, state = play(tmp_path, "psro", psro={"oracle": "exact"})
    assert lines[0]["nash_conv"] == pytest.approx(11 / 12)  # of uniformly random play
    assert summary["nash_conv"] < 1e-6 and summary["iteration"] <= 12
    assert lines[-1]["player_0/value"] == pytest.approx(-1 / 18, abs=1e-8)
    assert summary["env_steps"] == 0 and not list((tmp_path / "logs").iterdir())  # nothing was played
    assert {len(members) for members in state["members"].values()} == {summary["iteration"] + 1}
    payoffs = SavedPopulation.read(tmp_path).payoffs
    assert payoffs is not None and np.allclose(payoffs.sum(axis=0), 0.0)


@pytest.mark.parametrize(
    ("env", "psro", "message"),
    [
        ("open_spiel/leduc_poker", {"meta_solver": "alpha_rank"}, r"= 60: .* 3,721 .* 'alpha_rank' takes 1,024; .* 31"),
        (KUHN, {"meta_solver": "max_entropy_cce"}, r"= 60: .* 3,721 .* 'max_entropy_cce' takes 2,048; .* 44"),
        (KUHN, {"meta_solver": "max_entropy_ce", "max_responses": 4}, r"at most 11, or max_welfare_cce"),
        ("open_spiel/kuhn_poker(players=3)", {"meta_solver": "alpha_rank"}, r"3 players .* at most 9"),
        ("open_spiel/kuhn_poker(players=5)", {"payoffs": "sampled"}, r"table of payoffs takes 10,000,000; .* 24"),
        (KUHN, {"meta_solver": "alpha_rank", "pipeline": 5}, r"= 60: .* 4,225 .* at most 27"),
    ],
)
def test_populations_that_grow_too_large_are_refused_before_the_start(tmp_path, env, psro, message):
    with pytest.raises(ConfigError, match=message):
        make(tmp_path / "run", "psro", env, psro=psro, iterations=60)
    assert not (tmp_path / "run").exists()
    fits = {**psro, "meta_solver": "alpha_rank", "max_responses": None, "payoffs": "auto", "pipeline": 1}
    make(tmp_path / "run", "psro", KUHN, psro=fits, iterations=31)


def test_games_of_few_policies_may_have_any_number_of_iterations(tmp_path):
    """Three actions: one member that plays all, and three that play one, whatever the number of iterations."""
    env = "matrix/rock_paper_scissors"
    psro = {"oracle": "exact", "meta_solver": "alpha_rank"}
    summary, _, state = play(tmp_path, "psro", env, psro=psro, iterations=1000)
    assert summary["iteration"] < 10 and max(map(len, state["members"].values())) <= 4


def test_a_population_that_grew_too_large_ends_the_run_with_what_there_is(tmp_path, monkeypatch, capsys):
    """How many best responses a correlated equilibrium asks for is not known before the start."""
    monkeypatch.setitem(psro_config.PROFILE_LIMITS, "max_entropy_ce", 25)
    scenario = make(tmp_path, "psro", psro={"oracle": "exact", "meta_solver": "max_entropy_ce"}, iterations=4)
    summary = run(scenario, Console())
    assert "the run ends here" in capsys.readouterr().out
    sizes = SavedPopulation.read(tmp_path).payoffs.shape[1:]
    assert np.prod(sizes) <= 25 and summary["iteration"] < 4 and summary["ce_gap"] > 0.0


@pytest.mark.parametrize("env", ["matrix/prisoners_dilemma", "matrix/rock_paper_scissors"])
def test_xdo_refuses_games_without_restrictions_before_the_start(tmp_path, env):
    with pytest.raises(ConfigError, match=r"^xdo: .*--psro.oracle exact"):
        make(tmp_path / "run", "xdo", env)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_what_counts_as_a_gain_goes_by_the_games_payoffs(tmp_path, scale):
    rows = [[0, -1, 2], [1, 0, -1], [-2, 1, 0]]
    payoffs = [[[value * scale, -value * scale] for value in row] for row in rows]
    settings = {"psro": {"oracle": "exact"}, "env_config": {"payoffs": payoffs}}
    summary, lines, _ = play(tmp_path, "psro", "matrix/custom", **settings)
    assert lines[0]["nash_conv"] == pytest.approx(2 / 3 * scale) and summary["nash_conv"] < 1e-8 * scale


def fictitious_play_by_hand(game, num_iterations):
    """NashConv of the averages of all best responses, from uniform policies on, as plain tables of every response."""
    pools = [[legal / legal.sum(axis=1, keepdims=True)] for _, legal in map(game.information_sets, game.agents)]
    found = []
    for _ in range(num_iterations + 1):
        tables = [np.stack(pool) for pool in pools]
        mixtures = [np.full(len(pool), 1.0 / len(pool)) for pool in pools]
        found.append(game.nash_conv(tables, mixtures))
        for agent, pool in zip(game.agents, pools, strict=True):
            pool.append(game.best_response(agent, tables, mixtures)[1])
    return found


def test_uniform_mixtures_and_exact_best_responses_are_fictitious_play(tmp_path):
    """A best response that is a member already counts again, and its payoffs are not computed twice."""
    summary, lines, state = play(tmp_path, "psro", psro={"oracle": "exact", "meta_solver": "uniform"}, iterations=100)
    game = make(tmp_path / "other", "psro", psro={"oracle": "exact"})._exact_game()
    expected = fictitious_play_by_hand(game, 100)
    np.testing.assert_allclose([line["nash_conv"] for line in lines if "nash_conv" in line], expected, atol=1e-9)
    assert summary["iteration"] == 100 and summary["nash_conv"] < 0.07
    for player, members in state["members"].items():
        assert len(set(members)) == len(members) < 20
        counts = np.array(lines[-1][f"{player}/mixture"]) * 101
        np.testing.assert_allclose(counts, counts.round(), atol=1e-3)
    payoffs = SavedPopulation.read(tmp_path).payoffs
    assert payoffs is not None and payoffs.shape[1:] == tuple(map(len, state["members"].values()))


def test_naive_self_play_goes_in_circles_and_its_average_does_not_help(tmp_path):
    """The same oracle, the same game: answering only the last policy does not come near the equilibrium."""
    naive = {"oracle": "exact", "opponents": "naive"}
    summary, lines, _ = play(tmp_path / "naive", "self_play", self_play=naive, iterations=40)
    assert min(line["nash_conv"] for line in lines) > 0.3
    fictitious = {"oracle": "exact", "opponents": "fictitious"}
    summary, lines, _ = play(tmp_path / "fictitious", "self_play", self_play=fictitious, iterations=50)
    assert summary["nash_conv_average"] < 0.07 < lines[10]["nash_conv_average"]


def test_a_run_ends_at_its_target(tmp_path):
    summary, lines, _ = play(tmp_path, "psro", psro={"oracle": "exact", "target": 0.3})
    assert summary["nash_conv"] <= 0.3 < min(line["nash_conv"] for line in lines[:-1])


def test_sampled_payoffs_of_exact_members_come_near(tmp_path):
    settings = {"oracle": "exact", "payoffs": "sampled", "payoff_error": 0.05, "payoff_episodes": 500}
    summary, _, _ = play(tmp_path, "psro", psro=settings, iterations=8)
    assert summary["nash_conv"] < 0.25  # known exactly all the same
    errors = SavedPopulation.read(tmp_path).errors
    assert 0.0 < errors.max() <= 0.05


def test_three_players_and_general_sum(tmp_path):
    summary, lines, _ = play(tmp_path / "3", "psro", f"{KUHN}(players=3)", psro={"oracle": "exact"}, iterations=6)
    assert summary["nash_conv"] < lines[0]["nash_conv"] / 2
    joint = {"oracle": "exact", "meta_solver": "max_welfare_cce"}
    summary, lines, _ = play(tmp_path / "cce", "psro", "matrix/battle_of_the_sexes", psro=joint)
    assert summary["cce_gap"] < 1e-6 and "nash_conv" not in summary
    assert lines[-1]["player_0/value"] + lines[-1]["player_1/value"] == pytest.approx(3.0)  # the best there is


def zero_sum(payoffs):
    """A game from what the first player gets."""
    return {"env": "matrix/custom", "env_config": {"form": "zero_sum", "payoffs": np.asarray(payoffs).tolist()}}


def actions(folder, state, player="player_0"):
    """What deterministic members of a game of one round do; None: something mixed."""
    members = [Member.parse(member) for member in state["members"][player]]
    tables = [MemberFolder(folder / "checkpoints" / "policies").load(member.digest)["table"][0] for member in members]
    return [int(table.argmax()) if table.max() == 1.0 else None for table in tables]


RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])  # rock, paper, scissors: 0, 1, 2


def test_rectified_nash_answers_for_every_member_that_is_played(tmp_path):
    """Beside rock, paper and scissors there are other such, 3, 4 and 5, which beat the first by 1/2 each, and win and
    lose 0.9 where the first win and lose 1. By the last strategy, 6, the first answers are rock, paper and scissors,
    and the equilibrium plays them alike. Rock beats scissors and ties with rock, which makes 1/2. Its best response is
    3, which makes 0.7.
    """
    better = np.zeros((7, 7))
    better[:3, :3], better[3:6, :3], better[:3, 3:6] = RPS, 0.9 * RPS + np.eye(3) / 2, 0.9 * RPS - np.eye(3) / 2
    better[6], better[:, 6] = [-11, -10, -10, 9, 9, 9, 0], [11, 10, 10, -9, -9, -9, 0]
    settings = {"oracle": "exact", "meta_solver": "rectified_nash"}
    _, lines, state = play(tmp_path / "all", "psro", **zero_sum(better), psro=settings, iterations=4)
    assert lines[3]["player_0/mixture"] == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3], abs=1e-6)
    for player in state["members"]:
        added = actions(tmp_path / "all", state, player)
        assert added[:4] == [None, 0, 1, 2] and set(added[4:]) == {3, 4, 5} and len(added) == 7
        assert lines[4][f"{player}/gain"] == pytest.approx(0.2)
    settings |= {"max_responses": 2, "symmetric": True}
    _, _, state = play(tmp_path / "two", "psro", **zero_sum(better), psro=settings, iterations=4)
    added = actions(tmp_path / "two", state)
    assert added[:4] == [None, 0, 1, 2] and set(added[4:]) < {3, 4, 5} and len(added) == 6


def test_rectified_nash_may_stop_short_of_an_equilibrium(tmp_path):
    """Strategy 3 beats rock, paper and scissors by 0.4 each (McAleer et al. 2020, on pipeline PSRO): less than they
    make of whom they beat or tie with. The last strategy only keeps 3 from being the answer to uniform play.
    """
    game = np.pad(RPS, (0, 2))
    game[3], game[:, 3] = [0.4, 0.4, 0.4, 0.0, -20.0], [-0.4, -0.4, -0.4, 0.0, 20.0]
    game[4, :3], game[:3, 4] = -10.0, 10.0
    for solver, nash_conv in (("rectified_nash", 0.8), ("nash", 0.0)):
        settings = {"oracle": "exact", "meta_solver": solver}
        summary, _, state = play(tmp_path / solver, "psro", **zero_sum(game), psro=settings)
        assert summary["nash_conv"] == pytest.approx(nash_conv, abs=1e-6)
        assert (3 in actions(tmp_path / solver, state)) == (solver == "nash")


def test_rectified_nash_comes_nearer_in_kuhn_poker(tmp_path):
    settings = {"oracle": "exact", "meta_solver": "rectified_nash"}
    summary, lines, state = play(tmp_path, "psro", psro=settings)
    assert summary["nash_conv"] < 0.2 < lines[0]["nash_conv"]  # and ends there, at 0.1434:
    assert summary["iteration"] < 12  # what still gains is known already, or nothing does
    assert max(len(members) for members in state["members"].values()) > summary["iteration"] + 1


def test_correlated_equilibria_by_best_responses_to_recommendations(tmp_path):
    joint = {"oracle": "exact", "meta_solver": "max_welfare_ce"}
    summary, lines, _ = play(tmp_path / "welfare", "psro", "matrix/battle_of_the_sexes", psro=joint)
    assert summary["ce_gap"] < 1e-6 and "cce_gap" not in summary
    assert lines[-1]["player_0/value"] + lines[-1]["player_1/value"] == pytest.approx(3.0)
    joint = {"oracle": "exact", "meta_solver": "max_entropy_ce"}
    summary, lines, _ = play(tmp_path / "entropy", "psro", psro=joint)
    assert lines[0]["ce_gap"] == pytest.approx(11 / 12) and summary["ce_gap"] < 1e-4
    assert lines[-1]["player_0/value"] == pytest.approx(-1 / 18, abs=1e-4)  # as in all equilibria of zero-sum games


def test_one_population_for_both_players_of_a_symmetric_game(tmp_path):
    settings = {"symmetric": True, "min_gain": 0.0}
    _, lines, state = play(
        tmp_path, "psro", "matrix/rock_paper_scissors", psro=settings, steps=600, iterations=6, algorithm="dqn"
    )
    assert state["members"]["player_0"] == state["members"]["player_1"]
    assert lines[-1]["player_0/mixture"] == lines[-1]["player_1/mixture"]
    payoffs = SavedPopulation.read(tmp_path).payoffs
    assert np.array_equal(payoffs[0], payoffs[1].T)


def test_extensive_form_double_oracle(tmp_path):
    summary, lines, state = play(tmp_path, "xdo")
    assert summary["nash_conv"] < 1e-9 and summary["iteration"] <= 4 and lines[0]["nash_conv"] > 0.1
    member = Member.parse(state["members"]["player_0"][0])
    table = MemberFolder(tmp_path / "checkpoints" / "policies").load(member.digest)["table"]
    assert np.allclose(table.sum(axis=1), 1.0)
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["xdo"].keys() == {"max_iteration", "target"}


# -- learnt best responses ------------------------------------------------------------------------------------------

SMALL = {"algorithm": "ppo", "steps": 300, "rollout": {"num_env_per_thread": 16, "fragment_length": 256}}


def test_responses_without_gain_are_kept_out(tmp_path):
    """No more than 4 can be gained in this game: nobody is admitted, and then the run is over."""
    settings = {"min_gain": 4.5, "second_chances": 1}
    summary, _, state = play(tmp_path, "psro", psro=settings, steps=300, iterations=3, algorithm="dqn")
    assert summary["iteration"] == 0 and {len(members) for members in state["members"].values()} == {1}


def test_warm_starts_begin_where_the_parent_is(tmp_path):
    """With learning rate 0 a policy that starts from another one stays equal to it; one that starts anew does not."""
    frozen = {"steps": 300, "iterations": 2, "trainer": {"learning_rate": 0.0}, "algorithm": "ppo"}
    for warm_start, same in (("latest", True), ("best", True), ("none", False)):
        _, _, state = play(tmp_path / warm_start, "psro", psro={"warm_start": warm_start}, **frozen)
        for members in state["members"].values():
            assert (len(set(members)) == 1) == same


def test_a_lower_bound_of_nash_conv(tmp_path):
    settings = {"final_response_steps": 30_000, "payoffs": "sampled", "payoff_episodes": 4000}
    summary, _, _ = play(tmp_path, "psro", psro=settings, steps=500, iterations=1, algorithm="dqn")
    assert "nash_conv" not in summary and summary["nash_conv_lower_bound"] > 0.1


def test_snapshots_of_self_play_never_change(tmp_path):
    _, lines, state = play(tmp_path, "self_play", steps=600, iterations=3, self_play={"opponents": "pfsp"})
    folder = MemberFolder(tmp_path / "checkpoints" / "policies")
    for members in state["members"].values():
        assert len(set(members)) == 4  # each generation is another policy
        for member in members:
            folder.load(Member.parse(member).digest)  # which checks that the file is what its name says
    assert 0.0 <= lines[-1]["player_0/win_rate"] <= 1.0


@pytest.mark.parametrize("paid", [0.0, 1.5, -1.5])
def test_games_are_won_by_who_gets_more_whatever_both_are_paid(tmp_path, paid):
    """Rock, paper, scissors against the untrained: a third is won, drawn, lost, though all returns may be above 0."""
    payoffs = [[[value + paid, -value + paid] for value in row] for row in ([0, -1, 1], [1, 0, -1], [-1, 1, 0])]
    env = {"env": "matrix/custom", "env_config": {"payoffs": payoffs}}
    _, lines, _ = play(tmp_path, "self_play", steps=600, iterations=1, self_play={"opponents": "pfsp"}, **env)
    for player in ("player_0", "player_1"):
        assert 0.3 < lines[-1][f"{player}/win_rate"] < 0.7


def test_rectified_responses_start_from_their_members(tmp_path):
    frozen = {"iterations": 2, "trainer": {"learning_rate": 0.0}, **SMALL}
    _, _, state = play(tmp_path, "psro", "matrix/rock_paper_scissors", psro={"meta_solver": "rectified_nash"}, **frozen)
    for members in state["members"].values():
        assert len(members) > 2 and len(set(members)) == 1


def test_players_may_have_different_numbers_of_objectives(tmp_path, monkeypatch):
    """All train as often as the one who has most to do; what the others have too much is dropped."""
    wanted = PSROScenario._wanted

    def uneven(scenario, run):
        objectives = wanted(scenario, run)
        objectives["player_0"] *= 2
        return objectives

    monkeypatch.setattr(PSROScenario, "_wanted", uneven)
    _, _, state = play(tmp_path, "psro", iterations=1, **SMALL)
    assert {player: len(set(members)) for player, members in state["members"].items()} == {"player_0": 3, "player_1": 2}


@pytest.mark.parametrize(
    "scenario, env, settings",
    [
        ("psro", KUHN, {}),
        ("psro", "matrix/rock_paper_scissors", {"psro": {"meta_solver": "rectified_nash"}, **SMALL}),
        ("self_play", KUHN, {}),
    ],
)
def test_processes_give_the_numbers_of_one_process(tmp_path, scenario, env, settings):
    settings = {"steps": 400, "iterations": 2, "algorithm": "ppo", **settings}
    _, here, state = play(tmp_path / "serial", scenario, env, **settings)
    _, there, _ = play(tmp_path / "processes", scenario, env, **settings | {"workers": 1})
    assert [{**line, "time": None} for line in here] == [{**line, "time": None} for line in there]
    assert len(state["members"]["player_0"]) == (4 if "psro" in settings else 3)  # one response, then perhaps two


def test_help_and_documents_name_every_meta_solver():
    help_texts = {key: text for key, _, _, text in describe(PSROConfig)}
    document = (Path(__file__).parents[1] / "docs" / "populations.md").read_text()
    for name in ("auto", "rectified_nash", "anytime", *META_SOLVERS, *JOINT_SOLVERS):
        assert re.search(rf"\b{name}\b", help_texts["meta_solver"]) and f"`{name}`" in document, name


def newest(payoffs):
    """Somebody's own meta-solver: all play their latest."""
    return [np.eye(size)[-1] for size in payoffs.shape[1:]]


def no_distribution(payoffs):
    return [np.ones(size) for size in payoffs.shape[1:]]


def one_mixture(payoffs):
    return [np.ones(1)]


def test_a_meta_solver_of_ones_own(tmp_path):
    for number, own in enumerate((newest, "test_psro:newest")):
        settings = {"oracle": "exact", "meta_solver": own}
        _, lines, _ = play(tmp_path / str(number), "psro", psro=settings, iterations=2)
        assert lines[-1]["player_0/mixture"] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "solver, words",
    [
        (no_distribution, "'psro.meta_solver' = no_distribution: gives what is no distribution"),
        (one_mixture, "one_mixture: gives arrays of .*not one mixture for each player"),
        (lambda payoffs: None, "lead to TypeError"),
        (lambda payoffs: {}["x"], "lead to KeyError: 'x' .*test_psro.py:[0-9]+"),
    ],
)
def test_wrong_mixtures_are_told(tmp_path, solver, words):
    with pytest.raises(ConfigError, match=words):
        play(tmp_path, "psro", psro={"oracle": "exact", "meta_solver": solver}, iterations=2)


# -- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario, env, settings, words",
    [
        ("psro", "open_spiel/tic_tac_toe", {"psro": {"oracle": "exact"}}, "small games"),
        ("psro", KUHN, {"psro": {"symmetric": True}}, "not symmetric"),
        ("psro", "open_spiel/tic_tac_toe", {"psro": {"symmetric": True}}, "cannot be checked"),
        ("psro", KUHN, {"psro": {"oracle": "exact"}, "algorithm": "dqn"}, "either learnt or computed"),
        ("psro", f"{KUHN}(players=3)", {"psro": {"meta_solver": "max_welfare_ce"}}, "two players"),
        ("psro", f"{KUHN}(players=3)", {"psro": {"meta_solver": "rectified_nash"}}, "two-player zero-sum.*3 players"),
        ("psro", "matrix/chicken", {"psro": {"meta_solver": "rectified_nash"}}, "not add up to a constant.*prd"),
        ("psro", "matrix/chicken", {"psro": {"meta_solver": "nash", "payoffs": "sampled"}}, "not add up to a constant"),
        ("psro", KUHN, {"psro": {"meta_solver": "rectified_nash", "warm_start": "latest"}}, "psro.warm_start"),
        ("psro", KUHN, {"psro": {"meta_solver": "rectified_nsh"}}, "rectified_nash"),
        (
            "psro",
            KUHN,
            {"psro": {"meta_solver": "test_psro:newst"}},
            "psro.meta_solver.*did you mean 'newest'",
        ),
        ("psro", KUHN, {"psro": {"meta_solver": "test_psro:KUHN"}}, "must be a function"),
        ("psro", KUHN, {"psro": {"max_responses": 0}}, "max_responses"),
        ("psro", KUHN, {"psro": {"max_responses": 2}}, "'psro.max_responses' = 2: .*'auto' asks for one"),
        ("psro", KUHN, {"psro": {"max_responses": 1, "meta_solver": "max_entropy_cce"}}, "_cce' asks for one"),
        ("psro", f"{KUHN}(players=3)", {"psro": {"meta_solver": "max_entropy_cce"}}, "two players"),
        ("self_play", KUHN, {"self_play": {"oracle": "exact", "opponents": "pfsp"}}, "naive, fictitious"),
        ("self_play", KUHN, {"psro": {"oracle": "exact"}}, "this one is self_play"),
        ("xdo", f"{KUHN}(players=3)", {}, "two-player"),
        ("xdo", "open_spiel/tic_tac_toe", {}, "^xdo: only for small games"),
        ("xdo", KUHN, {"algorithm": "dqn"}, "the scenario xdo.*either learnt or computed"),
        ("xdo", KUHN, {"xdo": {"payoff_episodes": 10}}, "unknown key 'xdo.payoff_episodes'"),
        ("xdo", KUHN, {"xdo": {"symmetric": True}}, "unknown key 'xdo.symmetric'"),
        ("xdo", KUHN, {"xdo": {"oracle": "learnt"}}, "unknown key 'xdo.oracle'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(tmp_path, scenario, env, settings, words):
    with pytest.raises(ConfigError, match=words):
        make(tmp_path, scenario, env, **settings)
