"""Ratings: known values, recovery from simulated games, and posteriors by other means."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm

from malib_lite.config import ConfigError
from malib_lite.population.ratings import (
    ELO_SCALE,
    SKILL_DEVIATION,
    SKILL_NOISE,
    alpha_ranking,
    fit_elo,
    fit_skills,
    wins_from_payoffs,
)

NO_PRIOR = 1e9  # a deviation without end, but for rounding
RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])


def simulated(ratings, games, rng):
    """Wins (P, P) of ``games`` games per pair by the Elo model."""
    wins = np.zeros((len(ratings), len(ratings)))
    for i in range(len(ratings)):
        for j in range(i):
            wins[i, j] = rng.binomial(games, expit((ratings[i] - ratings[j]) / ELO_SCALE))
            wins[j, i] = games - wins[i, j]
    return wins


# -- Elo ---------------------------------------------------------------------------------------------------------------


def test_elo_of_two_players_is_the_log_odds():
    """75 of 100: odds 3, 400 log10(3) = 190.85 points. Variance of log-odds 1 / (n p (1 - p))."""
    elo = fit_elo(np.array([[0, 75], [25, 0]]), prior_deviation=NO_PRIOR)
    lead, error = elo.difference(0, 1)
    assert lead == pytest.approx(400 * math.log10(3))
    assert error == pytest.approx(ELO_SCALE / math.sqrt(100 * 0.75 * 0.25))
    np.testing.assert_allclose(elo.values, [lead / 2, -lead / 2])
    np.testing.assert_allclose(elo.errors, error / 2)


def test_elo_explains_the_scores_it_was_fitted_to():
    """At the maximum each player's expected score is its actual one; which graph of games there was does not matter."""
    rng = np.random.default_rng(0)
    wins = rng.integers(1, 30, size=(6, 6)).astype(float) * (rng.random((6, 6)) < 0.7)
    np.fill_diagonal(wins, 0.0)
    elo = fit_elo(wins, prior_deviation=NO_PRIOR)
    games = wins + wins.T
    expected = games * expit(np.subtract.outer(elo.values, elo.values) / ELO_SCALE)
    np.testing.assert_allclose(expected.sum(axis=1), wins.sum(axis=1), atol=1e-6)
    assert elo.values.sum() == pytest.approx(0.0, abs=1e-9)


def test_elo_recovers_ratings_within_its_intervals():
    """Of 200 leagues' 6 ratings each, 95 % must lie in 95 % intervals: 1140 +- 4 standard deviations of about 8."""
    rng = np.random.default_rng(1)
    true = np.array([-200.0, -150.0, 0.0, 50.0, 100.0, 200.0])
    held = 0
    for _ in range(200):
        low, high = fit_elo(simulated(true, 30, rng)).intervals().T
        held += ((low <= true) & (true <= high)).sum()
    assert abs(held - 0.95 * 1200) < 4 * math.sqrt(1200 * 0.95 * 0.05) + 5


def test_elo_shifts_with_nothing_but_differences():
    """The same leagues at another level: the model knows differences only, so the games come out alike."""
    true = np.array([0.0, 100.0, 300.0])
    a = fit_elo(simulated(true, 1000, np.random.default_rng(2)))
    b = fit_elo(simulated(true + 1700.0, 1000, np.random.default_rng(2)))
    np.testing.assert_allclose(a.values, b.values, atol=1e-9)


def test_elo_orders_a_transitive_league_even_where_nobody_ever_lost_to_a_weaker_one():
    wins = np.tril(np.full((5, 5), 10.0), -1)
    elo = fit_elo(wins)
    assert (np.diff(elo.values) > 100.0).all()
    assert np.isfinite(elo.errors).all()


def test_elo_of_rock_paper_scissors_is_even():
    wins = 10.0 * (RPS > 0)
    np.testing.assert_allclose(fit_elo(wins).values, 0.0, atol=1e-9)


def test_elo_of_no_games_is_the_prior_and_of_apart_groups_is_level():
    elo = fit_elo(np.zeros((4, 4)), prior_deviation=100.0)
    np.testing.assert_allclose(elo.values, 0.0)
    np.testing.assert_allclose(elo.errors, 100.0 * math.sqrt(3 / 4))


def test_elo_of_the_undefeated_is_finite_and_least_sure():
    """Likelihood alone would rate one that never lost at infinity. More wins make it higher, and surer to be so."""
    wins = np.array([[0.0, 30.0, 30.0], [0.0, 0.0, 15.0], [0.0, 15.0, 0.0]])
    ratings, more = fit_elo(wins), fit_elo(wins * [[10.0], [1.0], [1.0]])
    assert np.isfinite(ratings.values).all() and ratings.values[0] - ratings.values[1] > 400.0
    assert ratings.values[1] == pytest.approx(ratings.values[2], abs=1e-6)
    assert ratings.difference(0, 1)[1] > 2.0 * ratings.difference(1, 2)[1]
    assert more.difference(0, 1)[0] > ratings.difference(0, 1)[0]
    lost = fit_elo(wins.T)
    np.testing.assert_allclose(lost.values, -ratings.values, atol=1e-6)  # and that of who never won


def test_draws_count_half_in_elo():
    """Forty draws rate two as alike as twenty wins each, and surely: a draw is no game without an end."""
    level = fit_elo(np.array([[0.0, 20.0], [20.0, 0.0]]))
    assert level.difference(0, 1)[0] == pytest.approx(0.0, abs=1e-9)
    assert level.difference(0, 1)[1] < fit_elo(np.zeros((2, 2))).difference(0, 1)[1] / 10.0
    ahead = fit_elo(np.array([[0.0, 30.0], [10.0, 0.0]]), prior_deviation=NO_PRIOR)  # 20 won, 20 drawn of 40
    assert ahead.difference(0, 1)[0] == pytest.approx(400.0 * math.log10(3.0), rel=1e-6)


def test_skills_of_the_undefeated_are_finite():
    wins, draws = np.array([[0.0, 50.0], [0.0, 0.0]]), np.zeros((2, 2))
    lead, spread = fit_skills(wins, draws).difference(0, 1)
    assert SKILL_NOISE < lead < 6.0 * SKILL_DEVIATION and 0.0 < spread < 2.0 * SKILL_DEVIATION
    with_draws = fit_skills(wins, np.array([[0.0, 50.0], [50.0, 0.0]])).difference(0, 1)[0]
    assert 0.0 < with_draws < lead


def test_elo_refuses_tables_that_are_none():
    with pytest.raises(ValueError, match="square"):
        fit_elo(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="diagonal"):
        fit_elo(np.eye(2))
    with pytest.raises(ValueError, match="symmetric"):
        fit_skills(np.zeros((2, 2)), np.array([[0, 1], [0, 0]]))
    with pytest.raises(ValueError, match="symmetric"):
        fit_skills(np.zeros((3, 3)), np.zeros((2, 2)))


def test_payoffs_with_errors_count_as_the_games_they_are_worth():
    """A mean of +0.5 in [-1, 1] with the standard error of 48 games at p = 0.75."""
    error = 2.0 * math.sqrt(0.75 * 0.25 / 48)
    wins = wins_from_payoffs(np.array([[0.5, -1.0]]), np.array([[error, 0.0]]), lowest=-1.0, highest=1.0)
    np.testing.assert_allclose(wins, [[0.0, 36.0, 0.0], [12.0, 0.0, 0.0], [1000.0, 0.0, 0.0]], atol=1e-9)
    with pytest.raises(ConfigError, match="between"):
        wins_from_payoffs(np.array([[2.0]]), np.zeros((1, 1)), lowest=-1.0, highest=1.0)


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e6])
def test_bounds_may_be_rounded(offset):
    """Lowest and highest worked out from the payoffs, which are so found a last digit beyond them."""
    payoffs = np.array([[0.1, -0.3], [0.7, 0.3]]) + offset
    bound = np.nextafter(0.7 + offset, 0.0), np.nextafter(-0.3 + offset, np.inf)
    wins = wins_from_payoffs(payoffs, np.zeros((2, 2)), lowest=bound[1], highest=bound[0])
    assert wins.min() >= 0.0 and wins.max() == 1000.0
    with pytest.raises(ConfigError, match="between"):
        wins_from_payoffs(payoffs, np.zeros((2, 2)), lowest=bound[1] + 0.01, highest=bound[0])


def test_ratings_from_payoffs_find_the_models_own():
    true = np.array([0.0, 120.0, -60.0]), np.array([30.0, -90.0])
    scores = expit((true[0][:, None] - true[1][None, :]) / ELO_SCALE)
    wins = wins_from_payoffs(2.0 * scores - 1.0, np.full((3, 2), 0.01), lowest=-1.0, highest=1.0)
    np.testing.assert_allclose(fit_elo(wins).values, np.concatenate(true), atol=1.0)  # the prior pulls a little


# -- skills ------------------------------------------------------------------------------------------------------------


def log_posterior(skills, margin, wins, draws):
    """Of the model, written down as it is told: prior, and what every game's outcome is worth."""
    spread = math.sqrt(2) * SKILL_NOISE
    value = norm.logpdf(skills, 0.0, SKILL_DEVIATION).sum()
    for i in range(len(skills)):
        for j in range(len(skills)):
            lead = skills[i] - skills[j]
            value += wins[i, j] * norm.logsf(margin, lead, spread)
            if i < j and draws[i, j]:
                value += draws[i, j] * np.log(norm.cdf(margin, lead, spread) - norm.cdf(-margin, lead, spread))
    return value


def played(skills, games, margin, rng):
    """Wins and draws (P, P) of ``games`` games per pair."""
    wins, draws = np.zeros((2, len(skills), len(skills)))
    for i in range(len(skills)):
        for j in range(i):
            lead = skills[i] - skills[j] + rng.normal(0.0, math.sqrt(2) * SKILL_NOISE, size=games)
            wins[i, j], wins[j, i] = (lead > margin).sum(), (lead < -margin).sum()
            draws[i, j] = draws[j, i] = games - wins[i, j] - wins[j, i]
    return wins, draws


@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_skills_are_where_the_posterior_is_largest(margin):
    wins, draws = played([0.0, 2.0, -4.0], 20, margin, np.random.default_rng(0))
    assert (draws.sum() > 0) == (margin > 0)
    found = fit_skills(wins, draws)
    start = np.array([0.0, 1.0, -1.0, 1.0])
    best = minimize(lambda x: -log_posterior(x[:3], abs(x[3]), wins, draws), start, method="Powell", tol=1e-9)
    np.testing.assert_allclose(found.values, 25.0 + best.x[:3] - best.x[:3].mean(), atol=2e-3)


def test_skills_of_two_have_the_posteriors_mean_and_deviation():
    """Bayes' rule on a grid of leads and margins; the mode is near the mean of many games."""
    wins, draws = np.array([[0.0, 60.0], [25.0, 0.0]]), np.array([[0.0, 15.0], [15.0, 0.0]])
    leads, margins = np.meshgrid(np.linspace(-20, 20, 2001), np.linspace(0.01, 5, 300), indexing="ij")
    spread = math.sqrt(2) * SKILL_NOISE
    win, lose = norm.cdf((leads - margins) / spread), norm.cdf((-leads - margins) / spread)
    log = 60 * np.log(win) + 25 * np.log(lose) + 15 * np.log(1 - win - lose)
    posterior = np.exp(log - log.max()) * norm.pdf(leads, 0.0, math.sqrt(2) * SKILL_DEVIATION)
    posterior /= posterior.sum()
    mean = (posterior * leads).sum()
    lead, error = fit_skills(wins, draws).difference(0, 1)
    assert lead == pytest.approx(mean, abs=0.03)
    assert error == pytest.approx(math.sqrt((posterior * (leads - mean) ** 2).sum()), abs=0.03)


def test_skills_are_recovered_within_their_intervals():
    """Skills drawn from the prior, relative to their mean: 95 % must lie in 95 % intervals of 40 leagues' 6."""
    rng, held = np.random.default_rng(3), 0
    for _ in range(40):
        true = rng.normal(0.0, SKILL_DEVIATION, size=6)
        found = fit_skills(*played(true, 25, 2.0, rng))
        low, high = (found.intervals() - 25.0).T
        held += ((low <= true - true.mean()) & (true - true.mean() <= high)).sum()
    assert abs(held - 0.95 * 240) < 4 * math.sqrt(240 * 0.95 * 0.05) + 2


def test_draws_tell_more_than_half_a_win_for_either():
    """That two are about as good: where all games are drawn, it is surer than where each won half of them."""
    nothing, even = np.zeros((2, 2)), np.array([[0.0, 40.0], [40.0, 0.0]])
    drawn, shared = fit_skills(nothing, even), fit_skills(even / 2, nothing)
    assert drawn.difference(0, 1)[0] == pytest.approx(0.0) == shared.difference(0, 1)[0]
    few, many = np.array([[0.0, 8.0], [2.0, 0.0]]), np.array([[0.0, 40.0], [10.0, 0.0]])
    assert fit_skills(few, even).difference(0, 1)[0] < fit_skills(many, nothing).difference(0, 1)[0] / 2


def test_skills_of_ladders_circles_and_nobody():
    ladder = fit_skills(np.tril(np.full((4, 4), 1000.0), -1), np.zeros((4, 4)))
    assert (np.diff(ladder.values) > 5.0).all() and np.isfinite(ladder.errors).all()
    np.testing.assert_allclose(fit_skills(10.0 * (RPS > 0), np.zeros((3, 3))).values, 25.0)
    only_draws = fit_skills(np.zeros((2, 2)), np.array([[0.0, 1000.0], [1000.0, 0.0]]))
    np.testing.assert_allclose(only_draws.values, 25.0)
    assert only_draws.errors.max() < SKILL_DEVIATION * math.sqrt(1 / 2) / 2
    nobody = fit_skills(np.zeros((3, 3)), np.zeros((3, 3)))
    np.testing.assert_allclose(nobody.errors, SKILL_DEVIATION * math.sqrt(2 / 3))


# -- alpha-rank --------------------------------------------------------------------------------------------------------


def test_alpha_ranking():
    ladder = np.subtract.outer(np.array([0.0, 2.0, 1.0]), np.array([0.0, 2.0, 1.0]))
    for ranking in alpha_ranking(np.stack([ladder, -ladder])):
        assert ranking[0][0] == 1
        assert ranking[0][1] > 0.95
    for ranking in alpha_ranking(np.stack([RPS, -RPS])):
        assert [member for member, _ in ranking] == [0, 1, 2]
        np.testing.assert_allclose([share for _, share in ranking], 1 / 3)
