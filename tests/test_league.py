"""A league: whom its members meet, what is frozen, who starts anew, how they are rated; and small real ones."""

import json

import numpy as np
import pytest

from malib_lite.backend.members import Member, MemberFolder
from malib_lite.config import ConfigError
from malib_lite.population.exhibition import Exhibition, Meeting
from malib_lite.population.league import League
from malib_lite.population.league_rules import LeagueRules
from malib_lite.population.league_rules import Member as LeagueMember
from malib_lite.population.meta_solvers import is_constant_sum, nash
from malib_lite.population.saved import SavedPopulation
from malib_lite.runner import run
from malib_lite.runtime.console import Console
from malib_lite.runtime.seeds import generator
from malib_lite.scenarios.league_scenario import LeagueScenario
from malib_lite.train import TrainConfig, build, main, make_scenario

PLAYERS = ("player_0", "player_1")
LEARNERS = [LeagueMember("m", "main"), LeagueMember("e", "main_exploiter"), LeagueMember("l", "league_exploiter")]
RULES = LeagueRules(min_steps=10, max_steps=20)


def forms(name, number=0):
    """What a learner is at some time, by player."""
    return {player: Member(f"{name}.{player}", str(number)) for player in PLAYERS}


def text(name, player, number=0):
    return str(forms(name, number)[player])


@pytest.fixture
def league():
    return League(LEARNERS, {learner.id: forms(learner.id) for learner in LEARNERS}, RULES)


# -- bookkeeping -------------------------------------------------------------------------------------------------------


def test_opponents_take_the_other_seats(league):
    league.freeze("m", 0)
    league.advance("m", forms("m", 1), 5)
    assert league.pools({"m": 0.25, "m@0": 0.25, "e": 0.5}, "player_0") == {
        "player_1": {
            Member("m.player_1", "1"): 0.25,
            Member("m.player_1", "0"): 0.25,
            Member("e.player_1", "0"): 0.5,
        }
    }


def test_who_is_the_same_is_one_pool_member_and_shares_its_games(league):
    """A learner that was frozen a moment ago is its own snapshot; games against itself are of no use to it."""
    league.freeze("m", 0)
    met = {"m": 0.25, "m@0": 0.75}
    assert league.pools(met, "player_1") == {"player_0": {Member("m.player_0", "0"): 1.0}}
    league.count(
        {"m": met, "e": met}, [("m", {text("m", "player_0"): [8, 4, 4]}), ("e", {text("m", "player_0"): [0, 0, 8]})]
    )
    assert league.wins["m", "m@0"] == (6, 3, 3)
    assert league.wins["e", "m"] == (0, 0, 2) and league.wins["e", "m@0"] == (0, 0, 6)


def test_games_of_all_seats_count_alike(league):
    """However many they are: what fades is what was before this generation."""
    before = [("e", {text("m", "player_1"): [500, 0, 0]})]
    now = [("e", {text("m", "player_1"): [900, 0, 0]}), ("e", {text("m", "player_0"): [0, 0, 900]})]
    for scores in (before, now):
        league.count({"e": {"m": 1.0}}, scores)
    assert league.wins.win_probability("e", "m") == pytest.approx(0.5, abs=1e-3)


def test_main_agents_that_meet_have_their_games_from_both_sides():
    mains = [LeagueMember("a", "main"), LeagueMember("b", "main")]
    league = League(mains, {"a": forms("a"), "b": forms("b")}, RULES)
    scores = [("a", {text("b", "player_1"): [300, 0, 100]}), ("b", {text("a", "player_1"): [300, 0, 100]})]
    league.count({"a": {"b": 1.0}, "b": {"a": 1.0}}, scores)
    assert league.wins["a", "b"] == (400, 0, 400)


def test_prioritised_games_go_to_those_that_are_hard_to_beat(league):
    """From what was played, not from a table made for the purpose."""
    for generation in range(3):
        league.freeze("m", generation)
        league.advance("m", forms("m", generation + 1), 20)
    names = league.snapshots()
    won = {"m@0": [1000, 0, 0], "m@1": [500, 0, 500], "m@2": [0, 0, 1000]}
    scores = {text("m", "player_1", number): won[name] for number, name in enumerate(names)}
    league.count({"l": dict.fromkeys(names, 1 / 3), "m": dict.fromkeys(names, 1 / 3)}, [("l", scores), ("m", scores)])
    of_main = league.opponents("m")
    assert of_main.get("m@0", 0.0) < 1e-5 < of_main["m@1"] < of_main["m@2"]
    assert of_main["m"] == pytest.approx(0.5)  # self-play
    of_exploiter = league.opponents("l")
    assert of_exploiter["m@0"] < 0.002 and "m" not in of_exploiter
    assert of_exploiter["m@2"] == pytest.approx(0.5, abs=0.002)  # capped: all that win more than half are alike


def test_a_snapshot_stays_what_it_is(league):
    name = league.freeze("m", 0)
    league.advance("m", forms("m", 1), 15)
    assert league.policies[name] == forms("m", 0) and league.policies["m"] == forms("m", 1)
    assert league.steps["m"] == 15 and league.ready() == []
    league.advance("m", forms("m", 2), 5)
    assert league.ready() == ["m"]
    league.freeze("m", 7)
    assert league.steps["m"] == 0 and league.ready() == [] and league.snapshots("m") == ["m@0", "m@7"]
    assert league.snapshots(role="main_exploiter") == []


def test_who_starts_anew_is_what_it_was_at_first_and_knows_nobody(league):
    league.advance("e", forms("e", 4), 20)
    frozen = league.freeze("e", 1)
    for name in ("e", frozen):
        league.wins.record(name, "m", wins=10)
    assert league.reset("e", 1) == forms("e", 0) == league.policies["e"]
    assert league.wins.win_probability("e", "m") == 0.5 and league.wins.win_probability(frozen, "m") > 0.9
    assert league.policies[frozen] == forms("e", 4) and league.resets == [(1, "e")]


def test_how_often_learners_start_anew(league):
    random = generator(0, "resets")
    drawn = {learner.id: sum(league.draw_reset(learner.id, random) for _ in range(400)) for learner in LEARNERS}
    assert drawn["m"] == 0 and drawn["e"] == 400 and 75 <= drawn["l"] <= 125


def test_the_state_is_json(league):
    league.freeze("m", 0)
    league.reset("e", 0)
    state = json.loads(json.dumps(league.state_dict()))
    assert [member["id"] for member in state["members"]] == ["m", "e", "l", "m@0"]
    assert state["members"][3]["parent"] == "m" and state["members"][3]["policies"] == state["first"]["m"]
    assert state["resets"] == [[0, "e"]]


# -- exhibition games --------------------------------------------------------------------------------------------------


def test_every_pair_meets_once():
    exhibition = Exhibition()
    pairs = exhibition.missing(["a", "b"], ["a", "b", "x"])
    assert pairs == [("a", "b"), ("a", "x"), ("b", "x")]
    for pair in pairs:
        exhibition.record(*pair, Meeting(100, (0.4, -0.4), (0.1, 0.1), 1.0, 2.0))
    assert exhibition.missing(["a", "b"], ["a", "b", "x"]) == []
    assert exhibition.missing(["a", "b", "c"], ["a", "b", "x"]) == [("c", "a"), ("c", "b"), ("c", "x")]
    for pair in [("a", "b"), ("b", "a"), ("a", "a")]:
        with pytest.raises(ValueError, match="every pair plays once"):
            exhibition.record(*pair, Meeting(1, (1, -1), (0, 0), 1.0, 2.0))
    assert exhibition["b", "a"] == Meeting(100, (-0.4, 0.4), (0.1, 0.1), 1.0, 2.0)
    np.testing.assert_allclose(
        exhibition.payoffs(["a", "b"], ["a", "b", "x"]), [[np.nan, 0.4, 0.4], [-0.4, np.nan, 0.4]]
    )


def won(share, games):
    """A meeting in which the first one won this share of the games, and lost all others."""
    error = 2 * np.sqrt(share * (1 - share) / games)
    return Meeting(games, (2 * share - 1, 1 - 2 * share), (error, error), 1.0, 2.0)


def test_the_game_of_choosing_somebody():
    """Rock, paper and scissors share 1: each gets half of it from itself."""
    exhibition = Exhibition()
    for pair, payoffs in {("r", "p"): (0.0, 1.0), ("s", "p"): (1.0, 0.0), ("r", "s"): (1.0, 0.0)}.items():
        exhibition.record(*pair, Meeting(100, payoffs, (0.1, 0.1), 1.0, 2.0))
    game = exhibition.game(["r", "p", "s"])
    np.testing.assert_allclose(game[0], [[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
    assert is_constant_sum(game)
    for mixture in nash(game):
        np.testing.assert_allclose(mixture, 1 / 3)
    np.testing.assert_array_equal(Exhibition().game(["alone"]), np.zeros((2, 1, 1)))


@pytest.mark.parametrize(
    ("payoffs", "opposite"),
    [
        ([(0.5, -0.5)], True),
        ([(0.5, -0.5), (0.25, -0.25)], True),
        ([(0.75, 0.25), (0.5, 0.5)], True),  # they share 1
        ([(0.75, 0.25)], False),  # of which one meeting does not tell
        ([(0.75, 0.25), (0.5, 0.75)], False),
        ([], True),
    ],
)
def test_interests_are_told_by_what_is_won_together(payoffs, opposite):
    exhibition = Exhibition()
    for number, each in enumerate(payoffs):
        exhibition.record("a", f"b{number}", Meeting(100, each, (0.1, 0.1), 1.0, 2.0))
    assert exhibition.shows_opposite_interests() == opposite


def test_ratings_are_relative_to_the_first():
    exhibition = Exhibition()
    for pair in [("a", "b"), ("b", "c")]:
        exhibition.record(*pair, won(0.24, 1000))
    ratings = exhibition.ratings(["a", "b", "c"])
    assert ratings["a"] == (0, 0, 0)
    assert ratings["b"].elo == pytest.approx(200, abs=5) and ratings["c"].elo == pytest.approx(400, abs=10)
    assert ratings["b"].low < 200 < ratings["b"].high
    assert ratings["c"].high - ratings["c"].low > ratings["b"].high - ratings["b"].low  # farther from who is known


def test_ratings_go_by_what_is_won_and_not_by_how_often():
    """Who loses one coin in most games and wins five in some is the better one."""
    exhibition = Exhibition()
    exhibition.record("often", "much", Meeting(1000, (-0.2, 0.2), (0.05, 0.05), 5.0, 10.0))
    ratings = exhibition.ratings(["often", "much"])
    assert ratings["much"].elo == pytest.approx(400 * np.log10(0.52 / 0.48), abs=0.5)
    assert Exhibition().ratings(["alone"]) == {"alone": (0, 0, 0)}


@pytest.mark.parametrize("offset", [-1.5, 0.5, 1e6])
def test_ratings_do_not_depend_on_what_all_get_alike(offset):
    """Rock, paper, scissors paid 1, 0.5, 0 is the game that is paid 1, 0, -1."""
    plain, paid = Exhibition(), Exhibition()
    for pair, share in {("a", "b"): 0.3, ("b", "c"): 0.6, ("a", "c"): 0.5}.items():
        meeting = won(share, 200)
        plain.record(*pair, meeting)
        payoffs = meeting.payoffs[0] / 2 + offset, meeting.payoffs[1] / 2 + offset
        errors = meeting.errors[0] / 2, meeting.errors[1] / 2
        paid.record(*pair, Meeting(200, payoffs, errors, 0.5 + abs(offset), 1.0))
    for name, rating in plain.ratings(["a", "b", "c"]).items():
        np.testing.assert_allclose(paid.ratings(["a", "b", "c"])[name], rating, atol=1e-6)


def test_who_always_wins_has_a_finite_rating():
    exhibition = Exhibition()
    exhibition.record("a", "b", Meeting(50, (-1.0, 1.0), (0.0, 0.0), 1.0, 2.0))
    assert 400 < exhibition.ratings(["a", "b"])["b"].elo < 2000


# -- wrong input -------------------------------------------------------------------------------------------------------


def scenario_of(folder, **settings):
    return make_scenario(build(TrainConfig, {"scenario": "league", "logdir": str(folder), **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"league": {"main": 0}}, "league.main' = 0"),
        ({"league": {"mains": 2}}, "did you mean 'league.main'"),
        ({"league": {"min_steps": 10, "max_steps": 5}}, "max_steps = 5"),
        ({"league": {"too_strong": 1.5}}, "league.too_strong' = 1.5"),
        ({"league": {"oracle": "exact"}}, "unknown key 'league.oracle'"),
        ({"self_play": {"delta": 0.5}}, "'self_play' is for the self_play scenario"),
        ({"env": "gym/CartPole-v1"}, "league needs at least two players"),
        ({"stopping": {"training": {"max_iteration": 5}}}, "exploiters start anew"),
        ({"stopping": {"rollout": {"minimum_reward_improvement": 1.0}}}, "for the marl scenario"),
    ],
)
def test_wrong_input_is_told_before_anything_starts(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        scenario_of(tmp_path / "run", **{"env": "open_spiel/kuhn_poker", **settings})
    assert not (tmp_path / "run").exists()


def test_the_command_knows_its_fields(capsys):
    assert main(["league", "--help-config"]) == 0
    told = capsys.readouterr().out
    assert "--league.main_exploiters" in told and "--league.pfsp_share" in told


# -- real leagues ------------------------------------------------------------------------------------------------------

SMALL = {
    "env": "open_spiel/kuhn_poker", "steps": 64, "iterations": 3,
    "rollout": {"num_threads": 0, "fragment_length": 64, "num_env_per_thread": 16},
    "trainer": {"num_epochs": 1, "minibatch_size": 256},
    "league": {"min_steps": 50, "max_steps": 100, "rating_episodes": 20, "league_exploiter_reset": 1.0},
}  # fmt: skip


def reports_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A small league that has been run, and the states that it left after each generation."""
    folder = tmp_path_factory.mktemp("league") / "run"
    states = []

    class Watched(LeagueScenario):
        def _report(self, *arguments):
            values = super()._report(*arguments)
            states.append(json.loads((folder / "checkpoints" / "state.json").read_text()))
            return values

    scenario = scenario_of(folder, **SMALL)
    scenario.__class__ = Watched
    summary = run(scenario, Console(quiet=True))
    return folder, summary, states, scenario


def test_frozen_snapshots_never_change(played):
    folder, _, states, _ = played
    members, seen = MemberFolder(folder / "checkpoints" / "policies"), {}
    for state in states:
        for member in state["league"]["members"]:
            if member["parent"] is not None:
                assert seen.setdefault(member["id"], member["policies"]) == member["policies"]
    assert len(seen) >= 5
    for policies in seen.values():
        assert sorted(policies) == ["player_0", "player_1"]
        for policy in policies.values():
            assert members.load(Member.parse(policy).digest)  # which raises if the file holds anything else
    mains = [policies["player_0"] for name, policies in seen.items() if name.startswith("main-0@")]
    assert len(set(mains)) == len(mains) >= 2  # main agents go on learning


def test_exploiters_start_anew_and_main_agents_go_on(played):
    folder, _, states, scenario = played
    assert {name for _, name in scenario.league.resets} == {"main_exploiter-0", "league_exploiter-0"}
    state = states[-1]["league"]
    for generation, name in state["resets"]:
        after = {member["id"]: member["policies"] for member in states[generation]["league"]["members"]}
        assert after[name] == state["first"][name] != after[f"{name}@{generation}"]
    reports = reports_of(folder)
    updates = {
        name: [report[f"{name}.player_1/updates"] for report in reports[1:]] for name in ("main-0", "main_exploiter-0")
    }
    assert updates["main-0"] == sorted(set(updates["main-0"]))
    generation = min(generation for generation, name in state["resets"] if name == "main_exploiter-0")
    before, after = updates["main_exploiter-0"][generation - 1 : generation + 1]
    assert after <= before


def test_main_agents_meet_everybody_and_are_rated(played):
    folder, summary, states, scenario = played
    league, state = scenario.league, states[-1]
    rows, columns = league.snapshots(role="main"), ["untrained", *league.snapshots()]
    pairs = [frozenset(meeting[:2]) for meeting in state["exhibition"]["meetings"]]
    expected = {frozenset({row, column}) for row in rows for column in columns if row != column}
    assert len(pairs) == len(set(pairs)) and set(pairs) == expected
    for _, _, games, payoffs, errors, largest, lead in state["exhibition"]["meetings"]:
        assert games == 40 and largest == 2.0 and lead == 4.0  # 20 in each seat; one wins what the other loses
        assert payoffs[0] == pytest.approx(-payoffs[1]) and min(errors) > 0.0
    final = summary["ratings"]["main-0"]
    assert final["low"] < final["elo"] < final["high"]
    assert state["ratings"][rows[-1]] == final and league.frozen_in[rows[-1]] == 3
    assert state["ratings"]["untrained"]["elo"] == 0.0
    assert not any(member["id"] == "untrained" for member in state["league"]["members"])
    last = reports_of(folder)[-1]
    assert last["main-0/rating"] == final["elo"] and 0.0 < last["main-0/win_rate"] < 1.0
    assert {"nash_conv", "nash_conv_average", "nash_conv_nash"} <= summary.keys()
    assert summary["nash_conv_nash"] > 0.0
    assert {path.name for path in (folder / "plots").iterdir()} == {
        "league.png", "nash_conv.png", "payoffs.png", "ratings.png"
    }  # fmt: skip


def test_the_population_is_all_that_the_main_agents_were(played):
    folder, _, states, _ = played
    saved = SavedPopulation.read(folder)
    for player, members in saved.members.items():
        forms = [state["league"]["members"][0]["policies"][player] for state in states]
        assert list(map(str, members)) == forms and len(set(forms)) == 4


def test_several_main_agents_without_exploiters_in_a_game_of_three(tmp_path):
    settings = {**SMALL, "env": "open_spiel/kuhn_poker(players=3)", "iterations": 1}
    settings["league"] = {**SMALL["league"], "main": 2, "main_exploiters": 0, "league_exploiters": 0}
    scenario = scenario_of(tmp_path / "run", **settings)
    assert len(scenario.seats) == 6 and len(scenario.arenas()) == 6
    summary = run(scenario, Console(quiet=True))
    last = reports_of(tmp_path / "run")[-1]
    assert summary["ratings"].keys() == {"main-0", "main-1"} and "nash_conv_nash" not in summary
    assert last["nash_conv"] <= (last["main-0/nash_conv"] + last["main-1/nash_conv"]) / 2 + 1e-9  # gains are convex
    assert scenario.league.wins["main-0", "main-1"].games > 0
    for player, pool in SavedPopulation.read(tmp_path / "run").pools("final").items():  # the main agents as they are
        assert all(pool[scenario.league.policies[main][player]] == 0.5 for main in ("main-0", "main-1"))


@pytest.mark.slow
def test_serial_and_processes_agree_to_the_bit(tmp_path):
    states = []
    for workers in (0, 1):
        folder = tmp_path / str(workers)
        run(scenario_of(folder, **{**SMALL, "rollout": {**SMALL["rollout"], "num_threads": workers}}), Console(True))
        states.append(json.loads((folder / "checkpoints" / "state.json").read_text()))
    assert states[0] == states[1]


@pytest.mark.slow
@pytest.mark.parametrize("learns", [True, False])
def test_a_small_league_learns_kuhn_poker(tmp_path, learns):
    """Main agents get better than they began, by their NashConv and by their ratings; without learning they do not."""
    settings = {
        **SMALL, "steps": 2000, "iterations": 6,
        "rollout": {"num_threads": 0, "fragment_length": 512, "num_env_per_thread": 64},
        "trainer": {} if learns else {"learning_rate": 0.0},
        "league": {"min_steps": 4000, "max_steps": 8000},
    }  # fmt: skip
    summary = run(scenario_of(tmp_path / "run", **settings), Console(quiet=True))
    assert (summary["nash_conv"] < 0.65) == learns
    assert (summary["ratings"]["main-0"]["low"] > 0.0) == learns
