"""Snapshots, the parameter server, and the bus: late joiners, lost messages, malformed ones."""

import multiprocessing
import time

import numpy as np
import pytest
import zmq

from malib_lite.backend.bus import BusAddress, LocalAddress, TooLarge
from malib_lite.backend.parameter_server import ParameterClient
from malib_lite.backend.snapshots import BadMessage, Snapshot, longest_message
from malib_lite.runtime.arrays import digest_of
from malib_lite.runtime.shared_memory import SharedFolder

LONGEST = 2**18


def arrays(value, size=5):
    return {
        "weight": np.full((2, size), value, np.float32),
        "count": np.array(int(value), np.int64),
        "flag": np.array([True, False]),
    }


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_snapshot_round_trip_and_digest():
    snapshot = Snapshot("policy-0", 3, arrays(1.5))
    header, payload = snapshot.pack()
    again = Snapshot.unpack(header, payload)
    assert (again.policy_id, again.version) == ("policy-0", 3)
    assert same(again.arrays, snapshot.arrays)
    shuffled = dict(reversed(arrays(1.5).items()))
    assert digest_of(again.arrays) == digest_of(shuffled) != digest_of(arrays(1.25))
    with pytest.raises(ValueError):
        again.arrays["weight"][0, 0] = 1.0  # who receives a snapshot cannot change it


@pytest.mark.parametrize(
    "header",
    [
        b"", b"[]", b"{}", b"\x80\x04.",
        b'{"policy_id": "p", "version": 0, "arrays": [["w", "O", [1], 0]]}',
        b'{"policy_id": "p", "version": 0, "arrays": [["w", "<f4", [1000000], 0]]}',
        b'{"policy_id": "p", "version": 0, "arrays": [["w", "<f4", [-1], -4]]}',
    ],
)  # fmt: skip
def test_malformed_messages_are_refused(header):
    with pytest.raises(BadMessage):
        Snapshot.unpack(header, np.zeros(64, np.uint8))


def test_server_versions_only_go_up():
    server = LocalAddress().serve()
    server.set_weights("p", 0, arrays(0))
    server.set_weights("p", 1, arrays(1))
    for version in (0, 1):
        with pytest.raises(ValueError):
            server.set_weights("p", version, arrays(2))
    assert server.get_weights("p").version == 1 and same(server.get_weights("p").arrays, arrays(1))


@pytest.fixture
def bus():
    with SharedFolder() as folder:
        address = BusAddress(folder.endpoint("pub"), folder.endpoint("ask"), LONGEST)
        server, link = address.serve(), address.connect()
        yield address, server, link
        link.close()
        server.close()


def wait_for(server, link, policy_id, version, timeout_s=300.0):
    task = ParameterClient({"r": link}).wait_for("r", policy_id, version)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            next(task)
        except StopIteration as stop:
            return stop.value
        server.serve()
        time.sleep(0.001)
    raise TimeoutError


def test_a_late_joiner_gets_the_newest_version(bus):
    _, server, link = bus
    for version in range(5):
        server.set_weights("p", version, arrays(version))
    snapshot = wait_for(server, link, "p", 0)
    assert snapshot.version == 4 and same(snapshot.arrays, arrays(4))


def test_a_joiner_that_comes_before_the_server_speaks_gets_it_too(bus):
    _, server, link = bus
    link.follow("p")
    time.sleep(0.05)
    server.set_weights("p", 0, arrays(7))
    assert wait_for(server, link, "p", 0).version == 0


def test_topics_do_not_match_by_prefix(bus):
    _, server, link = bus
    server.set_weights("policy-1", 0, arrays(1))
    server.set_weights("policy-10", 0, arrays(10))
    assert wait_for(server, link, "policy-1", 0).arrays["count"] == 1
    assert link.newest("policy-10") is None


def test_what_publish_subscribe_lost_is_asked_for(bus):
    """A slow subscriber: its queue overflows, the newest versions are lost, and it still ends with the newest."""
    _, server, link = bus
    server.set_weights("p", 0, arrays(0, 10_000))
    wait_for(server, link, "p", 0)
    for version in range(1, 500):  # far beyond the high-water mark, while nobody reads
        server.set_weights("p", version, arrays(version, 10_000))
    snapshot = wait_for(server, link, "p", 499)
    assert snapshot.version == 499 and snapshot.arrays["count"] == 499


def test_a_version_that_was_never_published_to_us_comes_by_request(bus):
    """Without any subscription traffic at all, a request alone delivers."""
    _, server, link = bus
    server.set_weights("p", 2, arrays(2))
    link._known["p"] = None  # followed, but never subscribed: as if publish/subscribe were broken
    assert wait_for(server, link, "p", 2).version == 2
    assert link.num_requests >= 1


def test_versions_never_go_back(bus):
    _, _, link = bus
    link._known["p"] = Snapshot("p", 5, arrays(5))
    link._take(Snapshot("p", 4, arrays(4)))
    assert link.newest("p").version == 5
    link._take(Snapshot("p", 6, arrays(6)))
    assert link.newest("p").version == 6


def test_garbage_on_the_sockets_is_no_snapshot_and_stops_nothing_on_the_server(bus):
    address, server, link = bus
    server.set_weights("p", 0, arrays(3))
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.connect(address.answer_at)
        stranger.send_multipart([b"no such policy"])
        stranger.send_multipart([b"\xff\xfe", b"", b"x"])
        time.sleep(0.05)
        server.serve()
        assert wait_for(server, link, "p", 0).version == 0


def test_a_message_that_nobody_takes_closes_its_connection_and_no_other():
    with SharedFolder() as folder:
        address = BusAddress(folder.endpoint("pub"), folder.endpoint("ask"), LONGEST)
        server, link = address.serve(), address.connect()
        server.set_weights("p", 0, arrays(3))
        with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
            stranger.setsockopt(zmq.LINGER, 0)
            stranger.connect(address.answer_at)
            closed = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            stranger.send(bytes(2**22))
            assert closed.poll(300_000), "it was taken"
            stranger.disable_monitor()
            assert wait_for(server, link, "p", 0).version == 0
        link.close()
        server.close()


def test_a_client_takes_no_longer_message_than_parameters_are():
    with SharedFolder() as folder, zmq.Context() as context, context.socket(zmq.XPUB) as stranger:
        stranger.setsockopt(zmq.LINGER, 0)
        address = BusAddress(folder.endpoint("pub"), folder.endpoint("ask"), LONGEST)
        stranger.bind(address.publish_at)
        closed = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        link = address.connect()
        link.follow("p")
        assert stranger.recv() == b"\x01p\n"
        header, payload = Snapshot("p", 0, arrays(0, LONGEST)).pack()
        stranger.send_multipart([b"p\n", header, payload.data])
        assert closed.poll(300_000)
        link.poll("p", 0)
        assert link.newest("p") is None
        stranger.disable_monitor()
        link.close()


def test_parameters_that_no_socket_would_take_are_said(bus):
    _, server, _ = bus
    with pytest.raises(TooLarge, match=r"'p' make a message of .* the run's sockets take 262,144.*--workers 0"):
        server.set_weights("p", 0, arrays(0, LONGEST))


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_no_message_is_longer_than_its_arrays_tell(size):
    some = {f"layer.{n}.é": np.zeros((size, 2), np.float32) for n in range(300)} | {"scalar": np.array(0)}
    longest = longest_message((name, array.nbytes, array.ndim) for name, array in some.items())
    header, payload = Snapshot("policy-1234567/networks", 2**62, some).pack()
    assert max(len(header), payload.nbytes) <= longest <= max(len(header), payload.nbytes) + 2**17


def test_sockets_lie_in_a_private_folder():
    with SharedFolder() as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700


def _publish(address, num_versions):
    server = address.serve()
    for version in range(num_versions):
        server.set_weights("p", version, arrays(version, 1000))
        server.serve()
        time.sleep(0.001)  # so that somebody may join in the middle
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        server.serve()
        time.sleep(0.001)


class Subscriber:
    """Notes every version that it sees."""

    def __init__(self, address):
        self.link, self.seen = address.connect(), []
        self.link.follow("p")

    def look(self):
        self.link.poll("p", 299)
        newest = self.link.newest("p")
        if newest is not None and (not self.seen or newest.version != self.seen[-1]):
            assert (newest.arrays["weight"] == newest.version).all()
            self.seen.append(newest.version)


def look_until(subscribers, version, timeout_s=300.0):
    deadline = time.monotonic() + timeout_s
    while not all(one.seen and one.seen[-1] >= version for one in subscribers):
        assert time.monotonic() < deadline
        for one in subscribers:
            one.look()


def test_between_processes_every_subscriber_sees_rising_versions_and_the_last():
    """P9: some are skipped, none comes back; who joins in the middle or at the end gets the current one."""
    context = multiprocessing.get_context("spawn")
    with SharedFolder() as folder:
        address = BusAddress(folder.endpoint("pub"), folder.endpoint("ask"), LONGEST)
        process = context.Process(target=_publish, args=(address, 300), daemon=True)
        process.start()
        first = Subscriber(address)
        look_until([first], 100)
        current, late = first.seen[-1], Subscriber(address)
        look_until([first, late], 299)
        last = Subscriber(address)
        look_until([last], 299)
        for one in (first, late, last):
            assert all(before < after for before, after in zip(one.seen, one.seen[1:], strict=False))
            one.link.close()
        assert late.seen[0] >= current and last.seen == [299]
        process.kill()
        process.join()
