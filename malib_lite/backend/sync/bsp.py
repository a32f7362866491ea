"""Bulk synchronous parallel: all compute on the same version, a barrier after every iteration."""

from __future__ import annotations

from malib_lite.backend.sync.sync_mode import Aggregate, SyncMode


class BSP(SyncMode):
    """Nobody begins an iteration before all members have completed the one before.

    An iteration's gradients are applied together when the last of them is there. So all members compute iteration i
    on one and the same version: exactly i, less the iterations in which every member was interrupted, after which the
    members go on with the parameters they have.
    """

    def _may_begin(self, lead: int) -> bool:
        return lead == 0

    def _ready(self) -> list[Aggregate]:
        return self._whole_iterations()
