"""What travels from the environments to the learners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Field(NamedTuple):
    """Shape (without T and S) and dtype of one recorded array."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass
class Trajectories:
    """S streams, each one agent's own sequence of decisions in one environment, at most T rows long.

    Row t holds a decision: what was seen, what was done, and what came of it *until the agent's next decision*. The
    observation after decision t always stands in row t + 1, so observations have T + 1 rows. Where a stream goes on,
    that row is the next decision. Where it was truncated, the row holds the final observation and is not ``valid``.
    Where it terminated, the row is the first of another episode and must not be used: ``terminated`` says so.

    Rows that are not ``valid`` (final observations, and the tail of streams shorter than T) count nowhere.
    """

    observation: np.ndarray  # (T + 1, S, *obs)
    action: np.ndarray  # (T, S, *action)
    reward: np.ndarray  # (T, S) float32
    terminated: np.ndarray  # (T, S) bool
    truncated: np.ndarray  # (T, S) bool
    valid: np.ndarray  # (T, S) bool
    episode: np.ndarray  # (T, S) int64: running number of the episode in its environment
    policy_version: np.ndarray  # (T, S) int64: version of the parameters that chose the action
    action_mask: np.ndarray | None = None  # (T + 1, S, A) bool; every row has a True
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)  # (T, S, ...): the policy's declared fields

    @property
    def num_decisions(self) -> int:
        """How many valid rows there are."""
        return int(self.valid.sum())

    @staticmethod
    def concatenate(parts: Sequence[Trajectories]) -> Trajectories:
        """Put streams side by side, in the given order; shorter parts get rows that are not valid."""
        if len(parts) == 1:
            return parts[0]
        rows = max(part.reward.shape[0] for part in parts)

        def join(arrays: Sequence[np.ndarray], length: int, fill: int = 0) -> np.ndarray:
            pads = [[(0, length - a.shape[0])] + [(0, 0)] * (a.ndim - 1) for a in arrays]
            padded = [np.pad(a, pad, constant_values=fill) for a, pad in zip(arrays, pads, strict=True)]
            return np.concatenate(padded, axis=1)

        first = parts[0]
        return Trajectories(
            observation=join([p.observation for p in parts], rows + 1),
            action_mask=None
            if first.action_mask is None
            else join([p.action_mask for p in parts if p.action_mask is not None], rows + 1, fill=1),
            extras={name: join([p.extras[name] for p in parts], rows) for name in first.extras},
            **{
                name: join([getattr(p, name) for p in parts], rows)
                for name in ("action", "reward", "terminated", "truncated", "valid", "episode", "policy_version")
            },
        )

    def transitions(self, n_step: int = 1, discount: float = 1.0) -> Transitions:
        """The valid rows as unordered transitions over up to ``n_step`` decisions of the same episode.

        A transition from row t spans m rows, until n_step, the episode's end or the fragment's end stops it: its reward
        is the sum of discount^k r_{t+k} over k < m, what follows it stands in row t + m.
        """
        t, s = np.nonzero(self.valid)
        reward, last = self.reward[t, s].copy(), t.copy()
        open_ = np.ones(len(t), bool)
        for k in range(1, n_step):
            following = np.minimum(last + 1, len(self.reward) - 1)
            open_ &= ~(self.terminated[last, s] | self.truncated[last, s])
            open_ &= (last + 1 < len(self.reward)) & self.valid[following, s]
            reward[open_] += np.float32(discount**k) * self.reward[following, s][open_]
            last = np.where(open_, following, last)
        terminated = self.terminated[last, s]
        next_mask = None
        if self.action_mask is not None:
            next_mask = self.action_mask[last + 1, s]
            next_mask[terminated] = True  # nothing follows: no row may be all False, or a masked maximum is -inf
        return Transitions(
            observation=self.observation[t, s],
            action=self.action[t, s],
            reward=reward,
            next_observation=self.observation[last + 1, s],
            terminated=terminated,
            discount=(discount ** (last - t + 1)).astype(np.float32),
            action_mask=None if self.action_mask is None else self.action_mask[t, s],
            next_action_mask=next_mask,
        )


@dataclass
class Transitions:
    """B unordered decisions with what followed up to n decisions later; the unit of replay."""

    observation: np.ndarray  # (B, *obs)
    action: np.ndarray  # (B, *action)
    reward: np.ndarray  # (B,) float32: discounted sum over the decisions that the transition spans
    next_observation: np.ndarray  # (B, *obs): meaningless where terminated
    terminated: np.ndarray  # (B,) bool: no bootstrapping beyond; truncation does bootstrap
    discount: np.ndarray  # (B,) float32: of the next observation's value, gamma to the power of decisions spanned
    action_mask: np.ndarray | None = None  # (B, A) bool
    next_action_mask: np.ndarray | None = None  # (B, A) bool: all True where terminated
    # Of prioritised replay alone. The store tells how often it draws each transition compared with drawing uniformly
    # (N P of Schaul et al. 2016); the trainer leaves here how far off its prediction was, and the store takes it up.
    sampling_ratio: np.ndarray | None = None  # (B,) float32
    td_error: np.ndarray | None = None  # (B,) float32

    def __len__(self) -> int:
        return len(self.reward)


class ReplaySpec(NamedTuple):
    """What an off-policy trainer wants of its store."""

    capacity: int  # transitions kept
    batch_size: int  # transitions in one update
    learning_starts: int  # transitions before the first update
    updates_per_step: float  # updates per recorded decision
    n_step: int = 1  # decisions that a transition spans at the most
    discount: float = 1.0  # within a transition
    priority_exponent: float = 0.0  # alpha of prioritised replay; 0 draws uniformly


class OnPolicySpec(NamedTuple):
    """What an on-policy trainer wants: every round's trajectories, once."""
