"""Return estimators: numbers worked out by hand, identities, and every way in which a stream can end."""

import numpy as np
import pytest

from malib_lite.algorithms.returns import accumulated_rewards, gae, n_step_returns, returns_to_go, vtrace

NO, YES = False, True


def column(*values, dtype=np.float64):
    return np.array(values, dtype)[:, None]


def flags(*values):
    return column(*values, dtype=bool)


def test_gae_by_hand():
    advantage = gae(
        reward_t=column(1.0, 2.0, 3.0),
        value_t=column(0.5, 1.0, 1.5, 2.0),
        terminated_t=flags(NO, NO, NO),
        truncated_t=flags(NO, NO, NO),
        valid_t=flags(YES, YES, YES),
        discount=0.9,
        gae_lambda=0.5,
    )
    # errors: 1 + 0.9 - 0.5 = 1.4;  2 + 1.35 - 1 = 2.35;  3 + 1.8 - 1.5 = 3.3;  each carries 0.45 of the next sum
    np.testing.assert_allclose(advantage[:, 0], [1.4 + 0.45 * (2.35 + 0.45 * 3.3), 2.35 + 0.45 * 3.3, 3.3])
    assert gae(
        *[np.zeros((2, 1), np.float32)] + [np.zeros((3, 1), np.float32)] + [flags(NO, NO)] * 3, 0.9, 0.9
    ).dtype == (np.float32)


def random_streams(seed=0, rows=40, streams=6):
    """Streams with terminations, truncations (each followed by its final observation) and ragged tails."""
    rng = np.random.default_rng(seed)
    terminated = rng.random((rows, streams)) < 0.1
    truncated = (rng.random((rows, streams)) < 0.1) & ~terminated
    valid = np.ones((rows, streams), bool)
    for s in range(streams):
        for t in range(rows - 1):
            if valid[t, s] and truncated[t, s]:
                valid[t + 1, s] = False
        valid[rows - rng.integers(0, 8) :, s] &= False
    terminated &= valid
    truncated &= valid
    reward, value = rng.normal(size=(rows, streams)), rng.normal(size=(rows + 1, streams))
    reward[~valid] = np.nan  # rows that count nowhere must not be read
    needed = np.zeros((rows + 1, streams), bool)
    needed[:-1] |= valid
    needed[1:] |= valid & ~terminated
    value[~needed] = np.nan
    return reward, value, terminated, truncated, valid


def monte_carlo(reward, value, terminated, truncated, valid, discount):
    """The definition, one decision after the other: rewards to the end of the piece, then the value there."""
    result = np.zeros_like(reward)
    rows, streams = reward.shape
    for s in range(streams):
        for start in np.flatnonzero(valid[:, s]):
            weight, t = 1.0, start
            while True:
                result[start, s] += weight * reward[t, s]
                weight *= discount
                if terminated[t, s]:
                    break
                if truncated[t, s] or t + 1 == rows or not valid[t + 1, s]:
                    result[start, s] += weight * value[t + 1, s]
                    break
                t += 1
    return result


def test_lambda_1_is_monte_carlo():
    streams = random_streams()
    reward, value, terminated, truncated, valid = streams
    advantage = gae(*streams, discount=0.9, gae_lambda=1.0)
    expected = monte_carlo(*streams, discount=0.9) - np.nan_to_num(value[:-1])
    np.testing.assert_allclose(advantage[valid], expected[valid], atol=1e-12)
    assert (advantage[~valid] == 0).all()

    returns = returns_to_go(reward, terminated, truncated, valid, discount=0.9)
    np.testing.assert_allclose(
        returns, monte_carlo(reward, np.zeros_like(value), terminated, truncated, valid, 0.9), atol=1e-12
    )


def test_lambda_0_is_temporal_difference():
    reward, value, terminated, truncated, valid = random_streams(1)
    advantage = gae(reward, value, terminated, truncated, valid, discount=0.9, gae_lambda=0.0)
    expected = reward + 0.9 * np.where(terminated, 0.0, value[1:]) - value[:-1]
    np.testing.assert_allclose(advantage[valid], expected[valid], atol=1e-12)


@pytest.mark.parametrize(("truncated", "fixed_point"), [(True, 10.0), (False, (1 - 0.9**10) / (1 - 0.9))])
def test_a_time_limit_bootstraps_and_an_end_does_not(truncated, fixed_point):
    """One state, reward 1, discount 0.9: V = 10 where a limit of ten steps truncates, less where it terminates."""
    last = np.arange(10)[:, None] == 9
    never = np.zeros_like(last)
    value = np.full((11, 1), 10.0) if truncated else np.array([(1 - 0.9**k) / 0.1 for k in range(10, -1, -1)])[:, None]
    if not truncated:
        value[10] = 123.0  # the first observation of the next episode: must not be used
    terminated, cut = (never, last) if truncated else (last, never)
    for gae_lambda in (0.0, 0.5, 1.0):
        advantage = gae(np.ones((10, 1)), value, terminated, cut, np.ones((10, 1), bool), 0.9, gae_lambda)
        np.testing.assert_allclose(advantage, 0.0, atol=1e-12)
    assert value[0, 0] == pytest.approx(fixed_point)


def test_rows_that_are_not_valid_break_the_chain():
    """Decision 0 is truncated, row 1 holds its final observation, row 2 begins another episode; stream 1 is short."""
    reward = np.array([[1.0, 1.0], [np.nan, 2.0], [5.0, np.nan]])
    value = np.array([[0.0, 0.0], [7.0, 0.0], [0.0, 9.0], [3.0, np.nan]])
    terminated = np.zeros((3, 2), bool)
    truncated = np.array([[YES, NO], [NO, NO], [NO, NO]])
    valid = np.array([[YES, YES], [NO, YES], [YES, NO]])
    advantage = gae(reward, value, terminated, truncated, valid, discount=0.5, gae_lambda=1.0)
    np.testing.assert_allclose(advantage, [[1 + 3.5, 1 + 0.5 * 6.5], [0, 2 + 4.5], [5 + 1.5, 0]])
    returns = returns_to_go(reward, terminated, truncated, valid, discount=0.5)
    np.testing.assert_allclose(returns, [[1, 2], [0, 2], [5, 0]])


def test_n_step_returns_are_their_definition():
    """As many rewards as there are up to n, then the value of what came after the last of them."""
    reward, value, terminated, truncated, valid = streams = random_streams(2)
    for n_step in (1, 2, 5, 100):
        expected = np.zeros_like(reward)
        for start, s in np.argwhere(valid):
            for k in range(n_step):
                t = start + k
                expected[start, s] += 0.9**k * reward[t, s]
                last = k + 1 == n_step or truncated[t, s] or t + 1 == len(reward) or not valid[t + 1, s]
                if terminated[t, s]:
                    break
                if last:
                    expected[start, s] += 0.9 ** (k + 1) * value[t + 1, s]
                    break
        returns = n_step_returns(*streams, discount=0.9, n_step=n_step)
        np.testing.assert_allclose(returns, expected, atol=1e-12)
    np.testing.assert_allclose(returns[valid], monte_carlo(*streams, discount=0.9)[valid], atol=1e-12)


def test_vtrace_is_its_definition():
    """Equation 1 of Espeholt et al. 2018, summed up to the end of the piece; with both clips in use."""
    reward, value, terminated, truncated, valid = random_streams(3)
    log_ratio = np.random.default_rng(4).normal(size=reward.shape)
    ratio = np.exp(log_ratio)
    rho, c = np.minimum(1.2, ratio), 0.8 * np.minimum(0.9, ratio)
    log_ratio[~valid] = np.nan
    target = np.zeros_like(reward)

    def goes_on(t, s):
        return not (terminated[t, s] or truncated[t, s] or t + 1 == len(reward) or not valid[t + 1, s])

    for start, s in np.argwhere(valid):
        target[start, s], weight, t = value[start, s], 1.0, start
        while True:
            following = 0.0 if terminated[t, s] else value[t + 1, s]
            target[start, s] += weight * rho[t, s] * (reward[t, s] + 0.9 * following - value[t, s])
            weight *= 0.9 * c[t, s]
            if not goes_on(t, s):
                break
            t += 1
    advantage = np.zeros_like(reward)
    for t, s in np.argwhere(valid):
        following = 0.0 if terminated[t, s] else target[t + 1, s] if goes_on(t, s) else value[t + 1, s]
        advantage[t, s] = rho[t, s] * (reward[t, s] + 0.9 * following - value[t, s])
    ours = vtrace(log_ratio, reward, value, terminated, truncated, valid, 0.9, 1.2, 0.9, 0.8)
    np.testing.assert_allclose(ours[0], target, atol=1e-12)
    np.testing.assert_allclose(ours[1], advantage, atol=1e-12)


def test_vtrace_on_policy_is_n_step():
    streams = random_streams(5)
    target, _ = vtrace(np.zeros_like(streams[0]), *streams, discount=0.9)
    np.testing.assert_allclose(target, n_step_returns(*streams, discount=0.9, n_step=100), atol=1e-12)


def test_accumulated_rewards_by_hand():
    """The first stream is truncated, shows its final observation and begins anew; the second goes on for ever."""
    reward = np.array([[1.0, 1.0], [2.0, 1.0], [np.nan, 1.0], [4.0, 1.0]])
    terminated = np.zeros((4, 2), bool)
    truncated = np.array([[NO, NO], [YES, NO], [NO, NO], [NO, NO]])
    valid = np.array([[YES, YES], [YES, YES], [NO, YES], [YES, YES]])
    sums, carried = accumulated_rewards(reward, terminated, truncated, valid, discount=0.5)
    assert sums[valid].tolist() == [1.0, 1.0, 2.5, 1.5, 1.75, 4.0, 1.875]
    assert carried.tolist() == [4.0, 1.875]
    ones, yes, no = np.ones((1, 2)), np.ones((1, 2), bool), np.zeros((1, 2), bool)
    for there, expected in ((carried, [3.0, 1.9375]), (None, [1.0, 1.0]), (np.ones(5), [1.0, 1.0])):
        sums, after = accumulated_rewards(ones, np.array([[NO, YES]]), no, yes, 0.5, there)
        assert sums[0].tolist() == expected and after.tolist() == [expected[0], 0.0]
    assert carried.tolist() == [4.0, 1.875]  # is the caller's


def test_shapes_and_dtypes_are_checked():
    ones, yes = np.ones((3, 1)), np.ones((3, 1), bool)
    with pytest.raises(ValueError, match="one row more"):
        gae(ones, ones, yes, yes, yes, 0.9, 0.9)
    with pytest.raises(ValueError, match="must all be"):
        returns_to_go(ones, yes, yes[:2], yes, 0.9)
    with pytest.raises(ValueError, match="must all be"):
        returns_to_go(ones, ones, yes, yes, 0.9)
