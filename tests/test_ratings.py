"""Ratings: known values, recovery from simulated games, and posteriors by numerical integration."""

import math

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from malib_lite.config import ConfigError
from malib_lite.population.ratings import ELO_SCALE, Skill, TrueSkill, alpha_ranking, fit_elo, wins_from_payoffs

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
    elo = fit_elo(np.array([[0, 75], [25, 0]]), prior_deviation=math.inf)
    lead, error = elo.difference(0, 1)
    assert lead == pytest.approx(400 * math.log10(3))
    assert error == pytest.approx(ELO_SCALE / math.sqrt(100 * 0.75 * 0.25))
    assert elo.win_probability(0, 1) == pytest.approx(0.75)
    np.testing.assert_allclose(elo.values, [lead / 2, -lead / 2])
    np.testing.assert_allclose(elo.errors, error / 2)


def test_elo_explains_the_scores_it_was_fitted_to():
    """At the maximum each player's expected score is its actual one; which graph of games there was does not matter."""
    rng = np.random.default_rng(0)
    wins = rng.integers(1, 30, size=(6, 6)).astype(float) * (rng.random((6, 6)) < 0.7)
    np.fill_diagonal(wins, 0.0)
    draws = rng.integers(0, 5, size=(6, 6))
    draws = np.triu(draws, 1) + np.triu(draws, 1).T
    elo = fit_elo(wins, draws, prior_deviation=math.inf)
    scores = wins + draws / 2
    games = scores + scores.T
    expected = sum(games[:, j] * [elo.win_probability(i, j) if i != j else 0.0 for i in range(6)] for j in range(6))
    np.testing.assert_allclose(expected, scores.sum(axis=1), atol=1e-8)
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


def test_elo_without_a_prior_refuses_the_unbeaten():
    with pytest.raises(ConfigError, match="never lost"):
        fit_elo(np.array([[0, 5, 5], [0, 0, 5], [0, 5, 0]]), prior_deviation=math.inf)
    circle = fit_elo(np.roll(np.eye(9), 1, axis=1) * 4, prior_deviation=math.inf)  # a path of eight games
    np.testing.assert_allclose(circle.values, 0.0, atol=1e-9)


def test_elo_refuses_tables_that_are_none():
    with pytest.raises(ValueError, match="square"):
        fit_elo(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="diagonal"):
        fit_elo(np.eye(2))
    with pytest.raises(ValueError, match="symmetric"):
        fit_elo(np.zeros((2, 2)), np.array([[0, 1], [0, 0]]))


def test_payoffs_with_errors_count_as_the_games_they_are_worth():
    """A mean of +0.5 in [-1, 1] with the standard error of 48 games at p = 0.75."""
    error = 2.0 * math.sqrt(0.75 * 0.25 / 48)
    wins = wins_from_payoffs(np.array([[0.5, -1.0]]), np.array([[error, 0.0]]), lowest=-1.0, highest=1.0)
    np.testing.assert_allclose(wins, [[0.0, 36.0, 0.0], [12.0, 0.0, 0.0], [1000.0, 0.0, 0.0]], atol=1e-9)
    with pytest.raises(ConfigError, match="between"):
        wins_from_payoffs(np.array([[2.0]]), np.zeros((1, 1)), lowest=-1.0, highest=1.0)


def test_ratings_from_payoffs_find_the_models_own():
    true = np.array([0.0, 120.0, -60.0]), np.array([30.0, -90.0])
    scores = expit((true[0][:, None] - true[1][None, :]) / ELO_SCALE)
    wins = wins_from_payoffs(2.0 * scores - 1.0, np.full((3, 2), 0.01), lowest=-1.0, highest=1.0)
    np.testing.assert_allclose(fit_elo(wins).values, np.concatenate(true), atol=1.0)  # the prior pulls a little


# -- TrueSkill ---------------------------------------------------------------------------------------------------------


def test_trueskill_agrees_with_the_published_example():
    """Two new players with the standard settings; figures as every calculator of the method gives them."""
    rating = TrueSkill()
    winner, loser = rating.update(rating.new, rating.new, 1.0)
    np.testing.assert_allclose([*winner, *loser], [29.396, 7.171, 20.604, 7.171], atol=5e-4)
    for skill in rating.update(rating.new, rating.new, 0.5):
        np.testing.assert_allclose(skill, [25.0, 6.458], atol=5e-4)


@pytest.mark.parametrize("score", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(
    ("first", "second"), [(Skill(25.0, 8.0), Skill(25.0, 8.0)), (Skill(31.0, 2.0), Skill(20.0, 6.0))]
)
def test_trueskill_has_the_posteriors_mean_and_deviation(first, second, score):
    """Bayes' rule on a grid of both skills; the game's noise is integrated in closed form."""
    rating = TrueSkill(drift=0.0, draw_probability=0.3)
    margin = norm.ppf(0.65) * math.sqrt(2) * rating.noise
    a, b = np.meshgrid(np.linspace(-35, 85, 801), np.linspace(-35, 85, 801), indexing="ij")
    prior = norm.pdf(a, *first) * norm.pdf(b, *second)
    spread = math.sqrt(2) * rating.noise
    win, lose = norm.cdf((a - b - margin) / spread), norm.cdf((b - a - margin) / spread)
    posterior = prior * {1.0: win, 0.0: lose, 0.5: 1.0 - win - lose}[score]
    posterior /= posterior.sum()
    for skill, values in zip(rating.update(first, second, score), (a, b), strict=True):
        mean = (posterior * values).sum()
        assert skill.mean == pytest.approx(mean, abs=1e-3)
        assert skill.deviation == pytest.approx(math.sqrt((posterior * (values - mean) ** 2).sum()), abs=1e-3)


def test_trueskill_stays_finite_where_an_upset_is_next_to_impossible():
    rating = TrueSkill()
    for score in (0.0, 0.5):
        strong, weak = rating.update(Skill(1000.0, 1.0), Skill(0.0, 1.0), score)
        assert strong.mean < 1000.0 and weak.mean > 0.0
        assert 0.0 < strong.deviation < 1.01
    mirrored = rating.update(Skill(0.0, 1.0), Skill(1000.0, 1.0), 0.5)
    assert mirrored == rating.update(Skill(1000.0, 1.0), Skill(0.0, 1.0), 0.5)[::-1]


def test_trueskill_shifts_with_the_scale():
    a, b = TrueSkill(), TrueSkill(mean=1025.0)
    games = [(0, 1, 1.0), (1, 2, 0.5), (2, 0, 0.0), (0, 1, 0.0)]
    for low, high in zip(a.rate(3, games), b.rate(3, games), strict=True):
        assert high.mean - low.mean == pytest.approx(1000.0)
        assert high.deviation == pytest.approx(low.deviation)


def test_trueskill_recovers_skills_within_its_intervals():
    """Games drawn from its own model, with skills drawn from its own prior."""
    rng = np.random.default_rng(3)
    rating = TrueSkill(drift=0.0, draw_probability=0.2)
    margin = norm.ppf(0.6) * math.sqrt(2) * rating.noise
    held = 0
    for _ in range(15):
        true = rng.normal(rating.mean, rating.deviation, size=8)
        games = []
        for _ in range(250):
            i, j = rng.choice(8, size=2, replace=False)
            lead = true[i] - true[j] + rng.normal(0.0, math.sqrt(2) * rating.noise)
            games.append((i, j, 0.5 if abs(lead) <= margin else float(lead > 0)))
        skills = rating.rate(8, games)
        assert np.corrcoef(true, [skill.mean for skill in skills])[0, 1] > 0.9
        assert all(skill.deviation < rating.deviation / 2 for skill in skills)
        level = np.mean([skill.mean for skill in skills]) - true.mean()  # games never tell it
        for value, skill in zip(true, skills, strict=True):
            low, high = skill.interval()
            held += low <= value + level <= high
    assert held > 0.85 * 120  # 95 % were it exact; beliefs that are independent are a bit too sure


def test_trueskill_orders_transitive_players_and_finds_circles_nearly_even():
    ladder = [(i, j, 1.0) for _ in range(5) for i in range(4) for j in range(i)]
    means = [skill.mean for skill in TrueSkill().rate(4, ladder)]
    assert means == sorted(means)
    circle = [(0, 2, 1.0), (1, 0, 1.0), (2, 1, 1.0)] * 30
    means = [skill.mean for skill in TrueSkill().rate(3, circle)]
    assert max(means) - min(means) < 2.0


def test_trueskill_without_draws_refuses_one():
    rating = TrueSkill(draw_probability=0.0)
    assert rating.update(rating.new, rating.new, 1.0)[0].mean > 25.0
    with pytest.raises(ValueError, match="draw probability"):
        rating.update(rating.new, rating.new, 0.5)
    with pytest.raises(ConfigError, match="draw probability"):
        TrueSkill(draw_probability=1.0)
    assert rating.new.conservative == pytest.approx(0.0)


# -- alpha-rank --------------------------------------------------------------------------------------------------------


def test_alpha_ranking():
    ladder = np.subtract.outer(np.array([0.0, 2.0, 1.0]), np.array([0.0, 2.0, 1.0]))
    for ranking in alpha_ranking(np.stack([ladder, -ladder])):
        assert ranking[0][0] == 1
        assert ranking[0][1] > 0.95
    for ranking in alpha_ranking(np.stack([RPS, -RPS])):
        assert [member for member, _ in ranking] == [0, 1, 2]
        np.testing.assert_allclose([share for _, share in ranking], 1 / 3)
