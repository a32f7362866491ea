"""Exact values of a Markov decision process: Sutton and Barto, Reinforcement Learning (2nd ed.), chapters 3 and 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from malib_lite.config import ConfigError, suggest
from malib_lite.envs.mdp.spec import MDPSpec, MDPTables, load_spec

# Undiscounted value iteration may have no limit; discounted, it always comes to an end.
_MAX_UNDISCOUNTED_SWEEPS = 100_000
_PRECISION = 1e-13  # of the last sweep, relative to the greatest value


def action_values(spec: MDPSpec | Mapping[str, Any], values: np.ndarray, discount: float | None = None) -> np.ndarray:
    """What an action is worth where the states it leads to are worth ``values``.

    Args:
        spec: the MDP.
        values: (S,) float64, zero in absorbing states.
        discount: the specification's by default.

    Returns:
        (S, A) float64; -inf where an action is not legal.
    """
    tables = load_spec(spec).tables
    gamma = tables.discount if discount is None else discount
    return np.where(tables.legal, tables.mean_reward + gamma * tables.transition @ values, -np.inf)


def optimal_values(spec: MDPSpec | Mapping[str, Any], discount: float | None = None) -> np.ndarray:
    """The best expected discounted return from each state, by value iteration (equation 4.10).

    Args:
        spec: the MDP.
        discount: the specification's by default.

    Returns:
        (S,) float64, in the order of ``tables.states``; zero in absorbing states.

    Raises:
        ArithmeticError: without discount, the values did not settle: an episode can go on for ever, and earn by it.
    """
    tables = load_spec(spec).tables
    gamma = tables.discount if discount is None else discount
    going = ~tables.absorbing
    reward = np.where(tables.legal, tables.mean_reward, -np.inf)[going]
    transition = gamma * tables.transition[going]
    values, sweeps = np.zeros(len(going)), 0
    while True:
        improved = (reward + transition @ values).max(axis=1)
        change = np.abs(improved - values[going]).max()
        values[going] = improved
        if change <= _PRECISION * max(1.0, np.abs(improved).max()):
            return values
        sweeps += 1
        if gamma >= 1.0 and sweeps >= _MAX_UNDISCOUNTED_SWEEPS:
            raise ArithmeticError("the values did not settle: without discount, every episode that earns must end")


def policy_values(
    spec: MDPSpec | Mapping[str, Any], policy: Mapping[str, Any] | np.ndarray, discount: float | None = None
) -> np.ndarray:
    """The expected discounted return of a policy from each state, by a linear solve (equation 3.14).

    Args:
        spec: the MDP.
        policy: probabilities (S, A), of which the rows of absorbing states do not matter; or, for each state that is
            not absorbing, its action's name or a mapping of actions' names to probabilities.
        discount: the specification's by default.

    Returns:
        (S,) float64, in the order of ``tables.states``; zero in absorbing states.

    Raises:
        ConfigError: the policy is not one for this MDP.
        ArithmeticError: without discount, the policy goes on for ever from some state.
    """
    tables = load_spec(spec).tables
    gamma = tables.discount if discount is None else discount
    probs = _policy_array(tables, policy)
    onward = np.einsum("sa,sat->st", probs, tables.transition)
    if gamma >= 1.0:
        ends = tables.absorbing.copy()
        for _ in tables.states:
            ends |= onward[:, ends].sum(axis=1) > 0.0
        if not ends.all():
            state = tables.states[int(np.argmin(ends))]
            raise ArithmeticError(f"the policy never ends from '{state}': its undiscounted return has no value")
    return np.linalg.solve(np.eye(len(onward)) - gamma * onward, (probs * tables.mean_reward).sum(axis=1))


def _policy_array(tables: MDPTables, policy: Mapping[str, Any] | np.ndarray) -> np.ndarray:
    """The policy's probabilities (S, A), zero in absorbing states, checked."""
    if isinstance(policy, Mapping):
        probs = np.zeros(tables.legal.shape)
        for state, choice in policy.items():
            if state not in tables.states:
                raise ConfigError(f"the policy's state '{state}' is unknown: {suggest(str(state), tables.states)}")
            for action, prob in (choice if isinstance(choice, Mapping) else {choice: 1.0}).items():
                if action not in tables.actions:
                    raise ConfigError(f"the policy's action '{action}' is unknown: {suggest(action, tables.actions)}")
                probs[tables.states.index(state), tables.actions.index(action)] = prob
    else:
        probs = np.array(policy, dtype=np.float64)
        if probs.shape != tables.legal.shape:
            raise ConfigError(f"the policy has shape {probs.shape}, but there are {tables.legal.shape} states, actions")
    probs[tables.absorbing] = 0.0
    proper = np.isclose(probs.sum(axis=1), 1.0) & (probs >= 0.0).all(axis=1) & ~(probs * ~tables.legal).any(axis=1)
    for s in np.flatnonzero(~(proper | tables.absorbing)).tolist():
        raise ConfigError(f"the policy is no distribution over the legal actions of '{tables.states[s]}': {probs[s]}")
    return probs
