"""``python -m malib_lite.evaluate``: saved populations against each other."""

import errno
import json
import shutil

import numpy as np
import pytest
import yaml
from changed import read_state, write_state

from malib_lite.config import ConfigError
from malib_lite.evaluate import _elo, evaluate, main
from malib_lite.population.cross_play import CrossPlay
from malib_lite.population.saved import SavedPopulation
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.train import TrainConfig, build, make_scenario

SMALL = {"workers": 0, "steps": 200, "rollout": {"num_env_per_thread": 16, "fragment_length": 64}}


def train(folder, **settings):
    config = {"scenario": "psro", "env": "open_spiel/kuhn_poker", "logdir": str(folder), **settings}
    scenario = make_scenario(build(TrainConfig, config))
    scenario.plot = lambda run: None
    return run(scenario, Console(quiet=True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs: one that solved Kuhn poker, self-play of it, networks that have learnt nothing yet, a team."""
    root = tmp_path_factory.mktemp("runs")
    train(root / "solved", psro={"oracle": "exact"})
    train(
        root / "circles", scenario="self_play", self_play={"oracle": "exact", "opponents": "naive", "max_iteration": 4}
    )
    train(root / "learnt", **SMALL, iterations=1)
    train(root / "alone", **SMALL, scenario="marl", algorithm="pg")
    return root


def test_the_equilibrium_loses_to_nobody(runs):
    result = evaluate([str(runs / name) for name in ("solved", "circles", "learnt", "alone")])
    assert result.exact and result.episodes is None
    np.testing.assert_allclose(result.cross_play.mean, -result.cross_play.mean.T, atol=1e-12)  # a zero-sum game
    assert (result.cross_play.mean[0] > -1e-9).all() and result.cross_play.mean[0].max() > 0.01
    assert result.nash_convs[0] < 1e-9 < 0.1 < min(result.nash_convs[1:])
    solved = json.loads((runs / "solved" / "summary.json").read_text())
    learnt = json.loads((runs / "learnt" / "summary.json").read_text())
    assert result.nash_convs[0] == pytest.approx(solved["nash_conv"], abs=1e-9)
    assert result.nash_convs[2] == pytest.approx(learnt["nash_conv"], abs=1e-9)
    assert set(result.members) == {str(runs / name) for name in ("solved", "circles", "learnt")}  # several members each


def test_played_episodes_agree_with_exact_payoffs(runs):
    who = [str(runs / "solved"), str(runs / "circles"), f"{runs / 'learnt'}@0"]
    exact, played = evaluate(who).cross_play, evaluate(who, episodes=4000, sampled=True).cross_play
    assert (exact.errors == 0.0).all()
    # no error where two always come to the same end: who folds every hand loses one chip
    assert (played.errors[:, :2, :2] > 0.0).all()
    assert (np.abs(played.values - exact.values) <= 4.5 * played.errors + 1e-12).all()
    again = evaluate(who, episodes=4000, sampled=True).cross_play
    np.testing.assert_array_equal(again.values, played.values)
    assert not np.array_equal(evaluate(who, episodes=4000, seed=1, sampled=True).cross_play.values, played.values)


def test_choices_of_members(runs):
    """The average of two members earns the mean of what they earn against a third party."""
    learnt = runs / "learnt"
    who = [str(runs / "solved"), *(f"{learnt}@{choice}" for choice in ("0", "1", "latest", "average"))]
    result = evaluate(who).cross_play
    assert result.names == ("solved", "learnt@0", "learnt@1", "learnt@latest", "learnt@average")
    against = result.values[:, 1:, 0]  # (2, 4)
    np.testing.assert_allclose(against[:, 3], (against[:, 0] + against[:, 1]) / 2, atol=1e-12)
    np.testing.assert_allclose(against[:, 2], against[:, 1], atol=1e-12)


def test_the_command_writes_what_it_prints(runs, tmp_path, capsys):
    assert main([str(runs / "solved"), f"{runs / 'circles'}@average", "--out", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "new" / "evaluation.json").read_text())
    assert (tmp_path / "new" / "cross_play.png").stat().st_size > 5_000
    for words in ("circles@average", "exact", "NashConv", "strongest members of player_0", "policy-"):
        assert words in printed
    assert f"{written['mean'][0][1]:+.4f}" in printed
    assert [each["name"] for each in written["populations"]] == ["solved", "circles@average"]
    assert written["populations"][0]["skill"] is None and written["episodes"] is None  # there is Elo, nothing is played
    low, high = written["populations"][0]["elo"][1:]
    assert low < written["populations"][0]["elo"][0] < high
    assert {"member", "mixture", "elo", "alpha_rank"} <= set(written["members"][str(runs / "solved")]["player_0"][0])


def test_average_policies_of_nfsp_are_tables_too(runs, tmp_path):
    """Who plays an episode of a training is remembered; here it is the average policy, and not the best response."""
    train(tmp_path / "average", **SMALL, scenario="nfsp")
    reported = json.loads((tmp_path / "average" / "summary.json").read_text())["nash_conv"]
    who = [str(runs / "solved"), str(tmp_path / "average")]
    exact, played = evaluate(who), evaluate(who, episodes=4000, sampled=True)
    assert exact.exact and exact.nash_convs[1] == pytest.approx(reported, abs=1e-9) and reported > 0.1
    errors = played.cross_play.errors
    assert (np.abs(played.cross_play.values - exact.cross_play.values) <= 4.5 * errors + 1e-12).all()


def test_who_comes_off_better_is_rated_where_interests_are_mixed(tmp_path, capsys):
    """In the prisoners' dilemma defectors get more than the other one, though two of them get less than two others."""
    train(tmp_path, env="matrix/prisoners_dilemma", psro={"oracle": "exact", "max_iteration": 3})
    who = [str(tmp_path), f"{tmp_path}@0"]
    result = evaluate(who, episodes=400)
    assert result.exact and result.episodes == 400 and result.elo is None
    (solved, low, _), (uniform, _, high) = result.skills
    assert solved + uniform == pytest.approx(50.0) and low > high
    assert result.cross_play.mean[0, 0] < result.cross_play.mean[1, 1]
    assert main([*who, "--episodes", "400"]) == 0
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "evaluation.json").read_text())
    assert "TrueSkill by who got more, 400 episodes" in printed and f"{solved:.2f}" in printed
    assert [each["skill"] for each in written["populations"]] == result.skills.tolist()
    assert [each["elo"] for each in written["populations"]] == [None, None]


LEAGUE = {"league_exploiters": 0, "rating_episodes": 20}


def test_a_league_is_all_that_its_main_agents_were(runs, tmp_path):
    train(tmp_path / "league", **SMALL, scenario="league", iterations=3, league=LEAGUE)
    league, reported = tmp_path / "league", json.loads((tmp_path / "league" / "summary.json").read_text())
    who = [str(runs / "solved"), *(f"{league}{choice}" for choice in ("", "@average", "@latest", "@3", "@0"))]
    exact, played = evaluate(who), evaluate(who[:3], episodes=4000, sampled=True)
    names = ("nash_conv_nash", "nash_conv_average", "nash_conv", "nash_conv")
    assert exact.nash_convs[1:5] == pytest.approx([reported[name] for name in names], abs=1e-9)
    assert exact.nash_convs[5] == pytest.approx(11 / 12, abs=0.2)  # untrained networks are nearly uniform
    assert [len(members) for members in exact.members[str(league)].values()] == [4, 4]
    differences = np.abs(played.cross_play.values - exact.cross_play.values[:, :3, :3])
    assert (differences <= 4.5 * played.cross_play.errors + 1e-12).all()


def test_leagues_that_are_not_solved_go_by_their_exhibition_games(tmp_path):
    tic_tac_toe = {**SMALL, "env": "open_spiel/tic_tac_toe", "scenario": "league", "iterations": 2}
    train(tmp_path, **tic_tac_toe, league={**LEAGUE, "min_steps": 1, "max_steps": 1})
    saved = SavedPopulation.read(tmp_path)
    exhibition = json.loads((tmp_path / "checkpoints" / "state.json").read_text())["exhibition"]["meetings"]
    names = ["untrained", "main-0@1", "main-0@2"]
    payoffs = np.zeros((3, 3))
    for first, second, _, (earned, _), *_ in exhibition:
        if {first, second} <= set(names):
            i, j = names.index(first), names.index(second)
            payoffs[i, j], payoffs[j, i] = earned, -earned
    for mixture in saved.mixtures.values():
        assert (mixture @ payoffs).min() > -1e-9 and mixture.sum() == pytest.approx(1.0)
    result = evaluate([str(tmp_path), f"{tmp_path}@0"], episodes=20)
    assert not result.exact and result.cross_play.values.shape == (2, 2, 2)


def test_policies_that_remember_are_played(tmp_path):
    train(tmp_path, **SMALL, scenario="marl", algorithm="ppo", model={"memory": "gru"})
    result = evaluate([str(tmp_path)], episodes=20)
    assert not result.exact and result.nash_convs is None


def test_three_players_take_turns(tmp_path):
    three = {"env": "open_spiel/kuhn_poker(players=3)"}
    for number in (1, 2):
        train(
            tmp_path / str(number), **three, psro={"oracle": "exact", "meta_solver": "uniform", "max_iteration": number}
        )
    who = [str(tmp_path / "1"), str(tmp_path / "2")]
    exact, played = evaluate(who, episodes=1000), evaluate(who, episodes=1000, sampled=True)
    assert exact.cross_play.values.shape == (3, 2, 2) and exact.elo is None
    np.testing.assert_array_equal(exact.skills, played.skills)  # which go by episodes in any case
    assert exact.skills[:, 0].mean() == pytest.approx(25.0) and (exact.skills[:, 1] < exact.skills[:, 2]).all()
    assert (np.abs(played.cross_play.values - exact.cross_play.values) < 4.5 * played.cross_play.errors + 1e-12).all()


def test_a_game_that_cannot_be_solved_is_played(tmp_path):
    settings = {**SMALL, "env": "open_spiel/tic_tac_toe", "iterations": 1, "psro": {"payoff_episodes": 20}}
    train(tmp_path, **settings)
    result = evaluate([str(tmp_path), f"{tmp_path}@0"], episodes=20)
    assert not result.exact and result.nash_convs is None and result.cross_play.values.shape == (2, 2, 2)


# -- errors ---------------------------------------------------------------------------------------------------------


def error_of(arguments, capsys):
    assert main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and "Traceback" not in text
    return text


def copied(folder, to):
    shutil.copytree(folder, to)
    return to


def reconfigured(folder, to, **settings):
    copied(folder, to)
    config = yaml.safe_load((to / "config.yaml").read_text())
    (to / "config.yaml").write_text(yaml.safe_dump({**config, **settings}))
    return to


def test_how_a_run_mixed_its_population_plays_no_part(runs, tmp_path):
    """What its own meta-solver gave is in the folder; the program that gave it need not be here."""
    settings = yaml.safe_load((runs / "solved" / "config.yaml").read_text())["psro"]
    for name, mixed in {
        "moved": {"meta_solver": "gone:away"},
        "several": {"meta_solver": "rectified_nash", "max_responses": 2},
    }.items():
        result = evaluate([str(reconfigured(runs / "solved", tmp_path / name, psro={**settings, **mixed}))])
        assert result.nash_convs[0] < 1e-9 and result.elo is None and result.skills is None  # one alone is not rated


def test_what_is_no_run_is_said(runs, tmp_path, capsys):
    assert "no run folder" in error_of([tmp_path], capsys)
    assert "no run folder" in error_of([tmp_path / "nowhere"], capsys)
    begun = copied(runs / "solved", tmp_path / "begun")
    (begun / "checkpoints" / "state.json").unlink()
    assert "has no policies" in error_of([begun], capsys)
    torn = copied(runs / "solved", tmp_path / "torn")
    (torn / "checkpoints" / "state.json").write_text('{"members": ')
    assert "cannot be read" in error_of([torn], capsys)


def test_a_result_that_cannot_be_written_is_shown(runs, tmp_path, monkeypatch, capsys):
    def fail(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    assert main([str(runs / "solved"), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "NashConv" in said.out and "written" not in said.out
    assert said.err == f"error: '{tmp_path / 'evaluation.json'}' cannot be written: No space left on device\n"
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_said(runs, tmp_path, capsys):
    other = reconfigured(runs / "learnt", tmp_path / "other", env="open_spiel/matrix_rps")
    text = error_of([runs / "solved", other], capsys)
    assert "environments" in text and "matrix_rps" in text
    other = reconfigured(runs / "learnt", tmp_path / "three", env="open_spiel/kuhn_poker(players=3)")
    assert "the players are player_0, player_1, player_2" in error_of([other], capsys)
    assert "0 to 1" in error_of([f"{runs / 'learnt'}@7"], capsys)
    assert "average" in error_of([f"{runs / 'learnt'}@avrage"], capsys)
    assert "named twice" in error_of([runs / "solved", runs / "solved"], capsys)
    assert "at least 2" in error_of([runs / "solved", "--episodes", "1"], capsys)
    assert "cannot be written" in error_of([runs / "solved", "--out", "/proc/nowhere"], capsys)


def test_a_damaged_member_is_said_before_anything_is_played(runs, tmp_path, capsys):
    for number, damage in enumerate((lambda data: data[:40], lambda data: data[:-8] + bytes(8), None)):
        folder = copied(runs / "learnt", tmp_path / str(number))
        for file in (folder / "checkpoints" / "policies").iterdir():
            file.unlink() if damage is None else file.write_bytes(damage(file.read_bytes()))
        text = error_of([folder], capsys)
        assert "damaged" in text and not (folder / "evaluation.json").exists()


def test_a_config_of_other_networks_is_said(runs, tmp_path, capsys):
    folder = reconfigured(runs / "learnt", tmp_path / "run", model={"hidden_sizes": [3]})
    assert "config.yaml is not its own" in error_of([folder], capsys)


def test_a_run_made_in_python_is_said(runs, tmp_path, capsys):
    folder = reconfigured(runs / "learnt", tmp_path / "run", scenario="PSROScenario")
    assert "program in Python" in error_of([folder], capsys)


# -- reading --------------------------------------------------------------------------------------------------------


def test_configs_of_exact_runs_can_be_repeated(runs):
    """The algorithm that is the default plays no part in them, and is not named."""
    assert yaml.safe_load((runs / "solved" / "config.yaml").read_text())["algorithm"] is None
    assert yaml.safe_load((runs / "learnt" / "config.yaml").read_text())["algorithm"] == "dqn"


def test_saved_populations(runs):
    solved, circles, alone = (SavedPopulation.read(runs / name) for name in ("solved", "circles", "alone"))
    assert solved.payoffs.shape == (2, *map(len, solved.members.values())) and not solved.errors.any()
    assert circles.payoffs is None  # self-play needs none
    assert sum(solved.pools("final")["player_0"].values()) == pytest.approx(1.0)
    latest = circles.pools("latest")["player_1"]
    assert latest[circles.members["player_1"][-1]] == 1.0
    assert [len(members) for members in alone.members.values()] == [1, 1]


# -- the best mixtures beside the last -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "settings"),
    [
        ("psro", {"psro": {"oracle": "exact", "meta_solver": "uniform"}, "iterations": 6}),
        ("self_play", {"self_play": {"oracle": "exact", "opponents": "naive"}, "iterations": 6}),
        ("xdo", {"iterations": 2}),
        ("nfsp", {"steps": 12_000, "rollout": {"num_threads": 0, "num_env_per_thread": 64, "fragment_length": 512}}),
        ("league", {"iterations": 2, "league": {"main_exploiters": 0, "league_exploiters": 0, "rating_episodes": 10},
                    "steps": 2000, "rollout": {"num_threads": 0, "fragment_length": 512, "num_env_per_thread": 32}}),
    ],
)  # fmt: skip
def test_the_mixtures_of_least_nash_conv_can_be_played(tmp_path, scenario, settings):
    summary = train(tmp_path, scenario=scenario, env="open_spiel/kuhn_poker", **settings)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kinds = ("nash_conv", "nash_conv_average", "nash_conv_nash")
    seen = [min(line[kind] for kind in kinds if kind in line) for line in lines]
    assert [line["nash_conv_best"] for line in lines] == list(np.minimum.accumulate(seen))
    best = summary["best"]
    assert best["nash_conv"] == min(seen)
    where = next(line for line in lines if line["step"] == best.get("iteration", best.get("env_steps")))
    assert where[best.get("metric", "nash_conv")] == best["nash_conv"]
    of_best, of_last = evaluate([f"{tmp_path}@best", str(tmp_path)]).nash_convs
    assert of_best == pytest.approx(best["nash_conv"], abs=1e-9) and of_best <= of_last + 1e-9


def test_naive_self_play_has_a_best_mixture_that_is_not_its_last(tmp_path):
    exact = {"oracle": "exact", "opponents": "naive", "max_iteration": 6}
    summary = train(tmp_path, scenario="self_play", env="matrix/rock_paper_scissors", self_play=exact)
    of_best, of_last = evaluate([f"{tmp_path}@best", str(tmp_path)]).nash_convs
    assert of_best == pytest.approx(0.0, abs=1e-9) and summary["best"]["iteration"] == 0  # uniform, and then in circles
    assert of_last == pytest.approx(2.0) == summary["nash_conv"]


def test_without_nash_conv_there_is_no_best_mixture(tmp_path):
    rollout = {"num_threads": 0, "num_env_per_thread": 16, "fragment_length": 256}
    train(tmp_path, scenario="marl", env="open_spiel/kuhn_poker", steps=256, rollout=rollout)
    with pytest.raises(ConfigError, match=r"@best.*did not know its NashConv"):
        evaluate([f"{tmp_path}@best"])


@pytest.mark.parametrize(
    "damage",
    [
        {"mixtures": {"player_0": [1.0]}},
        {"mixtures": {"player_0": [1.0], "player_1": [0.5]}},
        {"mixtures": {"player_0": [1.0], "player_1": [2.0, -1.0]}},
        {"mixtures": {"player_0": [1.0], "player_1": [float("nan")]}},
        {"mixtures": {"player_0": [1.0], "player_1": [0.01] * 100}},
        {"policies": {"player_0": "none"}},
        {"policies": 3},
        [1],
        {"step": 1},
    ],
)
def test_damaged_best_mixtures_are_a_sentence(runs, tmp_path, damage):
    folder = shutil.copytree(runs / "circles", tmp_path / "run")
    write_state(folder, {**read_state(folder), "best": damage})
    with pytest.raises(ConfigError, match="cannot be read as a run folder"):
        evaluate([f"{folder}@best"])


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.5, 0.5), (0.5, -1.5), (1e-9, 0.0), (1e12, 3e12)])
def test_elo_does_not_depend_on_what_both_get_alike(scale, offset):
    """To win pays 1 more than to lose, or 2: 0.4 more than the other is the same share of games won."""
    lead = np.array([[0.0, 0.4, -0.2], [-0.4, 0.0, 0.6], [0.2, -0.6, 0.0]])
    values, errors = np.stack([lead, lead]), np.full((2, 3, 3), 0.01)
    expected = _elo(CrossPlay(("a", "b", "c"), values, errors), stake=1.0)
    paid = _elo(CrossPlay(("a", "b", "c"), values * scale + offset, errors * scale), stake=scale + abs(offset))
    np.testing.assert_allclose(paid, expected, rtol=1e-6)
