"""PSRO, XDO and self-play as scenarios: oracles that know and oracles that learn, on games whose answers are known."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from malib_lite.backend.members import Member, MemberFolder
from malib_lite.config import ConfigError
from malib_lite.runner import run
from malib_lite.runtime.console import Console
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
    payoffs = load_file(tmp_path / "checkpoints" / state["payoffs"])
    assert payoffs["known"].all() and np.allclose(payoffs["payoffs"].sum(axis=0), 0.0)


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
    summary, _, state = play(tmp_path, "psro", psro=settings, iterations=8)
    assert summary["nash_conv"] < 0.25  # known exactly all the same
    errors = load_file(tmp_path / "checkpoints" / state["payoffs"])["errors"]
    assert 0.0 < errors.max() <= 0.05


def test_three_players_and_general_sum(tmp_path):
    summary, lines, _ = play(tmp_path / "3", "psro", f"{KUHN}(players=3)", psro={"oracle": "exact"}, iterations=6)
    assert summary["nash_conv"] < lines[0]["nash_conv"] / 2
    joint = {"oracle": "exact", "meta_solver": "max_welfare_cce"}
    summary, lines, _ = play(tmp_path / "cce", "psro", "matrix/battle_of_the_sexes", psro=joint)
    assert summary["cce_gap"] < 1e-6 and "nash_conv" not in summary
    assert lines[-1]["player_0/value"] + lines[-1]["player_1/value"] == pytest.approx(3.0)  # the best there is


def test_one_population_for_both_players_of_a_symmetric_game(tmp_path):
    settings = {"symmetric": True, "min_gain": 0.0}
    _, lines, state = play(
        tmp_path, "psro", "matrix/rock_paper_scissors", psro=settings, steps=600, iterations=6, algorithm="dqn"
    )
    assert state["members"]["player_0"] == state["members"]["player_1"]
    assert lines[-1]["player_0/mixture"] == lines[-1]["player_1/mixture"]
    payoffs = load_file(tmp_path / "checkpoints" / state["payoffs"])["payoffs"]
    assert np.array_equal(payoffs[0], payoffs[1].T)


def test_extensive_form_double_oracle(tmp_path):
    summary, lines, state = play(tmp_path, "xdo")
    assert summary["nash_conv"] < 1e-9 and summary["iteration"] <= 4 and lines[0]["nash_conv"] > 0.1
    member = Member.parse(state["members"]["player_0"][0])
    table = MemberFolder(tmp_path / "checkpoints" / "policies").load(member.digest)["table"]
    assert np.allclose(table.sum(axis=1), 1.0)


# -- learnt best responses ------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("scenario", ["psro", "self_play"])
def test_processes_give_the_numbers_of_one_process(tmp_path, scenario):
    settings = {"steps": 400, "iterations": 2, "algorithm": "ppo"}
    _, here, _ = play(tmp_path / "serial", scenario, **settings)
    _, there, _ = play(tmp_path / "processes", scenario, **settings | {"workers": 1})
    assert [{**line, "time": None} for line in here] == [{**line, "time": None} for line in there]


# -- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario, env, settings, words",
    [
        ("psro", "open_spiel/tic_tac_toe", {"psro": {"oracle": "exact"}}, "small games"),
        ("psro", KUHN, {"psro": {"symmetric": True}}, "not symmetric"),
        ("psro", "open_spiel/tic_tac_toe", {"psro": {"symmetric": True}}, "cannot be checked"),
        ("psro", KUHN, {"psro": {"oracle": "exact"}, "algorithm": "dqn"}, "either learnt or computed"),
        ("psro", KUHN, {"psro": {"meta_solver": "max_welfare_ce"}}, "max_welfare_cce"),
        ("psro", f"{KUHN}(players=3)", {"psro": {"meta_solver": "max_entropy_cce"}}, "two players"),
        ("self_play", KUHN, {"self_play": {"oracle": "exact", "opponents": "pfsp"}}, "naive, fictitious"),
        ("self_play", KUHN, {"psro": {"oracle": "exact"}}, "this one is self_play"),
        ("xdo", f"{KUHN}(players=3)", {}, "two-player"),
        ("xdo", "open_spiel/tic_tac_toe", {}, "small games"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(tmp_path, scenario, env, settings, words):
    with pytest.raises(ConfigError, match=words):
        make(tmp_path, scenario, env, **settings)
