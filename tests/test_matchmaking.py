"""Whom to play: the win table, distributions over a history, and the rules of a league."""

import json
from functools import partial

import numpy as np
import pytest

from malib_lite.config import ConfigError, build
from malib_lite.population.league_rules import (
    LeagueRules,
    Member,
    length_without_natural_end,
    match_probabilities,
    ready_for_snapshot,
    reset_probability,
)
from malib_lite.population.matchmaking import delta_uniform, fictitious, hard, naive, pfsp
from malib_lite.population.win_table import WinTable

# -- win table ---------------------------------------------------------------------------------------------------------


def test_each_result_is_read_from_both_sides():
    table = WinTable()
    table.record("b", "a", wins=3, draws=2, losses=1)
    table.record("a", "b", wins=1)
    assert table["b", "a"] == (3, 2, 2)
    assert table["a", "b"] == (2, 2, 3)
    assert table["a", "b"].games == 7
    assert table.win_probability("b", "a") == pytest.approx(4 / 7)
    rng = np.random.default_rng(0)
    for _ in range(200):
        home, away = rng.choice(list("abcde"), size=2, replace=False)
        table.record(home, away, **{rng.choice(["wins", "draws", "losses"]): 1})
    for home in "abcde":
        for away in "abcde":
            assert table.win_probability(home, away) + table.win_probability(away, home) == pytest.approx(1.0)
    assert sum(table[home, away].games for home in "abcde" for away in "abcde") == 2 * 207  # once from either side


def test_nothing_known_is_one_half():
    table = WinTable()
    assert table.win_probability("a", "b") == 0.5
    assert table.win_probability("a", "a") == 0.5
    table.record("a", "b")
    np.testing.assert_array_equal(table.win_probabilities("a", ["b", "c"]), [0.5, 0.5])


def test_old_games_fade_with_new_ones_of_the_same_pair():
    table = WinTable(decay=0.5)
    table.record("a", "b", draws=8, losses=4)
    table.record("c", "a", wins=4)
    table.record("a", "b", wins=2)
    assert table["a", "b"] == (2, 2, 1)
    assert table["a", "c"] == (0, 0, 4)
    learner = WinTable(decay=0.99)
    learner.record("a", "b", losses=1000)
    for _ in range(200):
        learner.record("a", "b", wins=1)
    kept = 0.99**200
    assert learner["a", "b"] == pytest.approx(((1 - kept) / 0.01, 0, 1000 * kept))  # 87 to 134


def test_imagined_draws_keep_one_lucky_game_from_settling_it():
    table = WinTable(prior_games=2.0)
    table.record("a", "b", wins=1)
    assert table.win_probability("a", "b") == pytest.approx(2 / 3)
    table.record("a", "b", wins=997)
    assert table.win_probability("a", "b") == pytest.approx(0.999)


def test_who_starts_anew_is_forgotten():
    table = WinTable()
    table.record("a", "b", wins=1)
    table.record("a", "c", wins=1)
    table.forget("b")
    assert table.win_probability("a", "b") == 0.5
    assert table.win_probability("a", "c") == 1.0


def test_the_table_survives_json():
    table = WinTable(decay=0.9)
    table.record("a", "b", wins=2, draws=1)
    table.record("c", "b", losses=3)
    again = WinTable(decay=0.9)
    again.load_state_dict(json.loads(json.dumps(table.state_dict())))
    assert again.state_dict() == table.state_dict()
    assert again["b", "c"] == table["b", "c"]


def test_impossible_records_are_refused():
    table = WinTable()
    with pytest.raises(ValueError, match="itself"):
        table.record("a", "a", wins=1)
    with pytest.raises(ValueError, match="-1 wins"):
        table.record("a", "b", wins=-1)
    for wrong in ({"decay": 0.0}, {"decay": 1.5}, {"prior_games": -1.0}):
        with pytest.raises(ValueError, match="decay"):
            WinTable(**wrong)


# -- distributions over a history --------------------------------------------------------------------------------------


def test_naive_and_fictitious():
    np.testing.assert_array_equal(naive(3), [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(fictitious(4), [0.25] * 4)
    assert naive(1) == fictitious(1) == [1.0]


@pytest.mark.parametrize(
    ("delta", "first"), [(0.0, 0), (0.05, 1), (0.1, 1), (0.5, 5), (0.55, 6), (0.7, 7), (0.95, 10), (1.0, 10)]
)
def test_delta_uniform_is_even_over_the_latest(delta, first):
    """Eleven opponents, 0 to 10: those from 10 delta on."""
    probabilities = delta_uniform(11, delta=delta)
    assert probabilities.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(probabilities, np.where(np.arange(11) >= first, 1 / (11 - first), 0.0))


def test_delta_outside_the_history_is_refused():
    for delta in (-0.1, 1.1):
        with pytest.raises(ConfigError, match=f"delta = {delta}"):
            delta_uniform(3, delta=delta)
    for rule in (naive, fictitious):
        with pytest.raises(ValueError, match="nobody"):
            rule(0)


@pytest.mark.parametrize("weighting", ["hard", "capped", partial(hard, power=1.0), partial(hard, power=5.0)])
def test_pfsp_never_plays_the_beaten_and_most_those_it_loses_to(weighting):
    wins = np.array([1.0, 0.9, 0.4, 0.0, 0.2])
    probabilities = pfsp(wins, weighting)
    assert probabilities.sum() == pytest.approx(1.0)
    assert probabilities[0] == 0.0
    assert probabilities.argmax() == 3 or weighting == "capped"
    assert probabilities[3] == probabilities.max()
    assert (np.diff(probabilities[np.argsort(wins)]) <= 0.0).all()


def test_pfsp_weights_by_hand():
    wins = np.array([0.0, 0.5, 0.8])
    np.testing.assert_allclose(pfsp(wins), np.array([1.0, 0.25, 0.04]) / 1.29)
    np.testing.assert_allclose(pfsp(wins, "capped"), np.array([0.5, 0.5, 0.2]) / 1.2)
    np.testing.assert_allclose(pfsp(wins, "variance"), np.array([0.0, 0.25, 0.16]) / 0.41)
    np.testing.assert_allclose(pfsp(wins, lambda p: p), wins / 1.3)


def test_pfsp_of_all_beaten_is_even():
    np.testing.assert_allclose(pfsp(np.ones(3)), 1 / 3)
    np.testing.assert_allclose(pfsp(np.array([0.0, 1.0]), "variance"), 0.5)


def test_pfsp_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="nobody"):
        pfsp(np.zeros(0))
    for wrong in (1.2, -0.1, np.nan):
        with pytest.raises(ValueError, match="not probabilities"):
            pfsp(np.array([0.5, wrong]))
    with pytest.raises(ConfigError, match="did you mean 'variance'"):
        pfsp(np.array([0.5]), "varianz")


# -- league ------------------------------------------------------------------------------------------------------------

MAIN = Member("m", "main")
OTHER = Member("n", "main")
EXPLOITER = Member("e", "main_exploiter")
LEAGUE = Member("l", "league_exploiter")
LEARNERS = [MAIN, EXPLOITER, LEAGUE]
PAST = [Member("m1", "main", "m"), Member("m2", "main", "m"), Member("m3", "main", "m")]
RULES = LeagueRules()


def table_of(player, **win_probabilities):
    table = WinTable()
    for other, probability in win_probabilities.items():
        table.record(player, other, wins=100 * probability, losses=100 - 100 * probability)
    return table


def assert_probabilities(found, expected):
    assert sum(found.values()) == pytest.approx(1.0)
    assert found == pytest.approx(expected)
    assert all(probability > 0.0 for probability in found.values())


def test_a_main_agent_plays_half_against_the_past_and_half_itself():
    """Nobody exploits or was forgotten (m1 to m3 get harder, as is natural): 15 % go to self-play as well."""
    table = table_of("m", m1=0.9, m2=0.8, m3=0.5)
    weights = np.array([0.01, 0.04, 0.25]) / 0.30
    assert_probabilities(
        match_probabilities(MAIN, LEARNERS + PAST, table, RULES),
        {"m": 0.5, "m1": 0.5 * weights[0], "m2": 0.5 * weights[1], "m3": 0.5 * weights[2]},
    )


def test_a_main_agent_answers_an_exploiter_that_beats_it():
    members = [*LEARNERS, PAST[0], Member("e1", "main_exploiter", "e"), Member("e2", "main_exploiter", "e")]
    table = table_of("m", m1=1.0, e1=0.2, e2=1.0)
    assert_probabilities(match_probabilities(MAIN, members, table, RULES), {"m": 0.35, "e1": 0.65})
    beaten = table_of("m", m1=1.0, e1=0.4, e2=1.0)
    assert_probabilities(match_probabilities(MAIN, members, beaten, RULES), {"m": 0.5, "e1": 0.5})


def test_a_main_agent_goes_back_to_what_it_has_forgotten():
    """m1 is beaten less often than the newer m2: forgotten. m3, the natural end, is no part of that."""
    table = table_of("m", m1=0.5, m2=1.0, m3=0.5)
    assert_probabilities(
        match_probabilities(MAIN, LEARNERS + PAST, table, RULES), {"m": 0.35, "m1": 0.25 + 0.15, "m3": 0.25}
    )
    well = table_of("m", m1=0.75, m2=1.0, m3=0.75)  # less often, but often enough
    assert match_probabilities(MAIN, LEARNERS + PAST, well, RULES)["m"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("wins", "length"),
    [
        ([], 0),
        ([0.5], 0),
        ([0.9, 0.5, 0.1], 0),
        ([0.5, 0.5], 0),
        ([0.1, 0.9], 2),
        ([0.1, 0.9, 0.5, 0.4], 2),
        ([0.9, 0.1, 0.2, 0.2], 3),
        ([0.1, 0.5, 0.2, 0.3], 4),
    ],
)
def test_the_natural_end_is_cut_off(wins, length):
    assert length_without_natural_end(np.array(wins)) == length


def test_main_agents_play_each_other_and_the_past_of_those_that_are_too_strong():
    members = [MAIN, OTHER, Member("n1", "main", "n"), Member("n2", "main", "n")]
    even = match_probabilities(MAIN, members, table_of("m", n=0.31, n1=1.0, n2=1.0), RULES)
    assert_probabilities(even, {"m": 0.25, "n": 0.25, "n1": 0.25, "n2": 0.25})  # all beaten: PFSP is even
    strong = match_probabilities(MAIN, members, table_of("m", n=0.3, n1=0.9, n2=0.5), RULES)
    hard_weights, close = np.array([0.01, 0.25]) / 0.26, np.array([0.09, 0.25]) / 0.34
    assert_probabilities(
        strong,
        {"m": 0.25, "n1": 0.5 * hard_weights[0] + 0.25 * close[0], "n2": 0.5 * hard_weights[1] + 0.25 * close[1]},
    )


def test_a_main_exploiter_plays_the_main_agents_or_their_past_while_they_are_too_strong():
    members = [MAIN, OTHER, EXPLOITER, *PAST[:2]]
    fair = match_probabilities(EXPLOITER, members, table_of("e", m=0.2, n=0.5), RULES)
    assert_probabilities(fair, {"m": 0.5, "n": 0.5})
    hopeless = match_probabilities(EXPLOITER, members, table_of("e", m=0.05, m1=0.5, m2=0.1, n=0.0), RULES)
    close = np.array([0.25, 0.09]) / 0.34
    assert_probabilities(hopeless, {"m1": 0.5 * close[0], "m2": 0.5 * close[1], "n": 0.5})  # n has no past


def test_a_league_exploiter_plays_the_whole_past():
    members = [*LEARNERS, *PAST, Member("e1", "main_exploiter", "e"), Member("l1", "league_exploiter", "l")]
    table = table_of("l", m1=1.0, m2=0.2, m3=0.8, e1=0.5)
    found = match_probabilities(LEAGUE, members, table, RULES)  # l1, its own snapshot, is unknown: 1/2
    assert_probabilities(found, {"m2": 0.5 / 1.7, "m3": 0.2 / 1.7, "e1": 0.5 / 1.7, "l1": 0.5 / 1.7})


@pytest.mark.parametrize("member", LEARNERS)
def test_a_league_without_snapshots_plays_its_main_agents(member):
    assert_probabilities(match_probabilities(member, LEARNERS, WinTable(), RULES), {"m": 1.0})


def test_every_learner_has_somebody_to_play_in_any_league():
    rng = np.random.default_rng(0)
    for _ in range(100):
        members = [MAIN, OTHER, EXPLOITER, LEAGUE]
        for age in range(rng.integers(0, 8)):
            parent = members[rng.integers(4)]
            members.append(Member(f"{parent.id}{age}", parent.role, parent.id))
        table = WinTable()
        for home in members:
            for away in members:
                if home != away and rng.random() < 0.5:
                    wins = int(rng.integers(0, 11))
                    table.record(home.id, away.id, wins=wins, losses=10 - wins)
        for learner in members[:4]:
            found = match_probabilities(learner, members, table, RULES)
            assert sum(found.values()) == pytest.approx(1.0)
            assert set(found) <= {member.id for member in members}
            if learner.role == "league_exploiter" and len(members) > 4:
                assert not set(found) & set("mnel")


def test_snapshots_do_not_ask_for_games():
    with pytest.raises(ValueError, match="m1 is a snapshot"):
        match_probabilities(PAST[0], LEARNERS + PAST, WinTable(), RULES)
    with pytest.raises(ValueError, match="without main agents"):
        match_probabilities(EXPLOITER, [EXPLOITER], WinTable(), RULES)


def test_when_a_learner_is_frozen():
    rules = LeagueRules(min_steps=10, max_steps=20)
    members = LEARNERS + PAST[:2]

    def ready(member, table, num_steps):
        return ready_for_snapshot(member, members, table, rules, num_steps=num_steps)

    strong, weak = table_of("m", m1=0.9, m2=0.71), table_of("m", m1=0.9, m2=0.7)
    assert [ready(MAIN, strong, steps) for steps in (9, 10, 19, 20)] == [False, True, True, True]
    assert [ready(MAIN, weak, steps) for steps in (9, 10, 19, 20)] == [False, False, False, True]
    assert ready(LEAGUE, table_of("l", m1=0.8, m2=0.8), 10)
    # A main exploiter must beat the main agents, whatever it does against the past.
    assert ready(EXPLOITER, table_of("e", m=0.8, m1=0.0), 10)
    assert not ready(EXPLOITER, table_of("e", m=0.6, m1=1.0, m2=1.0), 10)
    # Nobody was beaten where nobody is.
    assert not ready_for_snapshot(MAIN, LEARNERS, WinTable(), rules, num_steps=19)
    assert ready_for_snapshot(MAIN, LEARNERS, WinTable(), rules, num_steps=20)


def test_who_starts_anew():
    assert reset_probability("main", RULES) == 0.0
    assert reset_probability("main_exploiter", RULES) == 1.0
    assert reset_probability("league_exploiter", RULES) == 0.25


def test_rules_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="more than all games"):
        build(LeagueRules, {"pfsp_share": 0.9, "verification_share": 0.2})
    with pytest.raises(ConfigError, match="max_steps = 5"):
        build(LeagueRules, {"min_steps": 10, "max_steps": 5})
    with pytest.raises(ConfigError, match="did you mean 'pfsp_share'"):
        build(LeagueRules, {"pfps_share": 0.5})
