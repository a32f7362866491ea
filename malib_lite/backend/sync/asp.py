"""Asynchronous parallel: nobody waits."""

from __future__ import annotations

from malib_lite.backend.sync.sync_mode import Aggregate, SyncMode


class ASP(SyncMode):
    """Every gradient is applied as it arrives, and every worker goes on at once on the newest version.

    Each gradient is a version of its own. Staleness has no bound; with one worker this is sequential training.
    """

    def _may_begin(self, lead: int) -> bool:
        return True

    def _ready(self) -> list[Aggregate]:
        return self._arrivals()
