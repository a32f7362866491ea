"""Where trajectories come in: the rings of some rollout workers, read in step, and the store they go to."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from malib_lite.backend.ring import Ring, RingSpec, Slot
from malib_lite.backend.stores import AnyTrajectories, Store


class ShardOfRound(NamedTuple):
    """What has come in."""

    decisions: int
    env_steps: int  # that they took
    policy_version: int  # the oldest that played


class Intake:
    """The consumer's end of one ring for each rollout worker."""

    def __init__(
        self, rings: Sequence[RingSpec], post_process: Callable[[Sequence[Slot]], Sequence[AnyTrajectories]]
    ) -> None:
        self._rings: list[Ring] = [ring.open() for ring in rings]
        self._post_process = post_process
        self._dropped = 0

    def receive(self, sequence: int, store: Store) -> Generator[None, None, ShardOfRound]:
        """Put a round into ``store``: the fragments numbered ``sequence`` of all workers."""
        slots = []
        for worker, ring in enumerate(self._rings):  # never in the order of arrival, or sums would depend on it
            while (slot := ring.try_read()) is None:
                yield
            if slot.meta["sequence"] != sequence:
                raise RuntimeError(f"worker {worker} sent record {slot.meta['sequence']} where {sequence} was due")
            slots.append(slot)
        return self._store(slots, store)

    def receive_any(
        self, first_leg: int, oldest: int | None, store: Store, is_over: Callable[[], bool]
    ) -> Generator[None, None, ShardOfRound | None]:
        """Put the next fragment of each worker into ``store``, whatever its number; None if it ``is_over`` before.

        Args:
            first_leg: fragments of earlier ones are another policy's, and nobody's any more.
            oldest: policy version; what an older one played is dropped and counted. None: nothing is.
        """
        slots = []
        for ring in self._rings:
            while (slot := ring.try_read()) is None or not self._is_wanted(slot, first_leg, oldest):
                if slot is not None:
                    ring.release()
                elif is_over():
                    return None
                else:
                    yield
            slots.append(slot)
        return self._store(slots, store)

    def take_dropped(self) -> int:
        """Fragments that were too old, since this was last asked."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def close(self, leg: int) -> None:
        """Tell rollout workers that play until they hear otherwise that ``leg`` is over."""
        for ring in self._rings:
            ring.close(leg)

    def is_closed(self, leg: int) -> bool:
        """Whether :meth:`close` has been called for ``leg``."""
        return all(ring.is_closed(leg) for ring in self._rings)

    def _is_wanted(self, slot: Slot, first_leg: int, oldest: int | None) -> bool:
        if slot.meta["sequence"] < first_leg:
            return False
        if oldest is not None and slot.meta["policy_version"] < oldest:
            self._dropped += 1
            return False
        return True

    def _store(self, slots: Sequence[Slot], store: Store) -> ShardOfRound:
        fragments = self._post_process(slots)
        for fragment in fragments:
            store.add(fragment)
        return ShardOfRound(
            decisions=sum(fragment.num_decisions for fragment in fragments),
            env_steps=sum(slot.meta["env_steps"] for slot in slots),
            policy_version=min(slot.meta["policy_version"] for slot in slots),
        )

    @property
    def rounds_released(self) -> int:
        """Rounds that have been learnt from since the rings were made, by whoever read them."""
        return min(ring.tail for ring in self._rings)

    def release(self) -> None:
        """Hand the round's slots back: not before it has been learnt from, for on-policy batches are views of them."""
        for ring in self._rings:
            ring.release()


@contextlib.contextmanager
def kept_if_bad(batch: Any, path: Path) -> Iterator[None]:
    """Where numbers break down within, the batch is kept for whoever looks into it: as ``path``, an npz file."""
    try:
        yield
    except FloatingPointError as error:
        arrays: dict[str, Any] = _arrays(batch)
        np.savez(path, **arrays)
        raise FloatingPointError(f"{error}; the batch is in {path}") from error


def _arrays(batch: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a batch and of the batches in it, by name."""
    arrays = {}
    for name, value in vars(batch).items():
        if isinstance(value, np.ndarray):
            arrays[prefix + name] = value
        elif dataclasses.is_dataclass(value):
            arrays |= _arrays(value, f"{prefix}{name}.")
    return arrays
