"""From steps to trajectories: writes each stream's decisions straight into the arrays of a ring's slot."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.backend.ring import Slot
from malib_lite.contracts.data import Field, Trajectories
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.models.actions import num_choices

_FIXED = ("observation", "action", "reward", "terminated", "truncated", "valid", "episode", "policy_version")
_EXTRA = "extra/"
_NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


def trajectory_fields(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    extra_fields: Mapping[str, Field],
    num_decisions: int,
    num_streams: int,
    num_agents: int | None = None,
    state_size: int | None = None,
) -> dict[str, Field]:
    """The arrays of a slot that holds up to ``num_decisions`` rows of ``num_streams`` streams.

    Two rows more than decisions: the observation after the last one, and a final observation before it.

    Args:
        num_agents: N, where a row is what a whole team did; None where it is one agent's decision.
        state_size: of the team's global state, where the environment has one.
    """
    assert observation_space.shape is not None and action_space.shape is not None
    rows = (num_decisions + 2, num_streams)
    each = rows if num_agents is None else (*rows, num_agents)
    fields = {
        "observation": Field((*each, *observation_space.shape), np.dtype(observation_space.dtype)),
        "action": Field((*each, *action_space.shape), np.dtype(action_space.dtype)),
        "reward": Field(each, np.dtype(np.float32)),
        "terminated": Field(rows, np.dtype(bool)),
        "truncated": Field(rows, np.dtype(bool)),
        "valid": Field(rows, np.dtype(bool)),
        "episode": Field(rows, np.dtype(np.int64)),
        "policy_version": Field(rows, np.dtype(np.int64)),
    }
    choices = num_choices(action_space)
    if choices is not None:
        fields["action_mask"] = Field((*each, choices), np.dtype(bool))
    for name, field in extra_fields.items():
        fields[_EXTRA + name] = Field((*each, *field.shape), field.dtype)
    if num_agents is not None:
        fields["acting"] = Field(each, np.dtype(bool))
    if state_size is not None:
        fields["state"] = Field((*rows, state_size), np.dtype(np.float32))
    return fields


def as_trajectories(slot: Slot) -> Trajectories:
    """The recorded rows of a slot, as views."""
    arrays = slot.arrays
    rows = slot.num_rows(len(arrays["reward"]) - 1)  # one more follows the last decision
    mask = arrays.get("action_mask")
    return Trajectories(
        observation=arrays["observation"][: rows + 1],
        action_mask=None if mask is None else mask[: rows + 1],
        extras={name[len(_EXTRA) :]: array[:rows] for name, array in arrays.items() if name.startswith(_EXTRA)},
        **{name: arrays[name][:rows] for name in _FIXED[1:]},
    )


def as_joint_trajectories(slot: Slot) -> JointTrajectories:
    """The recorded rows of a team's slot, as views."""
    alone = as_trajectories(slot)
    rows, state = len(alone.reward), slot.arrays.get("state")
    return JointTrajectories(
        **vars(alone),
        acting=slot.arrays["acting"][: rows + 1],
        state=None if state is None else state[: rows + 1],
    )


Streams = np.ndarray | slice  # some streams, by their indices (B,); a slice where they stand side by side


class Recorder:
    """Records S streams into one slot after the other.

    Each stream has a current ``row``. A decision is *open* from the moment it is taken until the stream's next
    decision or its end: rewards that arrive in between belong to it. Decisions still open when a slot is finished are
    carried over to the next.

    Where neighbouring streams are on the same row, as they mostly are in single-agent and simultaneous environments,
    whole blocks are copied instead of one row for each stream.
    """

    def __init__(self, num_decisions: int, num_streams: int) -> None:
        self._last_row = num_decisions + 1
        self._row = np.zeros(num_streams, np.int64)
        self._open = np.zeros(num_streams, np.int64)  # 1 where a decision is open: adds to a row without a cast
        self._fullest = 0  # the most rows that a stream has filled or begun
        self._blocks: dict[int, tuple[Any, Streams]] = {}  # where whole slices have just decided, by their start
        self._arrays: Mapping[str, np.ndarray] = {}
        self._carried: dict[str, np.ndarray] = {}

    def begin(self, slot: Slot) -> None:
        """Take up a slot; what it held before is void."""
        self._arrays = slot.arrays
        for name in ("valid", "reward", "terminated", "truncated"):
            self._arrays[name][...] = 0
        if "acting" in self._arrays:
            self._arrays["acting"][...] = False
        if "action_mask" in self._arrays:
            self._arrays["action_mask"][...] = True
        self._row[:] = 0
        self._blocks.clear()
        for name, rows in self._carried.items():
            self._arrays[name][0, self._open.nonzero()[0]] = rows
        self._fullest = int(self._open.any())

    def forget(self) -> None:
        """Give up all open decisions: the episodes they belong to will not go on."""
        self._open[:] = 0
        self._carried = {}

    @property
    def room(self) -> int:
        """How many further decisions every stream has room for, each possibly followed by a final observation."""
        return self._last_row - 1 - self._fullest

    def decide(
        self,
        streams: Streams,
        observation: np.ndarray,
        action_mask: np.ndarray | None,
        action: np.ndarray,
        extras: Mapping[str, np.ndarray],
        episode: np.ndarray,
        policy_version: int,
        others: Mapping[str, np.ndarray] = _NOTHING,
    ) -> None:
        """Open a decision in each of ``streams`` (B,); all arrays have B rows. What was open there is complete.

        ``others`` are further fields by name.
        """
        self._row[streams] += self._open[streams]
        at = self._where(streams)
        if isinstance(streams, slice):
            self._blocks[streams.start] = at
        else:
            self._blocks.clear()
        self._fullest = max(self._fullest, int(np.max(at[0])) + 1)
        arrays = self._arrays
        arrays["observation"][at] = observation
        arrays["action"][at] = action
        arrays["valid"][at] = True
        arrays["episode"][at] = episode
        arrays["policy_version"][at] = policy_version
        if action_mask is not None:
            arrays["action_mask"][at] = action_mask
        for name, values in extras.items():
            arrays[_EXTRA + name][at] = values
        for name, values in others.items():
            arrays[name][at] = values
        self._open[streams] = 1

    def reward(self, streams: slice, reward: np.ndarray) -> None:
        """Add what each of ``streams`` earned (B,) to its open decision; nothing is recorded where none is open."""
        at = self._blocks.get(streams.start)
        if at is None:
            rows = self._open[streams].nonzero()[0]
            indices = rows + streams.start
            at, reward = (self._row[indices], indices), reward[rows]
        self._arrays["reward"][at] += reward

    def end(
        self,
        streams: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        observation: np.ndarray,
        action_mask: np.ndarray | None = None,
        others: Mapping[str, np.ndarray] = _NOTHING,
    ) -> None:
        """Close the open decisions of ``streams`` (B,).

        Flags (B,), final observations (B, *obs), and what would be legal there (B, A): values are learnt beyond a
        truncation. ``others`` are further fields of the final row.
        """
        self._blocks.clear()
        had = self._open[streams] > 0
        if not had.all():
            streams, terminated, truncated, observation = (
                a[had] for a in (streams, terminated, truncated, observation)
            )
            action_mask = action_mask if action_mask is None else action_mask[had]
            others = {name: values[had] for name, values in others.items()}
        cut = truncated & ~terminated
        at = (self._row[streams], streams)
        self._arrays["terminated"][at] = terminated
        self._arrays["truncated"][at] = cut
        self._row[streams] += 1
        self._open[streams] = 0
        if not cut.any():
            return
        # The final observation takes a row of its own, so that a decision's next observation is the row below it.
        streams = streams[cut]
        rows = self._row[streams]
        self._arrays["observation"][rows, streams] = observation[cut]
        if action_mask is not None:
            mask = action_mask[cut]
            self._arrays["action_mask"][rows, streams] = mask | ~mask.any(-1, keepdims=True)  # never a row of nothing
        for name, values in others.items():
            self._arrays[name][rows, streams] = values[cut]
        self._row[streams] = rows + 1
        self._fullest = max(self._fullest, int(rows.max()) + 1)

    def finish(
        self,
        streams: np.ndarray,
        observation: np.ndarray,
        action_mask: np.ndarray | None,
        others: Mapping[str, np.ndarray] = _NOTHING,
    ) -> int:
        """Complete the slot; returns its number of rows.

        Args:
            streams: those that are about to decide (B,), with their ``observation`` (B, *obs): it stands below their
                last decision, and the next slot begins with it again.
        """
        self._row[streams] += self._open[streams]
        self._open[streams] = 0
        at = (self._row[streams], streams)
        self._arrays["observation"][at] = observation
        if action_mask is not None:
            self._arrays["action_mask"][at] = action_mask
        for name, values in others.items():
            self._arrays[name][at] = values
        waiting = np.flatnonzero(self._open)
        at = (self._row[waiting], waiting)
        self._carried = {name: array[at] for name, array in self._arrays.items()}  # fancy indexing copies
        self._arrays["valid"][at] = False
        return int(self._row.max())

    def _where(self, streams: Streams) -> tuple[Any, Streams]:
        """The place of each stream's current row in the arrays."""
        rows = self._row[streams]
        if not isinstance(streams, slice):
            return rows, streams
        if (rows == rows[0]).all():
            return int(rows[0]), streams
        return rows, np.arange(streams.start, streams.stop)
