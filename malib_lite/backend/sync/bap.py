"""Bounded asynchronous parallel, as MALib's documentation describes it ("Distributed strategies", section 4.2)."""

from __future__ import annotations

from collections.abc import Iterable

from malib_lite.backend.sync.sync_mode import Aggregate, SyncMode


class BAP(SyncMode):
    """Whole iterations are applied; a worker may run ahead of the slowest by at most S iterations meanwhile.

    An iteration's gradients are applied together when every member has completed it. A worker that has submitted takes
    a fresher version if there is one; if not, it goes on with its cached copy, which its own gradient has not changed,
    as long as the iteration it has just submitted is less than S ahead of the slowest member's. That is to say: as
    long as the next one is at most S ahead. Where there is a fresher version this holds by itself, for the slowest
    clock has then risen since the worker last began. So one rule covers both, and the version is always the newest.

    S = 0 is BSP. The aggregates come at the pace of the slowest member whatever S is: a large S evens out delays that
    come and go, a worker that is always slow is overcome by interruptions alone.

    Args:
        workers: as for :class:`SyncMode`.
        staleness: S, in iterations.
    """

    def __init__(self, workers: Iterable[int], staleness: int) -> None:
        super().__init__(workers)
        self.bound = staleness

    def _may_begin(self, lead: int) -> bool:
        return lead <= self.bound

    def _ready(self) -> list[Aggregate]:
        return self._whole_iterations()
