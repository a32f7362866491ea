"""Problems with continuous actions whose answers are known, and what it takes to train on them without an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from malib_lite.contracts.data import Trajectories, Transitions
from malib_lite.contracts.environment import Environment, TimeStep
from malib_lite.contracts.policy import Policy
from malib_lite.contracts.trainer import Algorithm, Trainer

AGENT = "agent"


def make(
    algorithm: Algorithm,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    training: Mapping[str, Any],
    model: Mapping[str, Any] | None = None,
    horizon: int | None = None,
) -> tuple[Policy, Trainer]:
    """A policy and its trainer, seeded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = algorithm.policy(observation_space, action_space, model, {})
    policy.seed(0)
    return policy, algorithm.trainer(training, policy, seed=0, horizon=horizon)


class Quadratic(torch.nn.Module):
    """Quadratic functions of the observation: all that the critic and the policy of a linear-quadratic problem need."""

    def __init__(self, observation_space: spaces.Space, output_dim: int) -> None:
        super().__init__()
        assert observation_space.shape is not None
        (size,) = observation_space.shape
        self.pairs = torch.triu_indices(size, size)
        self.linear = torch.nn.Linear(size + self.pairs.shape[1], output_dim)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        first, second = self.pairs
        return self.linear(torch.cat([observation, observation[:, first] * observation[:, second]], -1))


class LinearQuadratic:
    """s' = s + u, paid by -(s^2 + u^2)."""

    discount = 0.9
    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Box(-2.0, 1.6, (1,))  # not centred; wider than what is best needs
    model = {"net": Quadratic}

    @classmethod
    def gain(cls) -> float:
        """K of the optimal u = -K s, from the fixed point P of the scalar Riccati equation; V(s) = -P s^2."""
        p = 1.0
        for _ in range(200):
            p = 1 + cls.discount * p - (cls.discount * p) ** 2 / (1 + cls.discount * p)
        return cls.discount * p / (1 + cls.discount * p)

    @classmethod
    def transitions(cls, size: int, rng: np.random.Generator) -> Transitions:
        """``size`` uniformly drawn states and actions."""
        state, action = rng.uniform(-1.0, 1.0, (2, size, 1)).astype(np.float32)
        reward = -(np.square(state) + np.square(action))[:, 0]
        never = np.zeros(size, bool)
        return Transitions(state, action, reward, state + action, never, np.full(size, cls.discount, np.float32))

    @classmethod
    def error(cls, policy: Policy) -> float:
        """Relative error of what the policy does between -1 and 1, its largest against the largest action there."""
        state = np.linspace(-1.0, 1.0, 21, dtype=np.float32)[:, None]
        with torch.no_grad():
            action = policy.compute_action(torch.from_numpy(state), evaluate=True).action.numpy()
        return float(np.abs(action + cls.gain() * state).max() / cls.gain())


class IdentityBox(Environment):
    """Sees a number in [-1, 1] and is paid 1 for an action that is at most 0.5 away from it; a hundred times."""

    def __init__(self) -> None:
        super().__init__()
        self.number = np.zeros(1, np.float32)
        self.count = 0

    @property
    def possible_agents(self) -> list[str]:
        return [AGENT]

    @property
    def observation_spaces(self) -> dict[str, spaces.Space]:
        return {AGENT: spaces.Box(-1.0, 1.0, (1,))}

    @property
    def action_spaces(self) -> dict[str, spaces.Space]:
        return {AGENT: spaces.Box(-1.0, 1.0, (1,))}

    def reset_episode(self, seed: int | None) -> TimeStep:
        self.rng = np.random.default_rng(seed)
        self.count = 0
        return TimeStep(self._see())

    def time_step(self, actions: Mapping[str, Any]) -> TimeStep:
        self.count += 1
        reward = float(abs(actions[AGENT][0] - self.number[0]) <= 0.5)
        return TimeStep(self._see(), {AGENT: reward}, {AGENT: False}, {AGENT: self.count >= 100})

    def _see(self) -> dict[str, np.ndarray]:
        self.number = self.rng.uniform(-1, 1, 1).astype(np.float32)
        return {AGENT: self.number}


def time_limited_loop(cut: bool) -> Trajectories:
    """One state, ten decisions that earn 1 each; the limit truncates (``cut``) or terminates."""
    last = np.arange(11)[:, None] == 9
    zeros = np.zeros((11, 1), np.int64)
    return Trajectories(
        observation=np.zeros((12, 1), np.int64),
        action=np.zeros((11, 1, 1), np.float32),
        reward=np.ones((11, 1), np.float32),
        terminated=last & (not cut),
        truncated=last & cut,
        valid=np.arange(11)[:, None] < 10,
        episode=zeros,
        policy_version=zeros,
    )
