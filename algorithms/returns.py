"""Return and advantage estimators over streams of decisions; pure functions of numpy arrays.

All arrays are time-major, (T, S), as in :class:`~malib_lite.contracts.data.Trajectories`: row t is a decision, row
t + 1 holds the observation that followed it. A sum over the future is cut after row t where the episode terminated
or was truncated, and where row t + 1 is not a decision of the same stream (``valid`` is False, or there is no row).
Of these, only termination means that nothing follows: everywhere else the value of row t + 1 stands in for the rest.
"""

from __future__ import annotations

import numpy as np


def gae(
    reward_t: np.ndarray,
    value_t: np.ndarray,
    terminated_t: np.ndarray,
    truncated_t: np.ndarray,
    valid_t: np.ndarray,
    discount: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalised advantage estimates, Schulman et al. 2016, equations 11-16 (https://arxiv.org/abs/1506.02438).

    Args:
        reward_t: (T, S) float, what decision t earned.
        value_t: (T + 1, S) float, V of the observation in each row; may hold anything where it is not needed.
        terminated_t, truncated_t, valid_t: (T, S) bool.
        discount: gamma in [0, 1].
        gae_lambda: 0 gives the one-step error, 1 the Monte-Carlo return minus the value.

    Returns:
        (T, S), zero where not valid. Adding ``value_t[:-1]`` gives lambda-returns, the targets of V.
    """
    _check(reward_t, terminated_t, truncated_t, valid_t)
    _check_values(reward_t, value_t)
    value_tp1 = np.where(terminated_t, 0.0, value_t[1:]).astype(value_t.dtype)
    delta_t = reward_t + discount * value_tp1 - value_t[:-1]
    return _discounted_sum(delta_t, terminated_t, truncated_t, valid_t, discount * gae_lambda)


def returns_to_go(
    reward_t: np.ndarray, terminated_t: np.ndarray, truncated_t: np.ndarray, valid_t: np.ndarray, discount: float
) -> np.ndarray:
    """The discounted rewards from each decision to the end of what was recorded, (T, S); zero where not valid.

    There is no value function here to stand in for what follows a truncation: it counts as nothing.
    """
    _check(reward_t, terminated_t, truncated_t, valid_t)
    return _discounted_sum(reward_t, terminated_t, truncated_t, valid_t, discount)


def n_step_returns(
    reward_t: np.ndarray,
    value_t: np.ndarray,
    terminated_t: np.ndarray,
    truncated_t: np.ndarray,
    valid_t: np.ndarray,
    discount: float,
    n_step: int,
) -> np.ndarray:
    """Discounted rewards of up to ``n_step`` decisions, then the value of what followed the last, (T, S).

    Sutton and Barto 2018, equation 7.1. A cut ends the sum early, so that with many steps these are the returns of
    Mnih et al. 2016, algorithm S3: each decision looks as far as the fragment goes. Arguments are those of
    :func:`gae`; zero where not valid. Subtracting ``value_t[:-1]`` gives advantages.
    """
    _check(reward_t, terminated_t, truncated_t, valid_t)
    _check_values(reward_t, value_t)
    goes_on = _goes_on(terminated_t, truncated_t, valid_t)
    one_step_t = reward_t + discount * np.where(terminated_t, 0.0, value_t[1:])
    return_t = one_step_t
    for _ in range(n_step - 1):  # one decision more: the returns of row t + 1, one step shorter, in place of its value
        longer_t = one_step_t.copy()
        longer_t[:-1] = np.where(goes_on[:-1], reward_t[:-1] + discount * return_t[1:], one_step_t[:-1])
        return_t = longer_t
    return np.where(valid_t, return_t, 0.0).astype(value_t.dtype)


def vtrace(
    log_ratio_t: np.ndarray,
    reward_t: np.ndarray,
    value_t: np.ndarray,
    terminated_t: np.ndarray,
    truncated_t: np.ndarray,
    valid_t: np.ndarray,
    discount: float,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    trace_lambda: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """V-trace targets and advantages, Espeholt et al. 2018, equations 1 and 4 (https://arxiv.org/abs/1802.01561).

    Args:
        log_ratio_t: (T, S) float, log pi(a|s) - log mu(a|s): of the policy that learns over the one that acted.
        reward_t, value_t, terminated_t, truncated_t, valid_t, discount: those of :func:`gae`.
        clip_rho: the bound of the weights that decide which policy's value is found.
        clip_c: the bound of the weights that decide how far corrections are carried back; at most ``clip_rho``.
        trace_lambda: shortens what is carried back, as in remark 2.

    Returns:
        The targets of V and the advantages rho_t (r_t + discount v_tp1 - V_t), (T, S) each, zero where not valid.
        Where both policies are the same the targets are n-step returns to the end of the fragment.
    """
    _check(reward_t, terminated_t, truncated_t, valid_t)
    _check_values(reward_t, value_t)
    ratio_t = np.exp(np.where(valid_t, log_ratio_t, 0.0))
    rho_t = np.minimum(clip_rho, ratio_t)
    c_t = trace_lambda * np.minimum(clip_c, ratio_t)
    value_tp1 = np.where(terminated_t, 0.0, value_t[1:])
    delta_t = rho_t * (reward_t + discount * value_tp1 - value_t[:-1])
    correction_t = _discounted_sum(delta_t, terminated_t, truncated_t, valid_t, discount * c_t)  # v_t - V_t, remark 1
    target_tp1 = value_tp1.copy()
    goes_on = _goes_on(terminated_t, truncated_t, valid_t)
    target_tp1[:-1] += np.where(goes_on[:-1], correction_t[1:], 0.0)
    advantage_t = rho_t * (reward_t + discount * target_tp1 - value_t[:-1])
    target_t = np.where(valid_t, value_t[:-1] + correction_t, 0.0)
    return target_t.astype(value_t.dtype), np.where(valid_t, advantage_t, 0.0).astype(value_t.dtype)


def accumulated_rewards(
    reward_t: np.ndarray,
    terminated_t: np.ndarray,
    truncated_t: np.ndarray,
    valid_t: np.ndarray,
    discount: float,
    carried: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """R_t = r_t + discount * R_tm1 within each episode: what has been earned, in the money of decision t.

    Its deviation is the scale that rewards are divided by in Engstrom et al. 2020 (https://arxiv.org/abs/2005.12729).

    Args:
        reward_t, terminated_t, truncated_t, valid_t, discount: those of :func:`gae`.
        carried: (S,) what the last fragment ended with, for streams that go on; None, or of another S: nothing.

    Returns:
        (T, S) float64, and what to carry to the next fragment, (S,) float64.
    """
    _check(reward_t, terminated_t, truncated_t, valid_t)
    num_streams = reward_t.shape[1]
    running = np.zeros(num_streams) if carried is None or len(carried) != num_streams else carried.copy()
    sums = np.zeros(reward_t.shape)
    for t, valid in enumerate(valid_t):
        running = np.where(valid, reward_t[t] + discount * running, running)
        sums[t] = running
        running = np.where(valid & (terminated_t[t] | truncated_t[t]), 0.0, running)
    return sums, running


def rows_to_value(terminated_t: np.ndarray, valid_t: np.ndarray) -> np.ndarray:
    """Which observations (T + 1, S) estimators need the value of: of decisions, and of what followed them."""
    needed = np.zeros((len(valid_t) + 1, *valid_t.shape[1:]), bool)
    needed[:-1] |= valid_t
    needed[1:] |= valid_t & ~terminated_t
    return needed


def _discounted_sum(
    x_t: np.ndarray,
    terminated_t: np.ndarray,
    truncated_t: np.ndarray,
    valid_t: np.ndarray,
    factor: float | np.ndarray,
) -> np.ndarray:
    """y_t = x_t + factor_t * y_tp1, cut where the stream is."""
    factor_t = np.where(_goes_on(terminated_t, truncated_t, valid_t), factor, 0.0).astype(x_t.dtype)
    y_t = np.where(valid_t, x_t, 0.0).astype(x_t.dtype)
    for t in range(len(y_t) - 2, -1, -1):  # the last row has no row after it
        y_t[t] += factor_t[t] * y_t[t + 1]
    y_t[~valid_t] = 0.0
    return y_t


def _goes_on(terminated_t: np.ndarray, truncated_t: np.ndarray, valid_t: np.ndarray) -> np.ndarray:
    """(T, S): whether row t + 1 is the same episode's next decision, as far as there is a row."""
    goes_on = ~(terminated_t | truncated_t)
    goes_on[:-1] &= valid_t[1:]
    return goes_on


def _check_values(reward_t: np.ndarray, value_t: np.ndarray) -> None:
    if value_t.shape != (reward_t.shape[0] + 1, *reward_t.shape[1:]):
        raise ValueError(f"value_t is {value_t.shape}, one row more than reward_t {reward_t.shape} is needed")


def _check(reward_t: np.ndarray, *flags: np.ndarray) -> None:
    if reward_t.ndim != 2 or any(flag.shape != reward_t.shape or flag.dtype != bool for flag in flags):
        raise ValueError(
            f"rewards and boolean flags must all be (T, S), not {[a.shape for a in (reward_t, *flags)]}"
            f" of {[str(a.dtype) for a in (reward_t, *flags)]}"
        )
