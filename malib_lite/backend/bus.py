"""The parameter bus: publish/subscribe over ZeroMQ, with a last-value cache and snapshot requests.

A learner binds two sockets in the run's private folder. On the first (XPUB) it publishes every version, and when a
subscription arrives it sends that policy's newest version again, so a late joiner is never left with nothing. On the
second (ROUTER) it answers requests: publish/subscribe may lose messages (the high-water mark drops the *newest*), so
a client that misses a version asks for it. What arrives is parsed as JSON and raw arrays; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import zmq

from malib_lite.backend.parameter_server import LocalLink, ParameterServer, recent
from malib_lite.backend.snapshots import Snapshot

_HIGH_WATER_MARK = 16  # messages kept for a slow subscriber; it asks for what it missed
_ASK_AFTER_S = 0.02  # how long a version may be missing before it is asked for
_ASK_AGAIN_S = 0.25  # and how long an answer may take before it is asked for again
_LONGEST_NAME = 4096  # bytes of what clients send, which are names of policies


def _topic(policy_id: str) -> bytes:
    # Subscriptions match prefixes: the end mark keeps "policy-1" from matching "policy-10".
    return policy_id.encode() + b"\n"


class TooLarge(ValueError):
    """Parameters that no client would take: ZeroMQ closes the connection by which a longer message comes."""


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, longest: int) -> zmq.Socket[bytes]:
    """A socket that takes messages of up to ``longest`` bytes."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.MAXMSGSIZE, longest)  # where it connects or binds later; the default is no limit
    socket.setsockopt(zmq.LINGER, 0)  # the default waits for ever at exit
    socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
    return socket


class BusAnnouncer:
    """The server's end of the bus. Made in the process that uses it: ZeroMQ does not survive a fork."""

    def __init__(self, publish_at: str, answer_at: str, max_bytes: int) -> None:
        """
        Args:
            max_bytes: of a message that clients take.
        """
        self._max_bytes = max_bytes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._publisher = _socket(self._context, zmq.XPUB, _LONGEST_NAME)
        self._publisher.setsockopt(zmq.XPUB_VERBOSE, 1)  # hear of every subscription, not only of a topic's first
        self._publisher.bind(publish_at)
        self._answerer = _socket(self._context, zmq.ROUTER, _LONGEST_NAME)
        self._answerer.bind(answer_at)

    def publish(self, snapshot: Snapshot) -> None:
        """Send the snapshot.

        Raises:
            TooLarge: nobody would receive it.
        """
        header, payload = snapshot.pack()
        longest = max(len(header), payload.nbytes)
        if longest > self._max_bytes or len(_topic(snapshot.policy_id)) > _LONGEST_NAME:
            raise TooLarge(
                f"the parameters of '{snapshot.policy_id}' make a message of {longest:,} bytes, and the run's sockets "
                f"take {self._max_bytes:,}: make the model smaller, or run it in one process (--workers 0)"
            )
        self._publisher.send_multipart([_topic(snapshot.policy_id), header, payload.data], copy=False)

    def serve(self, tables: Mapping[str, Snapshot]) -> None:
        while self._publisher.poll(0):
            event = self._publisher.recv()
            policy_id = event[1:].rstrip(b"\n").decode(errors="replace")
            if event[:1] == b"\x01" and policy_id in tables:
                self.publish(tables[policy_id])
        questions: dict[tuple[bytes, str], None] = {}  # each once, however often it was asked meanwhile
        while self._answerer.poll(0):
            sender, *question = self._answerer.recv_multipart()
            questions[sender, question[0].decode(errors="replace") if question else ""] = None
        for sender, policy_id in questions:
            if policy_id in tables:  # silence otherwise: the asker asks again
                header, payload = tables[policy_id].pack()
                self._answerer.send_multipart([sender, header, payload.data], copy=False)

    def close(self) -> None:
        self._context.destroy(linger=0)


class BusLink:
    """The client's end of the bus to one runtime id."""

    def __init__(self, publish_at: str, answer_at: str, max_bytes: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._subscriber = _socket(self._context, zmq.SUB, max_bytes)
        self._subscriber.connect(publish_at)
        self._asker = _socket(self._context, zmq.DEALER, max_bytes)
        self._asker.connect(answer_at)
        self._known: dict[str, Snapshot | None] = {}  # every policy that is followed
        self._missing_since: dict[str, float] = {}
        self.num_requests = 0

    def follow(self, policy_id: str) -> None:
        if policy_id not in self._known:
            self._known[policy_id] = None
            self._subscriber.setsockopt(zmq.SUBSCRIBE, _topic(policy_id))

    def forget(self, policy_id: str) -> None:
        if policy_id in self._known:
            self._subscriber.setsockopt(zmq.UNSUBSCRIBE, _topic(policy_id))
            del self._known[policy_id]

    def newest(self, policy_id: str) -> Snapshot | None:
        return self._known.get(policy_id)

    def poll(self, policy_id: str, version: int) -> None:
        while self._subscriber.poll(0):
            _, header, payload = self._subscriber.recv_multipart(copy=False)
            self._take(Snapshot.unpack(header.bytes, payload.buffer))
        while self._asker.poll(0):
            header, payload = self._asker.recv_multipart(copy=False)
            self._take(Snapshot.unpack(header.bytes, payload.buffer))
        if recent(self._known.get(policy_id), version):
            self._missing_since.pop(policy_id, None)
            return
        now = time.monotonic()
        if now > self._missing_since.setdefault(policy_id, now) + _ASK_AFTER_S:
            with contextlib.suppress(zmq.Again):  # nobody takes questions now: ask again later, never wait here
                self._asker.send(policy_id.encode(), zmq.NOBLOCK)
            self.num_requests += 1
            self._missing_since[policy_id] = now + _ASK_AGAIN_S

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _take(self, snapshot: Snapshot) -> None:
        """Versions only ever go up; what is older or not followed is dropped."""
        if snapshot.policy_id not in self._known:
            return
        known = self._known[snapshot.policy_id]
        if known is None or snapshot.version > known.version:
            self._known[snapshot.policy_id] = snapshot


@dataclass(frozen=True)
class BusAddress:
    """Where the parameters of one runtime id are to be had."""

    publish_at: str
    answer_at: str
    max_bytes: int  # of a message: see longest_message

    def serve(self) -> ParameterServer:
        """Bind: called once, in the learner's process."""
        return ParameterServer(BusAnnouncer(self.publish_at, self.answer_at, self.max_bytes))

    def connect(self) -> BusLink:
        """Connect: called by every client, in its own process; the server need not be there yet."""
        return BusLink(self.publish_at, self.answer_at, self.max_bytes)


class LocalAddress:
    """The in-process twin of :class:`BusAddress`."""

    def __init__(self) -> None:
        self._server = ParameterServer()

    def serve(self) -> ParameterServer:
        return self._server

    def connect(self) -> LocalLink:
        return LocalLink(self._server)
