"""A mailbox: one asker, one server, at most one question at a time, over shared or private memory.

The asker writes a request and raises a counter, the server writes the answer and makes its own counter equal. Each
counter is written by one side alone and only grows, and everything that either side must know of the other lies here:
either may be killed at any point, and whoever takes over goes on. A request that was not answered is answered again;
what answers a predecessor's request is never taken for the answer to another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from malib_lite.backend.ring import DamagedMemory, Slot, SlotLayout, fence
from malib_lite.runtime.shared_memory import SharedFolder, attach

_LINE = 8  # words of a cache line: what the two sides write does not share one
_ASKED, _ROUND, _OVER, _ANSWERED = 0, 1, 2, _LINE
_COUNTERS = 2 * _LINE * 8  # bytes


class Mailbox:
    """``requests`` and ``answers`` hold a slot for each topic. A topic with ``rows`` 0 in its slot is not asked for."""

    def __init__(
        self,
        memory: Any,
        requests: Mapping[str, SlotLayout],
        answers: Mapping[str, SlotLayout],
        name: str = "mailbox",
    ) -> None:
        """
        Args:
            memory: writable buffer of at least :meth:`num_bytes`, zeros where the mailbox is new.
            requests, answers: layouts by topic.
            name: of the mailbox, for messages.
        """
        self._name = name
        self._counters = np.frombuffer(memory, np.int64, _COUNTERS // 8)
        start = _COUNTERS
        self.requests: dict[str, Slot] = {}
        self.answers: dict[str, Slot] = {}
        for slots, layouts in ((self.requests, requests), (self.answers, answers)):
            for topic, layout in layouts.items():
                slots[topic] = Slot(memory, start, layout, name)
                start += layout.num_bytes

    @staticmethod
    def num_bytes(requests: Mapping[str, SlotLayout], answers: Mapping[str, SlotLayout]) -> int:
        """Memory that a mailbox needs."""
        return _COUNTERS + sum(layout.num_bytes for side in (requests, answers) for layout in side.values())

    @property
    def asked(self) -> int:
        """Number of the newest request, from 1; 0 while there was none.

        Raises:
            DamagedMemory: the counters cannot be right.
        """
        asked, answered = int(self._counters[_ASKED]), int(self._counters[_ANSWERED])
        if not 0 <= answered <= asked <= answered + 1:
            raise DamagedMemory(
                f"{self._name}: its counters say that {asked} requests were made and {answered} answered, but there is "
                "one at a time: something else has written into its memory"
            )
        fence()  # the counter is read before what it announces
        return asked

    @property
    def answered(self) -> int:
        """Number of the newest request that has been answered."""
        answered = int(self._counters[_ANSWERED])
        fence()
        return answered

    @property
    def is_open(self) -> bool:
        """Whether the newest request still waits for its answer. The request must not be touched meanwhile."""
        return self.asked != self.answered

    @property
    def round(self) -> int:
        """In which round the asker is: a request is of the round that is read *after* :attr:`asked`, or of an earlier
        one that has been answered."""
        return int(self._counters[_ROUND])

    def is_over(self, leg: int) -> bool:
        """Whether the asker will ask nothing more in ``leg``."""
        return int(self._counters[_OVER]) > leg

    # -- asker --------------------------------------------------------------------------------------------------

    def enter(self, round_number: int) -> None:
        """Say that whatever comes is of this round: nothing is asked any more in earlier ones."""
        self._counters[_ROUND] = round_number
        fence()

    def ask(self) -> None:
        """Send what was written to ``requests``."""
        fence()  # our writes come before the counter that announces them
        self._counters[_ASKED] += 1

    def end(self, leg: int) -> None:
        """Say that nothing more is asked in ``leg``; legs are numbered upwards, from 0."""
        self._counters[_OVER] = leg + 1

    # -- server -------------------------------------------------------------------------------------------------

    def reply(self, number: int) -> None:
        """Send what was written to ``answers``, as the answer to request ``number``."""
        fence()
        self._counters[_ANSWERED] = number


@dataclass(frozen=True)
class MailboxSpec:
    """A mailbox that any actor can open: shared memory at ``path``, or the in-process twin over ``memory``."""

    name: str
    requests: Mapping[str, SlotLayout]
    answers: Mapping[str, SlotLayout]
    path: Path | None = None
    memory: bytearray | None = dataclasses.field(default=None, repr=False)

    @property
    def num_bytes(self) -> int:
        """Size of the mailbox's segment."""
        return Mailbox.num_bytes(self.requests, self.answers)

    def create(self, folder: SharedFolder | None) -> MailboxSpec:
        """The same mailbox with memory: a segment of ``folder``, or private memory where that is None."""
        if folder is None:
            return dataclasses.replace(self, memory=bytearray(self.num_bytes))
        return dataclasses.replace(self, path=folder.allocate(self.name, self.num_bytes))

    def open(self) -> Mailbox:
        """Attach to the mailbox."""
        memory = self.memory if self.path is None else attach(self.path)
        if memory is None:
            raise ValueError(f"mailbox {self.name} has no memory yet: create() it first")
        return Mailbox(memory, self.requests, self.answers, self.name)
