"""Single-producer, single-consumer rings of array records, over shared or private memory.

A ring has a fixed number of slots, every slot one fixed layout of arrays. The producer fills the arrays of a
reserved slot in place and publishes it with one aligned store; the consumer reads numpy views of the slot and hands
it back with another. There is no lock and no pickle: a producer that is killed in mid-write has published nothing.

One ring per (worker, runtime id): many producers on one ring would need an atomic compare-and-swap, which Python
does not have.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from malib_lite.contracts.data import Field
from malib_lite.runtime.shared_memory import SharedFolder, attach

META = ("sequence", "rows", "worker", "policy_version", "env_steps")  # int64 words at the head of every slot
_ALIGN = 64  # bytes of a cache line: no two counters and no two arrays share one
_HEAD, _TAIL, _DROPPED, _CLOSED = 0, 8, 16, 24  # words of the counters, a cache line apart
_COUNTERS = 4 * _ALIGN

_fence_lock = threading.Lock()


def fence() -> None:
    """Order memory accesses before and after, on processors that reorder them (ARM): a lock's acquire and release."""
    with _fence_lock:
        pass


def _align(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGN) * _ALIGN


@dataclass(frozen=True)
class SlotLayout:
    """Where each array of a slot lies; computed from the fields alone, so both sides agree without talking."""

    fields: Mapping[str, Field]

    def offsets(self) -> dict[str, int]:
        """Byte offset of every array from the start of the slot."""
        offset, offsets = _align(8 * len(META)), {}
        for name, field in self.fields.items():
            offsets[name] = offset
            offset += _align(int(np.prod(field.shape, dtype=np.int64)) * np.dtype(field.dtype).itemsize)
        return offsets

    @property
    def num_bytes(self) -> int:
        """Size of a slot."""
        sizes = (int(np.prod(f.shape, dtype=np.int64)) * np.dtype(f.dtype).itemsize for f in self.fields.values())
        return _align(8 * len(META)) + sum(map(_align, sizes))


class DamagedMemory(RuntimeError):
    """Shared memory holds what nobody who shares it writes there."""


class Slot:
    """One record: ``arrays`` by field name and the int64 words of ``META``, all views of the ring's memory."""

    def __init__(self, memory: Any, start: int, layout: SlotLayout, name: str = "") -> None:
        """
        Args:
            name: whose slot it is, for messages.
        """
        self._name = name
        self._meta = np.frombuffer(memory, np.int64, len(META), start)
        self.arrays: dict[str, np.ndarray] = {}
        for name, offset in layout.offsets().items():
            field = layout.fields[name]
            count = int(np.prod(field.shape, dtype=np.int64))
            self.arrays[name] = np.frombuffer(memory, field.dtype, count, start + offset).reshape(field.shape)

    @property
    def meta(self) -> dict[str, int]:
        """The slot's words by name."""
        return dict(zip(META, self._meta.tolist(), strict=True))

    def num_rows(self, most: int) -> int:
        """The word ``rows`` where it is the number of rows in the arrays that are filled.

        Raises:
            DamagedMemory: there cannot be so many, or fewer than none.
        """
        rows = int(self._meta[META.index("rows")])
        if not 0 <= rows <= most:
            raise DamagedMemory(f"{self._name}: a slot says that it has {rows} rows, it can have 0 to {most}")
        return rows

    def write_meta(self, **words: int) -> None:
        """Set words by name."""
        for name, word in words.items():
            self._meta[META.index(name)] = word


class Ring:
    """One ring. The producer calls ``try_reserve`` and ``commit``, the consumer ``try_read`` and ``release``.

    ``head`` counts committed records and is written by the producer alone, ``tail`` counts released ones and is
    written by the consumer alone; both only grow, so either side may die and be replaced at any point.
    """

    def __init__(
        self,
        memory: Any,
        layout: SlotLayout,
        num_slots: int,
        overflow: Literal["block", "drop"] = "block",
        name: str = "ring",
    ) -> None:
        """
        Args:
            memory: writable buffer of at least :meth:`num_bytes`, zeros where the ring is new.
            overflow: what a full ring does: "block" reserves nothing until a slot is free (on-policy data); "drop"
                lets the producer fill a spare slot that is then forgotten and counted (off-policy data).
            name: of the ring, for messages.
        """
        self._name = name
        self._counters = np.frombuffer(memory, np.int64, _COUNTERS // 8)
        # One slot more than the ring holds: the spare that a full dropping ring writes to.
        self._slots = [Slot(memory, _COUNTERS + i * layout.num_bytes, layout, name) for i in range(num_slots + 1)]
        self._num_slots = num_slots
        self._overflow = overflow
        self._reserved_spare = False

    @staticmethod
    def num_bytes(layout: SlotLayout, num_slots: int) -> int:
        """Memory that a ring needs."""
        return _COUNTERS + (num_slots + 1) * layout.num_bytes

    @property
    def head(self) -> int:
        """Records committed since the ring was made."""
        return int(self._counters[_HEAD])

    @property
    def tail(self) -> int:
        """Records released since the ring was made."""
        return int(self._counters[_TAIL])

    @property
    def dropped(self) -> int:
        """Records that found the ring full and were dropped."""
        return int(self._counters[_DROPPED])

    def is_closed(self, leg: int) -> bool:
        """Whether the consumer has had enough of what it gets in ``leg``."""
        return int(self._counters[_CLOSED]) > leg

    # -- producer -----------------------------------------------------------------------------------------------

    def try_reserve(self, drop: bool = False) -> Slot | None:
        """The slot to fill next, or None while the ring is full. Nothing is published until ``commit``.

        Args:
            drop: never None: where the ring is full, a slot that is dropped, as with ``overflow`` "drop".

        Raises:
            DamagedMemory: the counters cannot be right.
        """
        head, tail = self.head, self.tail
        full = self._num_waiting(head, tail) == self._num_slots
        if full and self._overflow == "block" and not drop:
            return None
        fence()  # the consumer's reads of this slot come before our writes to it
        self._reserved_spare = full
        return self._slots[self._num_slots if full else head % self._num_slots]

    def commit(self) -> None:
        """Publish the slot that ``try_reserve`` gave."""
        if self._reserved_spare:
            self._counters[_DROPPED] += 1
            return
        fence()  # our writes to the slot come before the counter that announces them
        self._counters[_HEAD] = self.head + 1

    # -- consumer -----------------------------------------------------------------------------------------------

    def try_read(self) -> Slot | None:
        """The oldest record not yet released, or None; its arrays stay valid until ``release``.

        Raises:
            DamagedMemory: the counters cannot be right.
        """
        tail = self.tail
        if not self._num_waiting(self.head, tail):
            return None
        fence()  # the counter is read before the slot it announces
        return self._slots[tail % self._num_slots]

    def close(self, leg: int) -> None:
        """Tell the producer that no more is wanted in ``leg``; legs are numbered upwards, from 0."""
        self._counters[_CLOSED] = leg + 1

    def release(self) -> None:
        """Hand the slot that ``try_read`` gave back to the producer."""
        fence()  # our reads of the slot come before the counter that frees it
        self._counters[_TAIL] = self.tail + 1

    def _num_waiting(self, head: int, tail: int) -> int:
        """Records that are not yet released. Each side reads the other's counter once, which only grows."""
        if not (0 <= tail <= head <= tail + self._num_slots):
            raise DamagedMemory(
                f"{self._name}: its counters say that {head} records were written and {tail} read, which cannot be "
                f"where {self._num_slots} can wait: something else has written into its memory"
            )
        return head - tail


@dataclass(frozen=True)
class RingSpec:
    """A ring that any actor can open: shared memory at ``path``, or the in-process twin over ``memory``."""

    name: str
    layout: SlotLayout
    num_slots: int = 2
    overflow: Literal["block", "drop"] = "block"
    path: Path | None = None
    memory: bytearray | None = dataclasses.field(default=None, repr=False)

    @property
    def num_bytes(self) -> int:
        """Size of the ring's segment."""
        return Ring.num_bytes(self.layout, self.num_slots)

    def create(self, folder: SharedFolder | None) -> RingSpec:
        """The same ring with memory: a segment of ``folder``, or private memory where that is None.

        Called by the main process, before any child starts.
        """
        if folder is None:
            return dataclasses.replace(self, memory=bytearray(self.num_bytes))
        return dataclasses.replace(self, path=folder.allocate(self.name, self.num_bytes))

    def open(self) -> Ring:
        """Attach to the ring."""
        memory = self.memory if self.path is None else attach(self.path)
        if memory is None:
            raise ValueError(f"ring {self.name} has no memory yet: create() it first")
        return Ring(memory, self.layout, self.num_slots, self.overflow, self.name)
