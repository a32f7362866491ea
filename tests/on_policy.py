"""What on-policy algorithms are tried on: saying what one sees, and a decision process that can be solved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from malib_lite.contracts.data import Trajectories
from malib_lite.contracts.environment import Environment, TimeStep

AGENT = "agent"


class Identity(Environment):
    """Pays 1 for doing what is seen: one of four numbers, or in a ``box`` one that is at most 0.5 away. 100 steps."""

    def __init__(self, box: bool = False) -> None:
        super().__init__(box=box)
        self.space = spaces.Box(-1.0, 1.0, (1,)) if box else spaces.Discrete(4)
        self.rng = np.random.default_rng()
        self.box = box

    @property
    def possible_agents(self) -> list[str]:
        return [AGENT]

    @property
    def observation_spaces(self) -> dict[str, spaces.Space]:
        return {AGENT: self.space}

    @property
    def action_spaces(self) -> dict[str, spaces.Space]:
        return {AGENT: self.space}

    def reset_episode(self, seed: int | None) -> TimeStep:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.count = 0
        return TimeStep(self.show())

    def time_step(self, actions: Mapping[str, Any]) -> TimeStep:
        near = abs(float(np.squeeze(actions[AGENT])) - float(np.squeeze(self.shown))) <= (0.5 if self.box else 0.0)
        self.count += 1
        return TimeStep(self.show(), {AGENT: float(near)}, truncated={AGENT: self.count == 100})

    def show(self) -> dict[str, Any]:
        self.shown = self.rng.uniform(-1, 1, 1).astype(np.float32) if self.box else int(self.rng.integers(4))
        return {AGENT: self.shown}


class Ring:
    """Three states in a ring, E copies, for ever. Action 0 stays, 1 goes on; one time in ten it is the other way round.

    Staying is worth 0.3 in state 0 and 1 in state 2. Action 2 is legal in state 1 alone, where it stays and costs 0.5.
    """

    discount = 0.9
    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(3)
    legal = np.array([[True, True, state == 1] for state in range(3)])
    reward = np.float32([[0.3, 0, 0], [0, 0, -0.5], [1, 0, 0]])  # (state, action)

    def __init__(self, copies: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.state = self.rng.integers(3, size=copies)

    @classmethod
    def transitions(cls) -> np.ndarray:
        """P (state, action, next state)."""
        stays, goes = np.eye(3), np.roll(np.eye(3), 1, axis=1)
        return np.stack([0.9 * stays + 0.1 * goes, 0.1 * stays + 0.9 * goes, stays], axis=1)

    @classmethod
    def values(cls, probs: np.ndarray) -> np.ndarray:
        """V of a policy (state, action), by solving (I - gamma P) V = r."""
        to, reward = np.einsum("sa,sat->st", probs, cls.transitions()), (probs * cls.reward).sum(1)
        return np.linalg.solve(np.eye(3) - cls.discount * to, reward)

    @classmethod
    def best(cls) -> np.ndarray:
        """The optimal action of each state, by policy iteration."""
        action = np.zeros(3, int)
        for _ in range(10):
            q = cls.reward + cls.discount * cls.transitions() @ cls.values(np.eye(3)[action])
            action = np.where(cls.legal, q, -np.inf).argmax(1)
        return action

    def collect(self, policy: Any, rows: int) -> Trajectories:
        columns = []
        for _ in range(rows):
            state = self.state
            with torch.inference_mode():
                output = policy.compute_action(torch.from_numpy(state), torch.from_numpy(self.legal[state]))
            action = output.action.numpy()
            assert self.legal[state, action].all()
            chance = self.transitions()[state, action].cumsum(-1)
            self.state = (chance <= self.rng.random((len(state), 1))).sum(-1).clip(max=2)
            columns.append((state, action, self.reward[state, action], output.extras))
        states, actions, rewards, extras = zip(*columns, strict=True)
        observation = np.stack([*states, self.state])
        shape = (rows, len(self.state))
        return Trajectories(
            observation=observation,
            action=np.stack(actions),
            reward=np.stack(rewards),
            terminated=np.zeros(shape, bool),
            truncated=np.zeros(shape, bool),
            valid=np.ones(shape, bool),
            episode=np.zeros(shape, np.int64),
            policy_version=np.zeros(shape, np.int64),
            action_mask=self.legal[observation],
            extras={name: np.stack([e[name].numpy() for e in extras]) for name in policy.extra_fields},
        )


def make(
    algorithm: Any, observation_space: Any, action_space: Any, trainer: Any = None, model: Any = None, **rest: Any
):
    """A policy and its trainer, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = algorithm.policy(observation_space, action_space, model or {}, {})
    policy.seed(0)
    return policy, algorithm.trainer(trainer or {}, policy, seed=0, **rest)


def noise(policy: Any, rows: int = 8, streams: int = 16, seed: int = 0, scale: float = 1.0, offset: float = 0.0):
    """Trajectories of Box observations and actions from an environment that is nothing but noise."""
    rng = np.random.default_rng(seed)
    shape = (rows + 1, streams, *policy.observation_space.shape)
    observation = (offset + scale * rng.normal(size=shape)).astype(np.float32)
    with torch.inference_mode():
        outputs = [policy.compute_action(torch.from_numpy(row)) for row in observation[:-1]]
    flags, zeros = rng.random((rows, streams)) < 0.1, np.zeros((rows, streams), np.int64)
    return Trajectories(
        observation, np.stack([o.action.numpy() for o in outputs]), rng.normal(size=flags.shape).astype(np.float32),
        flags, np.zeros_like(flags), np.ones_like(flags), zeros, zeros,
        extras={name: np.stack([o.extras[name].numpy() for o in outputs]) for name in policy.extra_fields},
    )  # fmt: skip


def same(left: Any, right: Any) -> bool:
    """Whether two policies have the same parameters and statistics to the last bit."""
    left, right = left.export_state(), right.export_state()
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)
