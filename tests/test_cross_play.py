"""Cross-play of populations with known strengths."""

import numpy as np
import pytest

from malib_lite.population.cross_play import cross_play, relative_performance

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
# Populations as members of rock, paper, scissors, and their mixtures in either seat.
POOLS = {"rock": [0], "paper or rock": [1, 0], "all": [0, 1, 2]}
MIXTURES = {"rock": [[1.0]] * 2, "paper or rock": [[0.75, 0.25]] * 2, "all": [[1 / 3] * 3] * 2}


def tables():
    payoffs = {(a, b): RPS[np.ix_(POOLS[a], POOLS[b])] for a in POOLS for b in POOLS}
    return payoffs, {name: [np.array(seat) for seat in seats] for name, seats in MIXTURES.items()}


def test_values_between_populations():
    result = cross_play(*tables())
    assert result.names == ("rock", "paper or rock", "all")
    np.testing.assert_allclose(result.values, [[0.0, -0.75, 0.0], [0.75, 0.0, 0.0], [0.0, 0.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(result.strengths, [-0.375, 0.375, 0.0], atol=1e-15)
    np.testing.assert_array_equal(result.errors, 0.0)


def test_errors_of_independent_entries():
    payoffs, mixtures = tables()
    errors = {pair: np.full_like(table, 0.1) for pair, table in payoffs.items()}
    result = cross_play(payoffs, mixtures, errors)
    assert result.errors[0, 0] == pytest.approx(0.1)
    assert result.errors[2, 2] == pytest.approx(0.1 / 3)
    assert result.errors[1, 0] == pytest.approx(0.1 * np.hypot(0.75, 0.25))


def test_the_seat_advantage_is_no_strength():
    """Whoever moves first earns 1: two equal populations are of equal strength."""
    payoffs = {(a, b): np.ones((1, 1)) for a in "ab" for b in "ab"}
    result = cross_play(payoffs, {name: [np.ones(1)] * 2 for name in "ab"})
    np.testing.assert_array_equal(result.values, 1.0)
    np.testing.assert_array_equal(result.strengths, 0.0)


def test_the_table_names_everything():
    payoffs, mixtures = tables()
    lines = cross_play(payoffs, mixtures).lines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert lines[2].split()[:3] == ["paper", "or", "rock"] and "+0.750 ± 0.000" in lines[2]
    assert lines[0].endswith("strength") and lines[2].endswith("+0.375")


def test_missing_or_ill_fitting_tables_are_refused():
    payoffs, mixtures = tables()
    with pytest.raises(ValueError, match="for 1 x 3 members"):
        cross_play(payoffs | {("rock", "all"): np.zeros((2, 2))}, mixtures)
    del payoffs["rock", "all"]
    with pytest.raises(ValueError, match="no payoffs of 'rock' against 'all'"):
        cross_play(payoffs, mixtures)


def test_relative_performance():
    """A pool with an answer to everything is worth more than one without, and what it has twice is worth no more."""
    payoffs, _ = tables()
    assert relative_performance(payoffs["all", "rock"]) == pytest.approx(1.0)
    assert relative_performance(payoffs["all", "all"]) == pytest.approx(0.0, abs=1e-9)
    # Paper and rock: the other mixes paper and scissors at 2 : 1, rock and paper lose 1/3 on average.
    assert relative_performance(payoffs["paper or rock", "all"]) == pytest.approx(-1 / 3)
    assert relative_performance(np.vstack([payoffs["all", "all"], RPS])) == pytest.approx(0.0, abs=1e-9)
