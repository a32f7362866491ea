"""The ring: enumerated as a state machine, then between real processes that are killed."""

import itertools
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from malib_lite.backend.ring import DamagedMemory, Ring, RingSpec, SlotLayout
from malib_lite.contracts.data import Field
from malib_lite.runtime.shared_memory import SharedFolder

LAYOUT = SlotLayout({"a": Field((3,), np.dtype(np.int64)), "b": Field((2, 2), np.dtype(np.float32))})


def make_ring(num_slots=2, overflow="block", layout=LAYOUT):
    return Ring(bytearray(Ring.num_bytes(layout, num_slots)), layout, num_slots, overflow)


def put(ring, value):
    slot = ring.try_reserve()
    if slot is None:
        return False
    slot.arrays["a"][:] = value
    slot.write_meta(sequence=value, rows=3)
    ring.commit()
    return True


def take(ring):
    slot = ring.try_read()
    if slot is None:
        return None
    value = slot.arrays["a"].copy()
    assert (value == slot.meta["sequence"]).all()
    ring.release()
    return int(value[0])


def test_layout_is_aligned_and_arrays_do_not_overlap():
    ring = make_ring()
    slot = ring.try_reserve()
    slot.arrays["a"][:] = -1
    slot.arrays["b"][:] = 0.5
    slot.write_meta(sequence=7, rows=1, worker=2, policy_version=3, env_steps=4)
    assert (slot.arrays["a"] == -1).all() and (slot.arrays["b"] == 0.5).all()
    assert slot.meta == {"sequence": 7, "rows": 1, "worker": 2, "policy_version": 3, "env_steps": 4}
    assert all(offset % 64 == 0 for offset in LAYOUT.offsets().values())
    assert slot.arrays["a"].ctypes.data % 8 == 0


def test_order_and_back_pressure():
    ring = make_ring(num_slots=3)
    assert [put(ring, i) for i in range(4)] == [True, True, True, False]
    assert [take(ring) for _ in range(4)] == [0, 1, 2, None]
    assert (ring.head, ring.tail, ring.dropped) == (3, 3, 0)


def test_a_dropping_ring_never_blocks_and_counts():
    ring = make_ring(num_slots=2, overflow="drop")
    assert all(put(ring, i) for i in range(5))
    assert ring.dropped == 3
    assert [take(ring), take(ring), take(ring)] == [0, 1, None]  # what was committed is never overwritten
    put(ring, 9)
    assert take(ring) == 9


def producer_steps(ring, values):
    """A producer in its smallest steps; each yield is a point where it may be interrupted or killed."""
    for value in values:
        while (slot := ring.try_reserve()) is None:
            yield
        for i in range(3):
            slot.arrays["a"][i] = value
            yield
        slot.write_meta(sequence=value, rows=3)
        yield
        ring.commit()
        yield


def consumer_steps(ring, out):
    while True:
        slot = ring.try_read()
        if slot is None:
            yield
            continue
        first = int(slot.arrays["a"][0])
        yield
        rest = slot.arrays["a"][1:].tolist()
        yield
        assert rest == [first, first] and slot.meta["sequence"] == first, "a torn record was read"
        out.append(first)
        ring.release()
        yield


@pytest.mark.parametrize("num_slots", [1, 2])
@pytest.mark.parametrize("overflow", ["block", "drop"])
def test_every_interleaving_delivers_whole_records_in_order(num_slots, overflow):
    """All 2^12 orders of the first steps of producer and consumer, each run to its end."""
    for schedule in itertools.product((0, 1), repeat=12):
        ring, out = make_ring(num_slots, overflow), []
        actors = (producer_steps(ring, [5, 6, 7]), consumer_steps(ring, out))
        for who in (*schedule, *[0, 1] * 30):
            next(actors[who], None)
        assert out == sorted(out) and set(out) <= {5, 6, 7}
        assert len(out) + ring.dropped == 3
        if overflow == "block":
            assert out == [5, 6, 7]


@pytest.mark.parametrize("killed_after", range(12))
def test_a_producer_killed_at_any_step_has_published_nothing_torn(killed_after):
    ring, out = make_ring(2), []
    producer = producer_steps(ring, [5, 6])
    for _ in range(killed_after):
        next(producer, None)
    committed = ring.head
    heir = producer_steps(ring, [8])  # its successor goes on where the counter stands
    consumer = consumer_steps(ring, out)
    for _ in range(30):
        next(heir, None)
        next(consumer)
    assert out == [*[5, 6][:committed], 8]


BIG = SlotLayout({"data": Field((16_384,), np.dtype(np.int64))})  # 128 KiB: long enough to be killed within


def produce_forever(spec):
    ring = spec.open()
    sequence = ring.head
    while True:
        slot = ring.try_reserve()
        if slot is not None:
            slot.arrays["data"][:] = sequence
            slot.write_meta(sequence=sequence)
            ring.commit()
            sequence += 1


def test_between_processes_killed_producers_tear_nothing():
    context = multiprocessing.get_context("spawn")
    with SharedFolder() as folder:
        spec = RingSpec("ring", BIG, num_slots=2).create(folder)
        ring, expected = spec.open(), 0
        for _ in range(3):
            process = context.Process(target=produce_forever, args=(spec,))
            process.start()
            deadline = time.monotonic() + 300
            for _ in range(2000):
                while (slot := ring.try_read()) is None:
                    assert time.monotonic() < deadline
                data = slot.arrays["data"]
                assert slot.meta["sequence"] == expected
                assert data[0] == data[-1] == expected and (data == expected).all(), "torn record"
                ring.release()
                expected += 1
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            while (slot := ring.try_read()) is not None:  # what it had committed is whole
                assert (slot.arrays["data"] == expected).all()
                ring.release()
                expected += 1


def test_a_ring_without_memory_says_so():
    with pytest.raises(ValueError, match="create"):
        RingSpec("ring", LAYOUT).open()


@pytest.mark.parametrize(("head", "tail"), [(1, 2), (3, 0), (-1, 0), (0, -1), (2**62, 0), (-(2**63), 2**62)])
def test_counters_that_cannot_be_are_said(head, tail):
    ring = RingSpec("ring-3-1", LAYOUT, num_slots=2).create(None).open()
    ring._counters[0], ring._counters[8] = head, tail
    for use in (ring.try_reserve, ring.try_read):
        with pytest.raises(DamagedMemory, match=f"ring-3-1: .* {head} records .* {tail} read"):
            use()


@pytest.mark.parametrize("rows", [-1, 4, 2**62])
def test_a_number_of_rows_that_cannot_be_is_said(rows):
    ring = RingSpec("ring-3-1", LAYOUT, num_slots=2).create(None).open()
    slot = ring.try_reserve()
    slot.write_meta(rows=rows)
    with pytest.raises(DamagedMemory, match=f"ring-3-1: .* {rows} rows, it can have 0 to 3"):
        slot.num_rows(3)
    slot.write_meta(rows=3)
    assert slot.num_rows(3) == 3
