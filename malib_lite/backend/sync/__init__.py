"""Sync modes: who may begin an iteration, on which version, and what is applied when. Pure state machines."""

from __future__ import annotations

from collections.abc import Iterable

from malib_lite.backend.sync.asp import ASP
from malib_lite.backend.sync.bap import BAP
from malib_lite.backend.sync.bsp import BSP
from malib_lite.backend.sync.ssp import SSP
from malib_lite.backend.sync.sync_mode import Aggregate, Assignment, SyncMode
from malib_lite.config import ConfigError, suggest

__all__ = ["ASP", "BAP", "BSP", "SSP", "SYNC_MODES", "Aggregate", "Assignment", "SyncMode", "make_sync"]

_UNBOUNDED: dict[str, type[BSP] | type[ASP]] = {"bsp": BSP, "asp": ASP}
_BOUNDED: dict[str, type[BAP] | type[SSP]] = {"bap": BAP, "ssp": SSP}
SYNC_MODES = (*_UNBOUNDED, *_BOUNDED)


def make_sync(name: str, workers: Iterable[int], staleness: int | None = None) -> SyncMode:
    """The sync mode ``name`` for ``workers``.

    Args:
        name: one of ``SYNC_MODES``.
        workers: numbers of the first members.
        staleness: S of "bap" and "ssp", at least 0; "bsp" and "asp" have none.

    Raises:
        ConfigError: an unknown mode, a bound that is missing or negative, or one for a mode without.
    """
    if name in _BOUNDED:
        if staleness is None or staleness < 0:
            raise ConfigError(f"staleness: '{name}' needs a bound of 0 or more iterations, not {staleness}")
        return _BOUNDED[name](workers, staleness)
    if name in _UNBOUNDED:
        if staleness is not None:
            raise ConfigError(f"staleness: '{name}' has no bound to set, not {staleness}; 'bap' and 'ssp' have one")
        return _UNBOUNDED[name](workers)
    raise ConfigError(f"sync: unknown mode '{name}': {suggest(name, SYNC_MODES)}")
