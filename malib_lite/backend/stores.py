"""Stores: where a learner keeps trajectories between receiving them and learning from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from malib_lite.contracts.data import OnPolicySpec, ReplaySpec, Trajectories, Transitions


class Store(Protocol):
    """Takes trajectories in, gives training batches out."""

    def add(self, trajectories: Trajectories) -> None:
        """Take one fragment in. Its arrays may be views of a ring and are valid until the round's batches are used."""

    def batches(self) -> Iterator[Any]:
        """The batches to learn from now; what they are is the store's kind."""

    def state_dict(self) -> dict[str, Any]:
        """All contents and the random state."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""


class OnPolicyStore:
    """Every round's trajectories, given out once and forgotten. With one fragment no array is copied."""

    def __init__(self) -> None:
        self._fragments: list[Trajectories] = []

    def add(self, trajectories: Trajectories) -> None:
        self._fragments.append(trajectories)

    def batches(self) -> Iterator[Trajectories]:
        if any(fragment.num_decisions for fragment in self._fragments):
            yield Trajectories.concatenate(self._fragments)
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
        self._updates_due = 0.0

    def __len__(self) -> int:
        return self._size

    def add(self, trajectories: Trajectories) -> None:
        transitions = trajectories.transitions(self._spec.n_step, self._spec.discount)
        count, capacity = len(transitions), self._spec.capacity
        columns = {
            f.name: getattr(transitions, f.name)
            for f in dataclasses.fields(Transitions)
            if getattr(transitions, f.name) is not None
        }
        if not self._arrays:
            self._arrays = {name: np.empty((capacity, *c.shape[1:]), c.dtype) for name, c in columns.items()}
        kept = min(count, capacity)  # of a fragment longer than the store, the newest part
        where = (self._next + np.arange(kept)) % capacity
        for name, column in columns.items():
            self._arrays[name][where] = column[count - kept :]
        self._next = int((self._next + kept) % capacity)
        self._size = min(self._size + kept, capacity)
        self._updates_due += count * self._spec.updates_per_step

    def batches(self) -> Iterator[Transitions]:
        if self._size < self._spec.learning_starts:
            self._updates_due = 0.0  # what came before the start is not caught up later
            return
        while self._updates_due >= 1.0:
            self._updates_due -= 1.0
            rows = self._generator.integers(self._size, size=self._spec.batch_size)
            yield Transitions(**{name: array[rows] for name, array in self._arrays.items()})

    def state_dict(self) -> dict[str, Any]:
        return {
            "arrays": {name: array[: self._size].copy() for name, array in self._arrays.items()},
            "next": self._next,
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
        self._updates_due = state["updates_due"]
        self._generator.bit_generator.state = state["generator"]


def make_store(spec: ReplaySpec | OnPolicySpec, generator: np.random.Generator) -> Store:
    """The store that a trainer's ``data_spec`` asks for."""
    return ReplayStore(spec, generator) if isinstance(spec, ReplaySpec) else OnPolicyStore()
