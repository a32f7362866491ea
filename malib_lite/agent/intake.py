"""Where trajectories come in: the rings of some rollout workers, and the store that they are read into."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from malib_lite.agent.sync_tally import SyncTally, count
from malib_lite.backend.ring import Ring, RingSpec, Slot
from malib_lite.backend.stores import AnyTrajectories, Store
from malib_lite.runtime.files import UnwrittenFile, write_whole


class ShardOfRound(NamedTuple):
    """What has come in."""

    fragments: int
    decisions: int
    env_steps: int  # that they took


class Intake:
    """The consumer's end of one ring for each rollout worker."""

    def __init__(
        self, rings: Sequence[RingSpec], post_process: Callable[[Sequence[Slot]], Sequence[AnyTrajectories]]
    ) -> None:
        self._rings: list[Ring] = [ring.open() for ring in rings]
        self._held: list[Ring] = []  # whose oldest record is being learnt from
        self._post_process = post_process
        self._tally = SyncTally()

    @property
    def num_workers(self) -> int:
        """Rollout workers."""
        return len(self._rings)

    def receive(self, sequence: int, version: int, store: Store) -> Generator[None, None, ShardOfRound]:
        """Put a round into ``store``: the fragments numbered ``sequence`` of all workers.

        Args:
            version: of the policy that is to learn from them, for their lag.
        """
        slots = []
        for worker, ring in enumerate(self._rings):  # never in the order of arrival, or sums would depend on it
            while (slot := ring.try_read()) is None:
                yield
            if slot.meta["sequence"] != sequence:
                raise RuntimeError(f"worker {worker} sent record {slot.meta['sequence']} where {sequence} was due")
            slots.append(slot)
        self._held = list(self._rings)
        return self._store(slots, version, store)

    def receive_any(
        self,
        first_leg: int,
        newest: Callable[[], int],
        max_lag: int | None,
        store: Store,
        is_over: Callable[[], bool] = lambda: False,
    ) -> Generator[None, None, ShardOfRound | None]:
        """Put what is there into ``store``: one fragment of every worker that has sent any, whatever their numbers.

        Args:
            first_leg: fragments of earlier ones are another policy's, and nobody's any more.
            newest: gives the newest version of the policy that anybody knows of here.
            max_lag: what is more versions older is dropped and counted. None: nothing is.
            is_over: whether nobody wants any more; the result is None then, whatever there is.
        """
        while not is_over():
            version = newest()
            found = [(ring, self._wanted(ring, first_leg, version, max_lag)) for ring in self._rings]
            there = [(ring, slot) for ring, slot in found if slot is not None]
            if there:
                self._held = [ring for ring, _ in there]
                return self._store([slot for _, slot in there], version, store)
            yield
        return None

    def take_tally(self) -> SyncTally:
        """How old the fragments were and how many of them too old, since this was last asked."""
        tally, self._tally = self._tally, SyncTally()
        return tally

    def close(self, leg: int) -> None:
        """Tell rollout workers that play until they hear otherwise that ``leg`` is over."""
        for ring in self._rings:
            ring.close(leg)

    def is_closed(self, leg: int) -> bool:
        """Whether :meth:`close` has been called for ``leg``."""
        return all(ring.is_closed(leg) for ring in self._rings)

    def _wanted(self, ring: Ring, first_leg: int, version: int, max_lag: int | None) -> Slot | None:
        """The ring's oldest record that is of any use."""
        while (slot := ring.try_read()) is not None:
            of_now = slot.meta["sequence"] >= first_leg
            if of_now and (max_lag is None or version - slot.meta["policy_version"] <= max_lag):
                break
            self._tally.fragments_dropped += of_now
            ring.release()
        return slot

    def _store(self, slots: Sequence[Slot], version: int, store: Store) -> ShardOfRound:
        for slot in slots:  # the rollout may know of a version that has not arrived here
            count(self._tally.policy_lag, max(0, version - slot.meta["policy_version"]))
        fragments = self._post_process(slots)
        for fragment in fragments:
            store.add(fragment)
        return ShardOfRound(
            fragments=len(slots),
            decisions=sum(fragment.num_decisions for fragment in fragments),
            env_steps=sum(slot.meta["env_steps"] for slot in slots),
        )

    @property
    def rounds_released(self) -> int:
        """Rounds that have been learnt from since the rings were made, by whoever read them."""
        return min(ring.tail for ring in self._rings)

    def release(self) -> None:
        """Hand the slots back: not before they have been learnt from, for on-policy batches are views of them."""
        for ring in self._held:
            ring.release()
        self._held = []


@contextlib.contextmanager
def kept_if_bad(batch: Any, path: Path) -> Iterator[None]:
    """Where numbers break down within, the batch is kept for whoever looks into it: as ``path``, an npz file."""
    try:
        yield
    except FloatingPointError as error:
        arrays: dict[str, Any] = _arrays(batch)
        content = io.BytesIO()
        np.savez(content, **arrays)
        try:
            write_whole(path, content.getvalue())
        except UnwrittenFile as unwritten:
            raise FloatingPointError(f"{error}; the batch is lost, {unwritten}") from error
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
