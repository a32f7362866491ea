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
    if value_t.shape != (reward_t.shape[0] + 1, *reward_t.shape[1:]):
        raise ValueError(f"value_t is {value_t.shape}, one row more than reward_t {reward_t.shape} is needed")
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


def _discounted_sum(
    x_t: np.ndarray, terminated_t: np.ndarray, truncated_t: np.ndarray, valid_t: np.ndarray, factor: float
) -> np.ndarray:
    """y_t = x_t + factor * y_tp1, cut where the stream is."""
    goes_on = ~(terminated_t | truncated_t)  # (T, S): row t + 1 is the same stream's next decision
    goes_on[:-1] &= valid_t[1:]
    factor_t = np.where(goes_on, factor, 0.0).astype(x_t.dtype)
    y_t = np.where(valid_t, x_t, 0.0).astype(x_t.dtype)
    for t in range(len(y_t) - 2, -1, -1):  # the last row has no row after it
        y_t[t] += factor_t[t] * y_t[t + 1]
    y_t[~valid_t] = 0.0
    return y_t


def _check(reward_t: np.ndarray, *flags: np.ndarray) -> None:
    if reward_t.ndim != 2 or any(flag.shape != reward_t.shape or flag.dtype != bool for flag in flags):
        raise ValueError(
            f"rewards and boolean flags must all be (T, S), not {[a.shape for a in (reward_t, *flags)]}"
            f" of {[str(a.dtype) for a in (reward_t, *flags)]}"
        )
