"""Stale synchronous parallel: Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter
Server", NIPS 2013."""

from __future__ import annotations

from collections.abc import Iterable

from malib_lite.backend.sync.sync_mode import Aggregate, SyncMode


class SSP(SyncMode):
    """Every gradient is applied as it arrives; a worker may run ahead of the slowest by at most s iterations.

    The paper lets a worker at clock c read only what holds all updates with a timestamp of at most c - s - 1, and its
    own. As updates are applied on arrival, the first says that no member's clock is below c - s, and the newest
    version, on which a worker always computes, holds its own updates and those of faster workers too.

    A large s is ASP. s = 0 has the barrier of BSP but not its versions: a worker that begins an iteration late may
    already see gradients of that iteration.

    Args:
        workers: as for :class:`SyncMode`.
        staleness: s, in iterations.
    """

    def __init__(self, workers: Iterable[int], staleness: int) -> None:
        super().__init__(workers)
        self.bound = staleness

    def _may_begin(self, lead: int) -> bool:
        return lead <= self.bound

    def _ready(self) -> list[Aggregate]:
        return self._arrivals()
