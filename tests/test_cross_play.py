"""Cross-play of populations with known strengths."""

import numpy as np
import pytest

from malib_lite.population.cross_play import cross_play, lineups, relative_performance

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


def test_relative_performance():
    """A pool with an answer to everything is worth more than one without, and what it has twice is worth no more."""
    assert relative_performance(RPS[:, [0]]) == pytest.approx(1.0)
    assert relative_performance(RPS) == pytest.approx(0.0, abs=1e-9)
    # Paper and rock: the other mixes paper and scissors at 2 : 1, rock and paper lose 1/3 on average.
    assert relative_performance(RPS[[1, 0]]) == pytest.approx(-1 / 3)
    assert relative_performance(np.vstack([RPS, RPS])) == pytest.approx(0.0, abs=1e-9)
