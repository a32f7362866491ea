"""Where trajectories come in: the rings of some rollout workers, read in step, and the store they go to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from malib_lite.backend.ring import Ring, RingSpec, Slot
from malib_lite.backend.stores import AnyTrajectories, Store


class Intake:
    """The consumer's end of one ring for each rollout worker."""

    def __init__(
        self, rings: Sequence[RingSpec], post_process: Callable[[Sequence[Slot]], Sequence[AnyTrajectories]]
    ) -> None:
        self._rings: list[Ring] = [ring.open() for ring in rings]
        self._post_process = post_process

    def receive(self, sequence: int, store: Store) -> Generator[None, None, tuple[int, int]]:
        """Put a round into ``store``: the fragments numbered ``sequence`` of all workers.

        Returns:
            The decisions in it, and the environment steps that they took.
        """
        slots = []
        for worker, ring in enumerate(self._rings):  # never in the order of arrival, or sums would depend on it
            while (slot := ring.try_read()) is None:
                yield
            if slot.meta["sequence"] != sequence:
                raise RuntimeError(f"worker {worker} sent record {slot.meta['sequence']} where {sequence} was due")
            slots.append(slot)
        fragments = self._post_process(slots)
        for fragment in fragments:
            store.add(fragment)
        return sum(fragment.num_decisions for fragment in fragments), sum(slot.meta["env_steps"] for slot in slots)

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
        arrays: dict[str, Any] = {name: v for name, v in vars(batch).items() if isinstance(v, np.ndarray)}
        np.savez(path, **arrays)
        raise FloatingPointError(f"{error}; the batch is in {path}") from error
