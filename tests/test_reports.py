"""What a run of populations leaves for people: names, tables, standings, plots."""

import json
import re
import shlex
import warnings

import numpy as np
import pytest

from malib_lite.envs.matrix import MatrixGame
from malib_lite.envs.open_spiel import OpenSpielEnv
from malib_lite.population.standing import standings
from malib_lite.population.tables import markdown, signed, standing_table, strategy_tables
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.runtime.plots import (
    plot_cross_play,
    plot_curves,
    plot_events,
    plot_intervals,
    plot_matrix,
    plot_mixtures,
    plot_nash_conv,
    plot_table,
    plot_timeline,
)
from malib_lite.train import TrainConfig, build, make_scenario

pytestmark = pytest.mark.pictures

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
UNIFORM = {"oracle": "exact", "meta_solver": "uniform"}
NONE = np.zeros((2, 3, 3))


def train(folder, **settings):
    config = {"scenario": "psro", "env": "open_spiel/kuhn_poker", "logdir": str(folder), **settings}
    return run(make_scenario(build(TrainConfig, config)), Console(quiet=True))


@pytest.fixture(scope="module")
def kuhn(tmp_path_factory):
    """The folder of a run that solves Kuhn poker."""
    folder = tmp_path_factory.mktemp("kuhn")
    assert train(folder, psro={"oracle": "exact"})["nash_conv"] < 1e-9
    return folder


# -- names ----------------------------------------------------------------------------------------------------------


def test_kuhn_poker_is_told_by_cards_and_bets():
    game = OpenSpielEnv.make_exact(env_id="kuhn_poker")
    first, second = map(game.describe, game.agents)
    listed = [first.information_sets[number] for number in first.order]
    assert listed == ["J", "Q", "K", "J pb", "Q pb", "K pb"] and first.actions == ["Pass", "Bet"]
    assert {name[0] for name in second.information_sets} == set("JQK") and "p passes" in first.legend
    three = OpenSpielEnv.make_exact(env_id="kuhn_poker(players=3)")
    assert three.describe("player_2").information_sets[0][0] in "JQKA"


@pytest.mark.parametrize(("suits", "count"), [("False", 468), ("True", 144)])
def test_leduc_poker_is_told_by_both_rounds(suits, count):
    game = OpenSpielEnv.make_exact(env_id=f"leduc_poker(suit_isomorphism={suits})")
    for agent in game.agents:
        names = game.describe(agent)
        assert len(set(names.information_sets)) == count == len(names.order)
        assert sorted(names.order) == list(range(count)) and names.actions == ["Fold", "Call", "Raise"]
    assert ("K♥ crrc J♠ cr" if suits == "False" else "K crrc J cr") in game.describe("player_0").information_sets


def test_the_names_of_leducs_cards_are_their_ranks():
    """Two jacks are worth the same whatever their suits, and a pair of kings wins."""
    import pyspiel

    def returns(*moves):
        state = pyspiel.load_game("leduc_poker").new_initial_state()
        for move in moves:
            state.apply_action(move)
        return state.returns()

    jack_of_spades, jack_of_hearts, king_of_spades, king_of_hearts = 0, 1, 4, 5
    to_the_end = (1, 1)
    tie = returns(jack_of_spades, jack_of_hearts, *to_the_end, king_of_hearts, *to_the_end)
    assert tie == [0.0, 0.0]
    paired = returns(king_of_spades, jack_of_hearts, *to_the_end, king_of_hearts, *to_the_end)
    assert paired[0] > 0.0


def test_other_games_are_told_in_open_spiels_words():
    names = OpenSpielEnv.make_exact(env_id="matrix_rps").describe("player_0")
    assert names.actions == ["Rock", "Paper", "Scissors"] and len(names.information_sets) == 1
    names = OpenSpielEnv.make_exact(env_id="goofspiel(num_cards=3,imp_info=True)").describe("player_1")
    assert len(set(names.information_sets)) == 45 and "\n" not in "".join(names.information_sets)
    assert all("Terminal" not in name for name in names.information_sets)  # the same everywhere
    names = OpenSpielEnv.make_exact(env_id="liars_dice(dice_sides=2)").describe("player_1")
    assert names.actions[0] == "-"  # the second player can never make the lowest bid


# -- strategies -----------------------------------------------------------------------------------------------------


def strategies(text):
    """Probabilities by player, information set and action, as a reader finds them."""
    found, player, actions = {}, "", []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            player = line[3:]
        elif line.startswith("| information set"):
            actions = cells[1:]
        elif line.startswith("| "):
            probabilities = dict(zip(actions, cells[1:], strict=True))
            found.setdefault(player, {})[cells[0]] = {a: float(p) for a, p in probabilities.items() if p}
    return found


def is_equilibrium(found, close=2e-3):
    """Whether these are equilibrium strategies of Kuhn poker (Kuhn 1950), to the three digits that are written."""
    bets = {name: row["Bet"] for name, row in {**found["player_0"], **found["player_1"]}.items()}
    alpha = bets["J"]
    known = {"Q": 0, "K": 3 * alpha, "J pb": 0, "Q pb": alpha + 1 / 3, "K pb": 1} | {
        "J p": 1 / 3, "J b": 0, "Q p": 0, "Q b": 1 / 3, "K p": 1, "K b": 1
    }  # fmt: skip
    return alpha <= 1 / 3 + close and all(abs(bets[name] - p) <= close for name, p in known.items())


def test_the_strategy_of_a_solved_game_is_its_equilibrium(kuhn):
    text = (kuhn / "strategy.md").read_text()
    found = strategies(text)
    assert {len(rows) for rows in found.values()} == {6} and "p passes, b bets" in text
    assert is_equilibrium(found)


def test_a_strategy_that_is_no_equilibrium_is_not_taken_for_one():
    game = OpenSpielEnv.make_exact(env_id="kuhn_poker")
    text = strategy_tables(game, {agent: np.full((6, 2), 0.5) for agent in game.agents})
    assert strategies(text)["player_1"]["J p"] == {"Pass": 0.5, "Bet": 0.5}
    assert not is_equilibrium(strategies(text))


def test_illegal_actions_stay_empty_and_games_without_names_have_no_tables():
    game = OpenSpielEnv.make_exact(env_id="leduc_poker")
    tables = {}
    for agent in game.agents:
        legal = game.information_sets(agent)[1]
        tables[agent] = legal / legal.sum(axis=1, keepdims=True)
    found = strategies(strategy_tables(game, tables))
    assert found["player_0"]["J♠"] == {"Call": 0.5, "Raise": 0.5}  # there is nothing to fold to
    assert found["player_1"]["J♠ crr"] == {"Fold": 0.5, "Call": 0.5}
    game.describe = lambda agent: None
    assert strategy_tables(game, tables) == ""


# -- reports --------------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_reached_and_who_is_strong(kuhn):
    text = (kuhn / "report.md").read_text()
    assert re.search(r"\| value to player_0 +\| -0\.0556 \|", text) and re.search(r"\| NashConv +\| +0 \|", text)
    assert text.count("### player_") == 2 and "(exact)" in text and "alpha-rank" in text
    for name in ("nash_conv", "mixtures", "payoffs"):
        assert (kuhn / "plots" / f"{name}.png").stat().st_size > 10_000


def test_the_report_has_its_origin_the_plots_and_who_plays(kuhn):
    text, manifest = (kuhn / "report.md").read_text(), json.loads((kuhn / "manifest.json").read_text())
    assert manifest["started"][:10] in text and manifest["host"]["processor"] in text
    assert shlex.join(manifest["command"][1:]) in text
    for path in (kuhn / "plots").iterdir():
        assert f"(plots/{path.name})" in text
    numbers = re.findall(r"NashConv[^|]*\|\s*(\S+) \|", text)
    assert numbers and all(len(number) <= 7 for number in numbers)  # no 5.551115123125783e-17
    for part in text.split("### player_")[1:]:
        mixtures = [float(row.split("|")[2]) for row in part.splitlines() if row.startswith("| policy-")]
        assert mixtures == sorted(mixtures, reverse=True) and mixtures[0] > 0.0


def test_the_report_has_the_best_mixtures_where_they_are_not_the_last(tmp_path):
    exact = {"oracle": "exact", "opponents": "naive", "max_iteration": 4}
    summary = train(tmp_path, scenario="self_play", env="matrix/rock_paper_scissors", self_play=exact)
    assert summary["best"]["iteration"] == 0 and summary["nash_conv"] == 2.0
    assert re.search(r"best NashConv \(.*generation 0\)\s+\|\s+0 \|", (tmp_path / "report.md").read_text())


def test_the_strategies_have_the_best_mixtures_where_they_are_not_the_last(tmp_path):
    exact = {"oracle": "exact", "opponents": "naive", "max_iteration": 5}
    best = train(tmp_path, scenario="self_play", self_play=exact)["best"]
    assert f"The best mixtures, of generation {best['iteration']}" in (tmp_path / "strategy.md").read_text()


def test_the_report_of_a_joint_distribution_has_its_gap(tmp_path):
    gap = train(tmp_path, psro={"oracle": "exact", "meta_solver": "max_entropy_cce"}, iterations=2)["cce_gap"]
    assert re.search(rf"\| CCE gap +\| +{gap:.4g} \|", (tmp_path / "report.md").read_text())


def test_self_play_reports_the_latest_and_the_average(tmp_path):
    exact = {"oracle": "exact", "opponents": "fictitious", "max_iteration": 3}
    train(tmp_path, scenario="self_play", self_play=exact)
    text = (tmp_path / "strategy.md").read_text()
    assert text.index("The latest snapshots") < text.index("The average of all snapshots")
    text = text.partition("The best mixtures")[0]
    latest, average = map(strategies, text.split("The average of all snapshots"))
    assert set(latest["player_0"]["J"].values()) == {0.0, 1.0}
    assert 0.0 < average["player_0"]["J"]["Bet"] < 1.0
    assert (tmp_path / "plots" / "payoffs.png").exists()  # computed for the picture: self-play needs none


def test_three_players_have_a_heat_map_for_each_pair(tmp_path):
    train(tmp_path, env="open_spiel/kuhn_poker(players=3)", psro={**UNIFORM, "max_iteration": 1})
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {
        "nash_conv", "mixtures", "payoffs-player_0-player_1", "payoffs-player_0-player_2", "payoffs-player_1-player_2"
    }  # fmt: skip
    text = (tmp_path / "report.md").read_text()
    assert "alpha-rank" in text and "Elo" not in text  # one number per member is for two players


# -- standings ------------------------------------------------------------------------------------------------------


def test_members_of_a_circle_are_alike_and_the_uniform_player_is_not_better():
    even = {"a": np.full(3, 1 / 3), "b": np.full(3, 1 / 3)}
    ranks = standings(np.stack([RPS, -RPS]), NONE, even)
    for rows in ranks.values():
        assert [row.member for row in rows] == [0, 1, 2]  # the oldest first where nothing tells them apart
        np.testing.assert_allclose([row.elo for row in rows], 0.0, atol=1e-6)
        np.testing.assert_allclose([row.alpha_rank for row in rows], 1 / 3, atol=1e-6)


def test_the_stronger_member_stands_first():
    payoffs = np.array([[-0.5, -1.0], [0.5, 0.0]])
    ranks = standings(
        np.stack([payoffs, -payoffs]), NONE[:, :2, :2], {"a": np.array([0.9, 0.1]), "b": np.array([0, 1])}
    )
    assert [row.member for row in ranks["a"]] == [1, 0] == [row.member for row in ranks["b"]]
    best, other = ranks["a"]
    assert best.elo_low > other.elo_high and best.alpha_rank > 0.9 and best.mixture == 0.1
    header, rows = standing_table(ranks["a"], most=1)
    assert header == ["member", "mixture", "Elo", "95 % interval", "alpha-rank"] and len(rows) == 1
    assert rows[0][:2] == ["policy-1", "0.100"]


def test_shared_interests_and_large_tables_have_only_the_ratings_that_make_sense():
    common = standings(np.stack([RPS, RPS]), NONE, {"a": np.ones(3) / 3, "b": np.ones(3) / 3})["a"][0]
    assert common.elo is None and common.alpha_rank is not None
    large = np.zeros((40, 40))
    row = standings(np.stack([large, large]), np.zeros((2, 40, 40)), {"a": np.ones(40) / 40, "b": np.ones(40) / 40})
    assert row["a"][0].alpha_rank is None and row["a"][0].elo is not None


def test_markdown_and_signs():
    assert markdown(["a|b", "c"], [["x", "1"]]) == "| a\\|b |   c |\n|------|----:|\n| x    |   1 |\n"
    assert (signed(-1e-9, 3), signed(None), signed(-12.6), signed(0.25, 2)) == ("+0.000", "", "-13", "+0.25")


# -- plots ----------------------------------------------------------------------------------------------------------


def report(step, nash_conv, env_steps=0):
    return {"step": step, "nash_conv": nash_conv, "env_steps": env_steps, "time": {"wall_s": 0.5 * step}}


@pytest.mark.parametrize(
    ("values", "steps"),
    [([1.0], 0), ([0.9, 0.8], 1000), ([0.0], 0), ([1.0, -1e-16], 1000), ([2.0**-i for i in range(80)] + [0.0] * 20, 0)],
)
def test_nash_conv_is_drawn_whatever_it_is(tmp_path, values, steps):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that fails is a warning
        reports = [report(step, value, steps * step) for step, value in enumerate(values)]
        plot_nash_conv(tmp_path / "a.png", "title", "iteration", reports, {"nash_conv": "a", "missing": "b"})
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_heat_maps_of_all_sizes(tmp_path):
    generator = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in [(1, 3), (5, 4), (90, 70)]:
            table = generator.normal(size=shape)
            mixtures = [np.full(size, 1 / size) for size in shape]
            plot_table(tmp_path / "table.png", "title", ["a", "b"], table, mixtures)
        for players in (1, 5):
            history = {str(player): [np.full(size, 1 / size) for size in range(1, 5)] for player in range(players)}
            plot_mixtures(tmp_path / "mixtures.png", "title", "iteration", history)
        for size, error in ((1, 0.0), (3, 0.1), (16, 0.0)):
            names, table = [f"a run of some name {number}" for number in range(size)], np.zeros((size, size))
            plot_cross_play(tmp_path / "cross.png", "title", names, table, table + error, largest=2.0)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, instead of files."""
    drawn = []
    monkeypatch.setattr("malib_lite.runtime.plots._save", lambda figure, path: drawn.append(figure))
    return drawn


@pytest.mark.parametrize("values", [[0.9, 0.2, 0.06], [0.9, 0.2, 0.06, 0.0, 1e-17], [0.9, 2e-4, 0.0], [3.0], [0.0]])
def test_the_axis_of_nash_conv_ends_where_the_data_do(figures, values):
    plot_nash_conv(None, "t", "iteration", [report(i, v) for i, v in enumerate(values)], {"nash_conv": "a"})
    above = [value for value in values if value > 1e-6] or [1e-6]
    for axes in figures[0].axes:
        low, high = axes.get_ylim()
        assert min(above) / 4 <= low <= min(above) and max(above) <= high <= 2 * max(above)
        (line, *_) = axes.get_lines()
        assert (line.get_ydata() >= low).all()  # zeros as well
        numbers = [float(label.get_text()) for label in axes.get_yticklabels() if label.get_text()]
        assert all(number >= 0.98 * min(above) for number in numbers) or min(values) > 1e-6
        assert any(text.get_text() == "0" for text in axes.texts) == (min(values) < 1e-6)


def test_one_colour_is_one_return_in_every_picture_of_a_game(figures):
    none = np.zeros((2, 2))
    for value in (0.03, 1.0):
        table = np.array([[0.0, value], [-value, 0.0]])
        plot_cross_play(None, "t", ["a", "b"], table, none, largest=2.0)
        plot_matrix(None, "t", ["a", "b"], ["a", "b"], table, "return", largest=2.0)
    shades = [[abs(axes.images[0].norm(0.03) - 0.5) for axes in figure.axes if axes.images] for figure in figures]
    assert len({round(shade, 12) for of_figure in shades for shade in of_figure}) == 1
    assert shades[0][0] < 0.07  # of at most 0.5: a tie is nearly white
    red, green, blue, _ = figures[0].axes[0].images[0].cmap(figures[0].axes[0].images[0].norm(0.03))
    assert min(red, green, blue) > 0.85


def test_all_axes_say_what_they_show_and_marks_are_explained(figures):
    plot_curves(None, "t", "environment steps", "mean return", {"a": [(0, 1.0), (1, 2.0)], "b": [(0, 1.0)]})
    plot_timeline(None, "t", [(0, 0.0, 1.0, True), (1, 0.5, 1.5, False), (0, 1.0, 2.0, True)])
    plot_events(None, "t", "generation", ["a", "b"], {"frozen": [("a", 1)], "starts anew": [("b", 2)]})
    plot_intervals(None, "t", "generation", "Elo", {"a": [(1.0, 0.0, -1.0, 1.0)], "b": [(1.0, 0.0, -1.0, 1.0)]})
    plot_cross_play(None, "t", ["a"], np.zeros((1, 1)), np.zeros((1, 1)), largest=1.0)
    plot_matrix(None, "t", ["a"], ["b"], np.zeros((1, 1)), "return", largest=0.0)
    plot_nash_conv(None, "t", "iteration", [report(0, 1.0, 5)], {"nash_conv": "a"})
    for figure in figures:
        shown = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in shown)
    for figure in figures[:4]:
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        assert legends and all(text.get_text() for text in legends[0].get_texts())
    assert "(s)" in figures[1].axes[0].get_xlabel()
    assert "interrupted, not applied" in [text.get_text() for text in figures[1].legends[0].get_texts()]


def test_titles_name_the_algorithm(tmp_path):
    def title(**settings):
        config = {"scenario": "psro", "env": "open_spiel/kuhn_poker", "logdir": str(tmp_path), **settings}
        return make_scenario(build(TrainConfig, config)).title

    assert title() == "psro open_spiel/kuhn_poker, dqn, seed 0"
    assert title(scenario="marl", algorithm="a2c", seed=3) == "marl open_spiel/kuhn_poker, a2c, seed 3"
    assert title(psro={"oracle": "exact"}) == "psro open_spiel/kuhn_poker, exact best responses, seed 0"


@pytest.mark.parametrize(
    ("family", "game", "largest"),
    [(OpenSpielEnv, "kuhn_poker", 2.0), (OpenSpielEnv, "leduc_poker", 13.0), (MatrixGame, "rock_paper_scissors", 1.0)],
)
def test_the_largest_return_of_a_game(family, game, largest):
    assert family.make_exact(env_id=game).largest_return() == largest
