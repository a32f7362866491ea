"""Who has which parameters: the server of a runtime id, and the clients that follow it.

A learner owns the :class:`ParameterServer` of its runtime id: one table per policy with its newest snapshot. Clients
(rollout workers, the main process) follow policies through a *link*: :class:`LocalLink` reads the server's tables in
the same process, :class:`malib_lite.backend.bus.BusLink` follows them over ZeroMQ. Publishing is a hint, never a
barrier: whoever needs a version asks for it until it is there.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Protocol

import numpy as np

from malib_lite.backend.snapshots import Snapshot


class Announcer(Protocol):
    """How a server tells the world; the in-process twin has nobody to tell."""

    def publish(self, snapshot: Snapshot) -> None:
        """Send the snapshot to whoever follows its policy."""

    def serve(self, tables: Mapping[str, Snapshot]) -> None:
        """Answer late joiners and requests, without waiting."""

    def close(self) -> None:
        """Free the sockets."""


class ParameterServer:
    """The newest parameters of every policy of one runtime id."""

    def __init__(self, announcer: Announcer | None = None) -> None:
        self.tables: dict[str, Snapshot] = {}
        self._announcer = announcer

    def set_weights(self, policy_id: str, version: int, arrays: Mapping[str, np.ndarray]) -> Snapshot:
        """Take over new parameters and announce them. The arrays must be the caller's no more.

        Raises:
            ValueError: the version is not newer.
        """
        old = self.tables.get(policy_id)
        if old is not None and version <= old.version:
            raise ValueError(f"{policy_id} is at version {old.version}, cannot become {version}")
        snapshot = Snapshot(policy_id, version, arrays)
        self.tables[policy_id] = snapshot
        if self._announcer is not None:
            self._announcer.publish(snapshot)
        return snapshot

    def forget(self, policy_id: str) -> None:
        """Drop what nobody will ask for any more."""
        self.tables.pop(policy_id, None)

    def get_weights(self, policy_id: str) -> Snapshot:
        """The newest snapshot of a policy."""
        return self.tables[policy_id]

    def serve(self) -> None:
        """Answer whoever asks, without waiting; called whenever the owner has a moment."""
        if self._announcer is not None:
            self._announcer.serve(self.tables)

    def close(self) -> None:
        if self._announcer is not None:
            self._announcer.close()


def recent(snapshot: Snapshot | None, version: int) -> bool:
    """Whether a snapshot is what was asked for: ``version`` or a newer one."""
    return snapshot is not None and snapshot.version >= version


class Link(Protocol):
    """A client's connection to the server of one runtime id."""

    def follow(self, policy_id: str) -> None:
        """Ask to be told of new versions of a policy."""

    def forget(self, policy_id: str) -> None:
        """Stop following a policy and drop what is known of it."""

    def newest(self, policy_id: str) -> Snapshot | None:
        """The newest snapshot that has arrived."""

    def poll(self, policy_id: str, version: int) -> None:
        """Take in what has arrived; where that is not :func:`recent` enough, see that it is asked for."""

    def close(self) -> None:
        """Free the sockets."""


class LocalLink:
    """The in-process twin of the bus: reads the server's tables."""

    def __init__(self, server: ParameterServer) -> None:
        self._server = server

    def follow(self, policy_id: str) -> None: ...

    def forget(self, policy_id: str) -> None: ...

    def newest(self, policy_id: str) -> Snapshot | None:
        return self._server.tables.get(policy_id)

    def poll(self, policy_id: str, version: int) -> None: ...

    def close(self) -> None: ...


class ParameterClient:
    """Follows policies of any runtime id."""

    def __init__(self, links: Mapping[str, Link]) -> None:
        self._links = dict(links)

    def wait_for(self, runtime_id: str, policy_id: str, version: int) -> Generator[None, None, Snapshot]:
        """A task: yields until a snapshot that is :func:`recent` enough is there, then returns it."""
        link = self._links[runtime_id]
        link.follow(policy_id)
        while not recent(snapshot := link.newest(policy_id), version):
            link.poll(policy_id, version)
            if not recent(link.newest(policy_id), version):
                yield
        assert snapshot is not None
        return snapshot

    def newest(self, runtime_id: str, policy_id: str) -> Snapshot | None:
        """The newest snapshot of a policy that is here by now, without waiting."""
        link = self._links[runtime_id]
        link.follow(policy_id)
        link.poll(policy_id, 0)
        return link.newest(policy_id)

    def forget(self, runtime_id: str, policy_id: str) -> None:
        """Stop following a policy."""
        self._links[runtime_id].forget(policy_id)

    def close(self) -> None:
        for link in self._links.values():
            link.close()
