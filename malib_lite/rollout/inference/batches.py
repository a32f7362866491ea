"""Which workers' requests are answered by one forward pass: state machines without a clock or a process.

Both know K workers, each with at most one request at a time. :meth:`observe` tells what a worker is about,
:meth:`take` gives the workers of the next batch. Time is an argument, in seconds.
"""

from __future__ import annotations

from typing import Protocol


class Batches(Protocol):
    """Forms batches of one arena's requests."""

    def observe(self, worker: int, round_number: int, asks: bool, is_over: bool, now: float) -> None:
        """What is known of a worker by now.

        Args:
            round_number: of its request, or the least that its next one can have.
            asks: it has a request that :meth:`take` has not given yet.
            is_over: it asks nothing more.
        """

    def take(self, now: float) -> list[int]:
        """The workers of a batch that is due, in ascending order; none where there is none."""


class LockstepBatches:
    """Full batches only: what is in a batch depends on what was asked, never on when.

    The workers stand in fixed groups of ``size``, in their order. A group's batch is the requests of all its workers
    that are in its earliest round; those that are past that round ask nothing in it, so nobody is waited for in vain.
    A batch is of one round, so it is of one version of each learner's parameters.
    """

    def __init__(self, num_workers: int, size: int) -> None:
        self._groups = [range(i, min(i + size, num_workers)) for i in range(0, num_workers, size)]
        self._round = [0] * num_workers
        self._asks = [False] * num_workers

    def observe(self, worker: int, round_number: int, asks: bool, is_over: bool, now: float) -> None:
        self._round[worker] = round_number
        self._asks[worker] = asks

    def take(self, now: float) -> list[int]:
        for group in self._groups:
            earliest = min(self._round[worker] for worker in group)
            batch = [worker for worker in group if self._round[worker] == earliest]
            if all(self._asks[worker] for worker in batch):
                for worker in batch:
                    self._asks[worker] = False
                return batch
        return []


class TimelyBatches:
    """A batch is due when ``size`` workers ask, or all that still may, or when one has waited for ``deadline_s``."""

    def __init__(self, num_workers: int, size: int, deadline_s: float) -> None:
        self._size = size
        self._deadline_s = deadline_s
        self._present = set(range(num_workers))
        self._since: dict[int, float] = {}  # when those that wait began to

    def observe(self, worker: int, round_number: int, asks: bool, is_over: bool, now: float) -> None:
        if is_over:
            self._present.discard(worker)
        else:
            self._present.add(worker)
        if asks:
            self._since.setdefault(worker, now)
        else:
            self._since.pop(worker, None)

    def take(self, now: float) -> list[int]:
        waiting = sorted(self._since, key=lambda worker: (self._since[worker], worker))[: self._size]
        if not waiting:
            return []
        full = len(waiting) == self._size or self._since.keys() >= self._present
        if not full and now < self._since[waiting[0]] + self._deadline_s:
            return []
        for worker in waiting:
            del self._since[worker]
        return sorted(waiting)
