"""What travels from the environments to the learners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

MEMORY = "memory"  # among the extras: what a policy that remembers did so before each decision, (T, S, H) float32


_ROWS = ("action", "reward", "terminated", "truncated", "valid", "episode", "policy_version")
_ROWS_AND_ONE = ("observation", "action_mask")


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

    @property
    def begins(self) -> np.ndarray:
        """Where another episode begins than the one of the row before, (T + 1, S) bool; never in row 0."""
        return episode_starts(self.terminated, self.valid)

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
            **{name: join([getattr(p, name) for p in parts], rows) for name in _ROWS},
        )

    def sequences(self, length: int) -> Trajectories:
        """The streams cut into pieces of about ``length`` rows, side by side: (L, pieces * S).

        Each begins with what was remembered there, its last row is followed by the first of the next piece. Pieces
        without a decision are left out.
        """
        return Trajectories(**pieces_of(self, length, _ROWS, _ROWS_AND_ONE))

    def decisions(self, flag: str = "") -> Decisions:
        """The valid rows as unordered decisions; only those in which the extra field called ``flag``, a bool, is set,
        if there is to be one."""
        rows = self.valid & self.extras[flag] if flag else self.valid
        return Decisions(
            observation=self.observation[:-1][rows],
            action=self.action[rows],
            action_mask=None if self.action_mask is None else self.action_mask[:-1][rows],
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

    @property
    def num_samples(self) -> int:
        """B, as of any minibatch."""
        return len(self)


@dataclass
class Decisions:
    """B unordered decisions without what came of them; the unit of a reservoir."""

    observation: np.ndarray  # (B, *obs)
    action: np.ndarray  # (B, *action)
    action_mask: np.ndarray | None = None  # (B, A) bool

    def __len__(self) -> int:
        return len(self.action)

    @property
    def num_samples(self) -> int:
        """B, as of any minibatch."""
        return len(self)


@dataclass
class Pair:
    """A batch for each of two trainers that learn side by side."""

    replay: Any  # Transitions
    reservoir: Decisions


class ReplaySpec(NamedTuple):
    """What an off-policy trainer wants of its store."""

    capacity: int  # transitions kept
    batch_size: int  # transitions in one update
    learning_starts: int  # transitions before the first update
    updates_per_step: float  # updates per recorded decision
    n_step: int = 1  # decisions that a transition spans at the most
    discount: float = 1.0  # within a transition
    priority_exponent: float = 0.0  # alpha of prioritised replay; 0 draws uniformly
    # L of policies that remember: batches are then trajectories of about so many rows, with batch_size transitions
    # altogether; 0 gives transitions
    sequence_length: int = 0


class OnPolicySpec(NamedTuple):
    """What an on-policy trainer wants: every round's trajectories, once."""


class ReservoirSpec(NamedTuple):
    """What a trainer wants that learns from all decisions there have been, the oldest as much as the newest."""

    capacity: int  # decisions kept
    batch_size: int  # decisions in one batch
    flag: str = ""  # the extra field (bool) that marks the decisions to be kept; "": all are


class PairSpec(NamedTuple):
    """What two trainers want that learn side by side: a :class:`Pair` of batches whenever the first is due one."""

    replay: ReplaySpec
    reservoir: ReservoirSpec


DataSpec = ReplaySpec | OnPolicySpec | ReservoirSpec | PairSpec


def episode_starts(terminated: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Rows (T + 1, S) bool in which an episode begins that the row before, of those (T, S) bool, was not part of."""
    begins = np.zeros((len(valid) + 1, *valid.shape[1:]), bool)
    begins[1:] = terminated | ~valid  # a row that is not valid holds an episode's last observation
    return begins


def cut(array: np.ndarray, length: int) -> np.ndarray:
    """Streams (T, S, ...) as pieces of about ``length`` rows, side by side: (L, pieces * S, ...), the first of all
    streams first. All have the same L, at most half as long again as ``length``: no short ones are left over. Rows
    that are missing at the end are zeros."""
    longest = piece_length(len(array), length)
    missing = -len(array) % longest
    if missing:
        array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
    pieces = array.reshape(-1, longest, *array.shape[1:]).swapaxes(0, 1)
    return pieces.reshape(longest, -1, *array.shape[2:])


def cut_and_next(array: np.ndarray, length: int) -> np.ndarray:
    """The same of arrays (T + 1, S, ...) that have what follows the last row: (L + 1, pieces * S, ...)."""
    rows, num_streams = len(array) - 1, array.shape[1]
    longest = piece_length(rows, length)
    following = array[np.minimum(np.arange(longest, rows + longest, longest), rows)]
    pieces = np.concatenate([cut(array[:-1], length), following.reshape(1, -1, *array.shape[2:])])
    pieces[rows % longest or longest, -num_streams:] = array[-1]  # below the last row, above those that are missing
    return pieces


def piece_length(rows: int, length: int) -> int:
    """L: how long pieces of equal length are that are nearest to ``length``."""
    return max(1, -(-rows // max(1, round(rows / length))))


def pieces_of(batch: Any, length: int, rows: Sequence[str], rows_and_one: Sequence[str]) -> dict[str, Any]:
    """The arrays of trajectories cut into pieces of about ``length`` rows; zeros where nothing was recorded.

    Args:
        rows, rows_and_one: names of the arrays (T, S, ...) and (T + 1, S, ...). Those that are None stay so.
    """
    kept = cut(batch.valid, length).any(axis=0)
    written = np.zeros((len(batch.valid) + 1, *batch.valid.shape[1:]), bool)
    written[:-1] |= batch.valid
    written[1:] |= batch.valid

    def recorded(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.where(rows.reshape(*rows.shape, *(1,) * (array.ndim - 2)), array, np.zeros((), array.dtype))

    def pieces(array: np.ndarray) -> np.ndarray:
        return cut(recorded(array, batch.valid), length)[:, kept]

    def pieces_and_next(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else cut_and_next(recorded(array, written), length)[:, kept]

    return {
        **{name: pieces(getattr(batch, name)) for name in rows},
        **{name: pieces_and_next(getattr(batch, name)) for name in rows_and_one},
        "extras": {name: pieces(array) for name, array in batch.extras.items()},
    }
