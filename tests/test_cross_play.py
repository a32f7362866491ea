"""Cross-play of populations with known strengths."""

import numpy as np
import pytest

from malib_lite.population.cross_play import cross_play, head_to_head, lineups
from malib_lite.population.ratings import SKILL_NOISE, fit_skills
from malib_lite.rollout.books import Books

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
# Populations as mixtures of rock, paper, scissors.
MIXTURES = {"rock": [1.0, 0.0, 0.0], "paper or rock": [0.25, 0.75, 0.0], "all": [1 / 3] * 3}


def meetings(error=0.0):
    mixtures = np.array(list(MIXTURES.values()))
    values = mixtures @ RPS @ mixtures.T
    return {(i, j): ([values[i, j], -values[i, j]], [error, error]) for i, j in lineups(3, 2)}


def test_values_between_populations():
    result = cross_play(list(MIXTURES), meetings(), 2)
    assert result.names == ("rock", "paper or rock", "all")
    np.testing.assert_allclose(result.mean, [[0.0, -0.75, 0.0], [0.75, 0.0, 0.0], [0.0, 0.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(result.values[0], result.values[1], atol=1e-15)  # the game is symmetric
    np.testing.assert_allclose(result.strengths, [-0.375, 0.375, 0.0], atol=1e-15)
    np.testing.assert_array_equal(result.mean_errors, 0.0)


def test_seats_are_independent_but_where_a_population_meets_itself():
    errors = cross_play(list(MIXTURES), meetings(error=0.1), 2).mean_errors
    assert errors[0, 1] == errors[1, 0] == pytest.approx(0.1 / np.sqrt(2.0))
    np.testing.assert_allclose(errors.diagonal(), 0.1)


def test_the_seat_advantage_is_no_strength():
    """Whoever moves first earns 1: two equal populations are of equal strength."""
    result = cross_play("ab", {lineup: ([1.0, -1.0], [0.0, 0.0]) for lineup in lineups(2, 2)}, 2)
    np.testing.assert_array_equal(result.values[0], 1.0)
    np.testing.assert_array_equal(result.mean, 0.0)
    np.testing.assert_array_equal(result.strengths, 0.0)


def test_three_players():
    """Who is of population 1 earns its seat's number; the others pay nothing and get nothing."""
    wanted = lineups(2, 3)
    assert len(wanted) == len(set(wanted)) == 8  # all 0, all 1, and one against two in three seats, twice
    returns = {lineup: ([seat * who for seat, who in enumerate(lineup)], [0.0] * 3) for lineup in wanted}
    result = cross_play("ab", returns, 3)
    np.testing.assert_array_equal(result.values[:, 1, 0], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(result.mean, [[0.0, 0.0], [1.0, 1.0]])


def test_a_missing_lineup_is_refused():
    returns = meetings()
    del returns[0, 2]
    with pytest.raises(ValueError, match=r"no returns of the lineup \['rock', 'all'\]"):
        cross_play(list(MIXTURES), returns, 2)


def test_who_comes_off_better_than_whom():
    """With two players a lineup is one game of both; with three the odd one meets the other two, half a game each."""
    two = {(0, 0): [[5, 2, 3], [3, 2, 5]], (0, 1): [[6, 1, 3], [3, 1, 6]], (1, 0): [[0, 0, 10], [10, 0, 0]]}
    wins, draws = head_to_head(two, 2)
    np.testing.assert_array_equal(wins, [[0, 16], [3, 0]])
    np.testing.assert_array_equal(draws, [[0, 1], [1, 0]])
    three = {(1, 0, 1): [[0, 20, 0], [12, 5, 3], [9, 9, 2]], (0, 1, 1): [[2, 2, 16], [20, 0, 0], [20, 0, 0]]}
    wins, draws = head_to_head(three, 2)
    np.testing.assert_array_equal(wins, [[0, 7], [9.5, 0]])
    np.testing.assert_array_equal(draws, [[0, 3.5], [3.5, 0]])


@pytest.mark.parametrize("num_players", [2, 3])
def test_skills_by_placings(num_players):
    """Populations that show their skill with noise at a common table, where all seats of one have the same skill."""
    rng, skills = np.random.default_rng(0), np.array([23.0, 25.0, 27.0])
    placings = {}
    for lineup in lineups(3, num_players):
        books = Books()
        shown = skills[list(lineup)] + rng.normal(0.0, SKILL_NOISE, size=(2000, num_players))
        books.place({str(seat): values for seat, values in enumerate(shown.T)})
        placings[lineup] = list(books.placings.values())
    wins, draws = head_to_head(placings, 3)
    games = 2000 * len([lineup for lineup in lineups(3, num_players) if len(set(lineup)) > 1])
    assert wins.sum() == pytest.approx(games) and not draws.any()
    ratings = fit_skills(wins, draws)
    assert (np.abs(ratings.values - skills) < 3.0 * ratings.errors + 0.01).all() and ratings.errors.max() < 0.15
