"""Stores: where a learner keeps trajectories between receiving them and learning from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from malib_lite.backend.sum_tree import SumTree
from malib_lite.contracts.data import (
    DataSpec,
    Decisions,
    OnPolicySpec,
    Pair,
    PairSpec,
    ReplaySpec,
    ReservoirSpec,
    Trajectories,
    Transitions,
)
from malib_lite.contracts.joint import JointTrajectories, JointTransitions

AnyTrajectories = Trajectories | JointTrajectories
_EXTRA = "extra/"  # before the names of extras among a sequence's arrays


class Store(Protocol):
    """Takes trajectories in, gives training batches out."""

    def add(self, trajectories: AnyTrajectories) -> None:
        """Take one fragment in. Its arrays may be views of a ring and are valid until the round's batches are used."""

    @property
    def num_batches(self) -> int:
        """How many :meth:`batches` gives now."""

    def batches(self) -> Iterator[Any]:
        """The batches to learn from now; what they are is the store's kind."""

    def state_dict(self) -> dict[str, Any]:
        """All contents and the random state."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""


class OnPolicyStore:
    """Every round's trajectories, given out once and forgotten. With one fragment no array is copied."""

    def __init__(self) -> None:
        self._fragments: list[Any] = []

    def add(self, trajectories: AnyTrajectories) -> None:
        self._fragments.append(trajectories)

    @property
    def num_batches(self) -> int:
        return int(any(fragment.num_decisions for fragment in self._fragments))

    def batches(self) -> Iterator[AnyTrajectories]:
        if self.num_batches:
            yield type(self._fragments[0]).concatenate(self._fragments)
        self._fragments.clear()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class ReplayStore:
    """The last ``capacity`` transitions, sampled uniformly with replacement (Lin, 1992)."""

    def __init__(self, spec: ReplaySpec, generator: np.random.Generator) -> None:
        self._spec = spec
        self._generator = generator
        self._arrays: dict[str, np.ndarray] = {}  # (capacity, ...) each, made when the first transitions come
        self._next = 0  # where the next transition goes
        self._size = 0
        self._num_added = 0  # transitions so far
        self._updates_due = 0.0

    def __len__(self) -> int:
        return self._size

    def add(self, trajectories: AnyTrajectories) -> None:
        columns = self._columns(trajectories)
        count, capacity = len(next(iter(columns.values()))), self._capacity
        if not self._arrays:
            self._arrays = {name: np.empty((capacity, *c.shape[1:]), c.dtype) for name, c in columns.items()}
        kept = min(count, capacity)  # of a fragment longer than the store, the newest part
        rows = (self._next + np.arange(kept)) % capacity
        for name, column in columns.items():
            self._arrays[name][rows] = column[count - kept :]
        self._next = int((self._next + kept) % capacity)
        self._size = min(self._size + kept, capacity)
        self._num_added += trajectories.num_decisions
        self._updates_due += trajectories.num_decisions * self._spec.updates_per_step
        self._overwritten(rows)

    @property
    def num_batches(self) -> int:
        return int(self._updates_due) if self._num_added >= self._spec.learning_starts else 0

    def batches(self) -> Iterator[Any]:
        if self._num_added < self._spec.learning_starts:
            self._updates_due = 0.0  # what came before the start is not caught up later
            return
        while self._updates_due >= 1.0:
            self._updates_due -= 1.0
            rows = self._draw()
            batch = self._batch({name: array[rows] for name, array in self._arrays.items()})
            self._announce(rows, batch)
            yield batch
            self._hear(rows, batch)

    @property
    def _capacity(self) -> int:
        """How many rows the arrays have."""
        return self._spec.capacity

    def _columns(self, trajectories: AnyTrajectories) -> dict[str, np.ndarray]:
        """What to keep of a fragment, as arrays with one row for each thing that can be drawn."""
        return _present(trajectories.transitions(self._spec.n_step, self._spec.discount))

    def _batch(self, columns: dict[str, np.ndarray]) -> Any:
        """Rows that were drawn, in the form that trainers take."""
        return (JointTransitions if "acting" in columns else Transitions)(**columns)

    def _overwritten(self, rows: np.ndarray) -> None:
        """``rows`` hold new transitions."""

    def _draw(self) -> np.ndarray:
        """Rows (B,) of the next batch."""
        return self._generator.integers(self._size, size=self._spec.batch_size)

    def _announce(self, rows: np.ndarray, batch: Transitions) -> None:
        """Tell in ``batch`` how its ``rows`` were drawn."""

    def _hear(self, rows: np.ndarray, batch: Transitions) -> None:
        """Take up what the trainer left in ``batch``."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "arrays": {name: array[: self._size].copy() for name, array in self._arrays.items()},
            "next": self._next,
            "num_added": self._num_added,
            "updates_due": self._updates_due,
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._size = 0
        for name, array in state["arrays"].items():
            self._arrays[name] = np.empty((self._spec.capacity, *array.shape[1:]), array.dtype)
            self._arrays[name][: len(array)] = array
            self._size = len(array)
        self._next = state["next"]
        self._num_added = state["num_added"]
        self._updates_due = state["updates_due"]
        self._generator.bit_generator.state = state["generator"]


class SequenceReplayStore(ReplayStore):
    """The last ``capacity`` transitions in sequences of about L decisions, for policies that remember.

    Each is kept with what was remembered before its first decision (the stored state of Kapturowski et al. 2019,
    https://openreview.net/forum?id=r1lyTjAqYX). Batches are Trajectories or JointTrajectories, ``batch_size`` / L
    streams of at most 1.5 L rows.
    """

    @property
    def _capacity(self) -> int:
        return max(1, self._spec.capacity // self._spec.sequence_length)

    def _draw(self) -> np.ndarray:
        return self._generator.integers(self._size, size=max(1, self._spec.batch_size // self._spec.sequence_length))

    def _columns(self, trajectories: AnyTrajectories) -> dict[str, np.ndarray]:
        sequences = trajectories.sequences(self._spec.sequence_length)
        arrays = _present(sequences)
        arrays |= {_EXTRA + name: array for name, array in arrays.pop("extras").items()}
        longest, length = self._spec.sequence_length * 3 // 2, len(sequences.valid)
        columns = {}
        for name, array in arrays.items():
            column = np.zeros((array.shape[1], len(array) - length + longest, *array.shape[2:]), array.dtype)
            column[:, : len(array)] = array.swapaxes(0, 1)
            columns[name] = column
        return columns

    def _batch(self, columns: dict[str, np.ndarray]) -> Any:
        longest = columns["valid"].shape[1]
        length = int(np.flatnonzero(columns["valid"].any(axis=0))[-1]) + 1
        arrays = {name: c.swapaxes(0, 1)[: c.shape[1] - longest + length] for name, c in columns.items()}
        extras = {name[len(_EXTRA) :]: arrays.pop(name) for name in columns if name.startswith(_EXTRA)}
        return (JointTrajectories if "acting" in columns else Trajectories)(**arrays, extras=extras)


class PrioritisedReplayStore(ReplayStore):
    """A replay store that draws surprising transitions more often.

    The proportional variant of Schaul et al. 2016, algorithm 1 (https://arxiv.org/abs/1511.05952): they are drawn in
    proportion to (|TD error| + epsilon)^alpha, one from each of B equal stretches of the total (appendix B.2.1).
    New ones have the highest priority there has been, so that each is soon seen once.
    """

    _epsilon = 1e-6  # what is predicted to the bit is drawn now and then all the same

    def __init__(self, spec: ReplaySpec, generator: np.random.Generator) -> None:
        super().__init__(spec, generator)
        self._tree = SumTree(spec.capacity)  # of priorities to the power of alpha
        self._highest = 1.0  # of the tree's weights so far

    def _overwritten(self, rows: np.ndarray) -> None:
        self._tree.set(rows, self._highest)

    def _draw(self) -> np.ndarray:
        batch_size = self._spec.batch_size
        shares = (np.arange(batch_size) + self._generator.random(batch_size)) / batch_size
        return self._tree.find(shares * self._tree.total)

    def _announce(self, rows: np.ndarray, batch: Transitions) -> None:
        batch.sampling_ratio = (self._size * self._tree[rows] / self._tree.total).astype(np.float32)

    def _hear(self, rows: np.ndarray, batch: Transitions) -> None:
        if batch.td_error is None:
            return  # nothing was learnt from it
        weights = (np.abs(batch.td_error).astype(np.float64) + self._epsilon) ** self._spec.priority_exponent
        self._tree.set(rows, weights)
        self._highest = max(self._highest, float(weights.max()))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "weights": self._tree[: self._size], "highest": self._highest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._tree = SumTree(self._spec.capacity)
        self._tree.set(np.arange(self._size), state["weights"])
        self._highest = state["highest"]


class ReservoirStore:
    """A uniform sample of all decisions there have been: algorithm R of Vitter 1985, section 3.

    The n-th decision is kept with probability capacity / n, in the place of one drawn at random
    (https://doi.org/10.1145/3147.3165).
    """

    def __init__(self, spec: ReservoirSpec, generator: np.random.Generator) -> None:
        self._spec = spec
        self._generator = generator
        self._arrays: dict[str, np.ndarray] = {}  # (capacity, ...) each, made when the first decisions come
        self._num_seen = 0

    def __len__(self) -> int:
        return min(self._num_seen, self._spec.capacity)

    def add(self, trajectories: AnyTrajectories) -> None:
        assert isinstance(trajectories, Trajectories)
        columns, capacity = _present(trajectories.decisions(self._spec.flag)), self._spec.capacity
        if not self._arrays:
            self._arrays = {name: np.empty((capacity, *c.shape[1:]), c.dtype) for name, c in columns.items()}
        numbers = self._num_seen + np.arange(len(columns["action"]))  # n - 1 of each
        self._num_seen += len(numbers)
        rows = np.where(numbers < capacity, numbers, self._generator.integers(numbers + 1))
        kept = rows < capacity
        for name, column in columns.items():
            self._arrays[name][rows[kept]] = column[kept]  # of several in one place the last one stays, as it should

    @property
    def num_batches(self) -> int:
        return int(self._num_seen > 0)

    def batches(self) -> Iterator[Decisions]:
        """One batch, drawn uniformly with replacement; none as long as there is nothing."""
        if self._num_seen:
            rows = self._generator.integers(len(self), size=self._spec.batch_size)
            yield Decisions(**{name: array[rows] for name, array in self._arrays.items()})

    def state_dict(self) -> dict[str, Any]:
        return {
            "arrays": {name: array[: len(self)].copy() for name, array in self._arrays.items()},
            "num_seen": self._num_seen,
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._arrays = {}
        for name, array in state["arrays"].items():
            self._arrays[name] = np.empty((self._spec.capacity, *array.shape[1:]), array.dtype)
            self._arrays[name][: len(array)] = array
        self._num_seen = state["num_seen"]
        self._generator.bit_generator.state = state["generator"]


class PairStore:
    """A replay store and a reservoir that see the same play: a batch of each, whenever the replay store has one."""

    def __init__(self, spec: PairSpec, generator: np.random.Generator) -> None:
        for_replay, for_reservoir = generator.spawn(2)
        self._replay = make_store(spec.replay, for_replay)
        self._reservoir = make_store(spec.reservoir, for_reservoir)

    def add(self, trajectories: AnyTrajectories) -> None:
        self._replay.add(trajectories)
        self._reservoir.add(trajectories)

    @property
    def num_batches(self) -> int:
        return self._replay.num_batches * self._reservoir.num_batches

    def batches(self) -> Iterator[Pair]:
        for batch in self._replay.batches():
            for decisions in self._reservoir.batches():
                yield Pair(batch, decisions)

    def state_dict(self) -> dict[str, Any]:
        return {"replay": self._replay.state_dict(), "reservoir": self._reservoir.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._replay.load_state_dict(state["replay"])
        self._reservoir.load_state_dict(state["reservoir"])


def make_store(spec: DataSpec, generator: np.random.Generator) -> Store:
    """The store that a trainer's ``data_spec`` asks for."""
    if isinstance(spec, OnPolicySpec):
        return OnPolicyStore()
    if isinstance(spec, ReservoirSpec):
        return ReservoirStore(spec, generator)
    if isinstance(spec, PairSpec):
        return PairStore(spec, generator)
    if spec.sequence_length:
        return SequenceReplayStore(spec, generator)
    return PrioritisedReplayStore(spec, generator) if spec.priority_exponent else ReplayStore(spec, generator)


def _present(batch: Any) -> dict[str, Any]:
    """The fields of a batch that are not None."""
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value for name, value in fields.items() if value is not None}
