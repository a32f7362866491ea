"""What travels from the environments to the learner of a team: all its agents' decisions, aligned in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from malib_lite.contracts.data import episode_starts, pieces_of

_ROWS = ("action", "reward", "terminated", "truncated", "valid", "episode", "policy_version")
_ROWS_AND_ONE = ("observation", "acting", "action_mask", "state")


@dataclass
class JointTrajectories:
    """E streams, each the decisions of a team of N agents in one environment, at most T rows long.

    Row t is a step of the environment in which at least one agent of the team acted; ``acting`` says which. What agents
    that did not act are shown, do and are allowed means nothing. Otherwise the rows are those of
    :class:`~malib_lite.contracts.data.Trajectories`: what follows row t stands in row t + 1, truncated episodes have
    their final observations there, and rows that are not ``valid`` count nowhere.

    The team's episode ends when it does for all its agents.
    """

    observation: np.ndarray  # (T + 1, E, N, *obs)
    acting: np.ndarray  # (T + 1, E, N) bool
    action: np.ndarray  # (T, E, N, *action)
    reward: np.ndarray  # (T, E, N) float32
    terminated: np.ndarray  # (T, E) bool
    truncated: np.ndarray  # (T, E) bool
    valid: np.ndarray  # (T, E) bool
    episode: np.ndarray  # (T, E) int64
    policy_version: np.ndarray  # (T, E) int64
    action_mask: np.ndarray | None = None  # (T + 1, E, N, A) bool
    state: np.ndarray | None = None  # (T + 1, E, *state): the environment's global state, where it has one
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)  # (T, E, N, ...)

    @property
    def num_decisions(self) -> int:
        """How many valid rows there are."""
        return int(self.valid.sum())

    @property
    def begins(self) -> np.ndarray:
        """Where another episode begins than the one of the row before, (T + 1, E) bool; never in row 0."""
        return episode_starts(self.terminated, self.valid)

    @property
    def team_reward(self) -> np.ndarray:
        """What the team earned (T, E) float32: the mean over its agents, which is the reward itself if it is shared."""
        return self.reward.mean(-1)

    @property
    def global_state(self) -> np.ndarray:
        """The environment's state as rows of numbers (T + 1, E, S) float32; else all observations, side by side."""
        source = self.observation if self.state is None else self.state
        return source.reshape(*source.shape[:2], -1).astype(np.float32, copy=False)

    @staticmethod
    def concatenate(parts: Sequence[JointTrajectories]) -> JointTrajectories:
        """Put streams side by side, in the given order; shorter parts get rows that are not valid."""
        if len(parts) == 1:
            return parts[0]
        rows = max(len(part.valid) for part in parts)

        def join(name: str, length: int, fill: int = 0) -> np.ndarray | None:
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else _side_by_side(arrays, length, fill)

        columns = {name: join(name, rows) for name in _ROWS}
        columns |= {name: join(name, rows + 1, fill=int(name == "action_mask")) for name in _ROWS_AND_ONE}
        extras = {name: _side_by_side([part.extras[name] for part in parts], rows) for name in parts[0].extras}
        return JointTrajectories(**columns, extras=extras)  # type: ignore[arg-type]

    def sequences(self, length: int) -> JointTrajectories:
        """The streams cut into pieces of about ``length`` rows, as :meth:`Trajectories.sequences` does it."""
        return JointTrajectories(**pieces_of(self, length, _ROWS, _ROWS_AND_ONE))

    def transitions(self, n_step: int = 1, discount: float = 1.0) -> JointTransitions:
        """The valid rows as unordered transitions over up to ``n_step`` rows of the same episode."""
        t, e = np.nonzero(self.valid)
        reward, last = self.reward[t, e].copy(), t.copy()
        open_ = np.ones(len(t), bool)
        for k in range(1, n_step):
            following = np.minimum(last + 1, len(self.valid) - 1)
            open_ &= ~(self.terminated[last, e] | self.truncated[last, e])
            open_ &= (last + 1 < len(self.valid)) & self.valid[following, e]
            reward[open_] += np.float32(discount**k) * self.reward[following, e][open_]
            last = np.where(open_, following, last)
        terminated = self.terminated[last, e]
        state, next_mask = self.global_state, None
        if self.action_mask is not None:
            next_mask = self.action_mask[last + 1, e]
            next_mask[terminated] = True
        return JointTransitions(
            observation=self.observation[t, e],
            acting=self.acting[t, e],
            action=self.action[t, e],
            reward=reward,
            next_observation=self.observation[last + 1, e],
            next_acting=self.acting[last + 1, e],
            terminated=terminated,
            discount=(discount ** (last - t + 1)).astype(np.float32),
            state=state[t, e],
            next_state=state[last + 1, e],
            action_mask=None if self.action_mask is None else self.action_mask[t, e],
            next_action_mask=next_mask,
        )


@dataclass
class JointTransitions:
    """B unordered rows of a team with what followed up to n rows later; the unit of a team's replay."""

    observation: np.ndarray  # (B, N, *obs)
    acting: np.ndarray  # (B, N) bool
    action: np.ndarray  # (B, N, *action)
    reward: np.ndarray  # (B, N) float32
    next_observation: np.ndarray  # (B, N, *obs): meaningless where terminated
    next_acting: np.ndarray  # (B, N) bool
    terminated: np.ndarray  # (B,) bool
    discount: np.ndarray  # (B,) float32
    state: np.ndarray  # (B, S) float32
    next_state: np.ndarray  # (B, S) float32
    action_mask: np.ndarray | None = None  # (B, N, A) bool
    next_action_mask: np.ndarray | None = None  # (B, N, A) bool: all True where terminated

    def __len__(self) -> int:
        return len(self.terminated)

    @property
    def num_samples(self) -> int:
        """B, as of any minibatch."""
        return len(self)


def _side_by_side(arrays: Sequence[np.ndarray], length: int, fill: int = 0) -> np.ndarray:
    pads = [[(0, length - len(array))] + [(0, 0)] * (array.ndim - 1) for array in arrays]
    return np.concatenate(
        [np.pad(array, pad, constant_values=fill) for array, pad in zip(arrays, pads, strict=True)], axis=1
    )
