"""What a run says of itself: the final evaluation, extremes of returns, pace, and one axis for all scenarios."""

import json
import math
import types
from datetime import datetime, timezone

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from malib_lite.rollout.books import Books
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.scenarios.strength import measure_strength
from malib_lite.train import TrainConfig, _results, build, make_scenario

TICTACTOE = {"env": "pettingzoo/classic.tictactoe_v3", "rollout": {"num_threads": 0, "num_eval_episodes": 10}}


def train(folder, **settings):
    config = {"logdir": str(folder), "rollout": {"num_threads": 0}, **settings}
    summary = run(make_scenario(build(TrainConfig, config)), Console(quiet=True))
    return summary, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("scenario", ["marl", "nfsp"])
def test_the_last_report_has_the_result_of_the_summary(tmp_path, scenario):
    summary, lines = train(tmp_path, scenario=scenario, steps=6000, **TICTACTOE)
    results = {name: value for name, value in summary.items() if name.startswith("eval/")}
    assert "eval/return/player_1" in results and results.items() <= lines[-1].items()
    assert lines[-1]["step"] >= 6000 and lines[-1]["env_steps"] == summary["env_steps"]
    assert len({line["step"] for line in lines}) == len(lines)  # no second report of one step
    for player in ("player_1", "player_2"):
        low, mean, high = (lines[-1][f"{name}/{player}"] for name in ("return_min", "return", "return_max"))
        assert -1.0 == low < mean < high == 1.0
        assert 0.0 <= lines[-1]["time"][f"{player}/waited_share"] <= 1.0
    assert lines[-1]["time"]["env_steps_per_s"] > 0.0
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("eval/return/player_1")[-1].step == lines[-1]["step"]


def test_a_single_agents_extremes_have_no_name():
    books = Books()
    assert all(math.isnan(value) for value in books.summary().values())
    books.end(np.array([3, 5]), {"agent": np.array([-2.0, 4.0])})
    assert books.summary("eval/") == {
        "eval/return_mean": 1.0, "eval/length_mean": 4.0, "eval/return_min": -2.0, "eval/return_max": 4.0
    }  # fmt: skip


def test_between_opponents_the_command_ends_with_the_return_of_each():
    summary = {"return_mean": 0.0, "eval/return_mean": 0.0, "eval/return/a": 0.5, "eval/return/b": -0.5, "wall_s": 1.0}
    assert _results(summary) == {"return/a": 0.5, "return/b": -0.5, "wall_s": 1.0}
    assert _results({"return_mean": 3.0, "eval/return_mean": 3.0}) == {"return_mean": 3.0}


def test_a_lower_bound_of_nash_conv_is_reported_where_it_was_found(tmp_path):
    settings = {"payoffs": "sampled", "payoff_episodes": 20, "final_response_steps": 2000}
    rollout = {"num_threads": 0, "num_env_per_thread": 32, "fragment_length": 512}
    summary, lines = train(
        tmp_path, scenario="psro", env="open_spiel/kuhn_poker", steps=2000, iterations=1, psro=settings, rollout=rollout
    )
    assert lines[-1]["nash_conv_lower_bound"] == summary["nash_conv_lower_bound"]
    assert lines[-1]["env_steps"] == summary["env_steps"] > lines[-2]["env_steps"]


def test_tensorboard_counts_environment_steps_in_scenarios_that_count_iterations(tmp_path):
    rollout = {"num_threads": 0, "num_env_per_thread": 32, "fragment_length": 512}
    settings = {"env": "open_spiel/kuhn_poker", "steps": 2000, "iterations": 2, "rollout": rollout}
    _, lines = train(tmp_path / "learnt", scenario="psro", **settings)
    of_learnt = EventAccumulator(str(tmp_path / "learnt" / "tensorboard")).Reload().Scalars("nash_conv")
    assert [event.step for event in of_learnt] == [line["env_steps"] for line in lines]
    assert [line["step"] for line in lines] == [0, 1, 2]
    train(tmp_path / "exact", scenario="psro", env="open_spiel/kuhn_poker", psro={"oracle": "exact"}, iterations=2)
    of_exact = EventAccumulator(str(tmp_path / "exact" / "tensorboard")).Reload().Scalars("nash_conv")
    assert [event.step for event in of_exact] == [0, 1, 2]  # nothing is played


def test_the_configuration_is_resolved_and_means_the_same_again(tmp_path):
    settings = {"scenario": "psro", "iterations": 1, "rollout": {"num_threads": 0, "num_env_per_thread": 32}}
    _, lines = train(tmp_path / "run", env="open_spiel/kuhn_poker", steps=1000, **settings)
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["psro"]["meta_solver"] == "nash" and written["psro"]["payoffs"] == "exact"
    assert written["trainer"]["total_timesteps"] == 1000 and written["rollout"]["batch_mode"] == "episode"
    _, again = train(tmp_path / "again", **written)
    assert [{**line, "time": None} for line in lines] == [{**line, "time": None} for line in again]


@pytest.mark.parametrize(
    ("scenario", "env", "section"),
    [
        ("marl", "gym/CartPole-v1", ("trainer", "total_timesteps", 150_000)),
        ("nfsp", "open_spiel/kuhn_poker", ("trainer", "total_timesteps", 200_000)),
        ("psro", "open_spiel/kuhn_poker(players=3)", ("psro", "meta_solver", "prd")),
        ("psro", "matrix/stag_hunt", ("psro", "meta_solver", "prd")),
        # Without an exact form only the payoffs tell, and then the metrics do.
        ("psro", "pettingzoo/classic.tictactoe_v3", ("psro", "meta_solver", "auto")),
        ("psro", "pettingzoo/classic.tictactoe_v3", ("psro", "payoffs", "sampled")),
    ],
)
def test_what_defaults_come_to_is_in_the_configuration(tmp_path, scenario, env, section):
    scenario = make_scenario(build(TrainConfig, {"scenario": scenario, "env": env, "logdir": str(tmp_path)}))
    name, key, value = section
    assert scenario.resolved_config()[name][key] == value


def test_a_meta_solver_that_only_payoffs_choose_is_in_the_metrics(tmp_path):
    rollout = {"num_threads": 0, "num_env_per_thread": 32, "fragment_length": 512}
    settings = {"payoff_episodes": 10, "max_iteration": 1}
    env = "pettingzoo/classic.tictactoe_v3"
    _, lines = train(tmp_path, scenario="psro", env=env, steps=500, psro=settings, rollout=rollout)
    assert [line["meta_solver"] for line in lines] == ["nash", "nash"]


def test_the_manifest_says_when_and_on_what(tmp_path):
    before = datetime.now(timezone.utc)
    train(tmp_path, scenario="psro", env="open_spiel/kuhn_poker", psro={"oracle": "exact"}, iterations=1)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    started = datetime.fromisoformat(manifest["started"])
    assert before.replace(microsecond=0) <= started <= datetime.now(timezone.utc)
    host = manifest["host"]
    assert host["processor"] and host["cores"] >= 1
    assert host["torch_cpu_capability"] == torch.backends.cpu.get_cpu_capability()


# -- strength, where games cannot be solved ------------------------------------------------------------------------

SHORT = {"num_threads": 0, "num_env_per_thread": 32, "fragment_length": 512}
NO_EXPLOITERS = {"main_exploiters": 0, "league_exploiters": 0}


@pytest.mark.parametrize(
    ("scenario", "section"), [("self_play", {}), ("league", NO_EXPLOITERS), ("league", {**NO_EXPLOITERS, "main": 2})]
)
def test_strength_is_reported_where_no_nash_conv_is_known(tmp_path, scenario, section):
    settings = {scenario: {**section, "rating_episodes": 40}, "steps": 1000, "iterations": 2, "rollout": SHORT}
    env = "pettingzoo/classic.tictactoe_v3"
    summary, lines = train(tmp_path, scenario=scenario, env=env, **settings)
    rates = {name for name in lines[-1] if "win_rate_" in name and name.count("/") == 0}
    assert rates == {"win_rate_untrained", "win_rate_previous", "win_rate_random"}
    assert {name for name in lines[0] if "win_rate_" in name and "/" not in name} == {"win_rate_random"}
    assert all(summary[name] == lines[-1][name] for name in rates)
    for name, value in lines[-1].items():
        if "win_rate_" in name:  # one wins 1 or loses 1 in this game, so both figures say the same
            mean_return = lines[-1][name.replace("win_rate_", "return_")]
            assert 0.0 < value < 1.0 and mean_return == pytest.approx(2.0 * value - 1.0, abs=1e-9)
    if scenario == "league":
        assert ("main-1/win_rate_random" in lines[-1]) == (len(summary["ratings"]) == 2)


def test_strength_is_won_in_each_players_own_seat(tmp_path):
    """The first player of this game wins by its first action, the second can do nothing about it."""

    class Rollout:
        def simulate(self, matches, num_episodes):
            self.matches = matches
            books = []
            for match in matches:
                won = {("a", "new"): 1.0, ("a", "old"): -1.0}[next(iter(match["a"]))]
                book = Books()
                book.end(np.full(num_episodes, 1), {"x": np.full(num_episodes, won), "y": np.full(num_episodes, -won)})
                book.place({"a": np.full(num_episodes, won), "b": np.full(num_episodes, -won)})
                books.append(book)
            return books

    rollout = Rollout()
    fake = types.SimpleNamespace(rollout=rollout, count_crashes=lambda book: None)
    new, old = ({player: (player, age) for player in "ab"} for age in ("new", "old"))
    values = measure_strength(fake, {"a": ["x"], "b": ["y"]}, new, {"previous": old, "random": None}, 5)
    assert rollout.matches == [{"a": {("a", "new"): 1.0}, "b": {("b", "old"): 1.0}},
                               {"a": {("a", "old"): 1.0}, "b": {("b", "new"): 1.0}}]  # fmt: skip
    assert values == {
        "a/win_rate_previous": 1.0, "a/return_previous": 1.0, "b/win_rate_previous": 1.0, "b/return_previous": 1.0,
        "win_rate_previous": 1.0, "return_previous": 1.0,
    }  # fmt: skip


def test_learning_shows_in_the_strength(tmp_path):
    """Who learns wins against who does not, and against chance; payoffs of Kuhn poker are up to 2."""
    rollout = {"num_threads": 0, "num_env_per_thread": 64, "fragment_length": 1024}
    settings = {"payoffs": "sampled", "opponents": "naive", "rating_episodes": 400}
    for rate, learns in ((0.03, True), (0.0, False)):
        summary, _ = train(
            tmp_path / str(learns), scenario="self_play", env="open_spiel/kuhn_poker", steps=16_000, iterations=2,
            self_play=settings, rollout=rollout, trainer={"learning_rate": rate},
        )  # fmt: skip
        assert "nash_conv" not in summary
        assert (summary["return_random"] > 0.15) == learns and (summary["return_untrained"] > 0.15) == learns
