"""Ring throughput between two processes, beside what else could carry the data, all in one run.

    python benchmarks/ring.py

The limit is a bare loop of two copies through shared memory (in, out) with the least synchronisation there can be. A
ring of ours also fills the slot and copies it out again, so that both move the same bytes. ``multiprocessing.Queue``
and ZeroMQ (PUSH/PULL over ipc) carry the same numpy arrays. Every way runs several times in turn; the medians count.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import zmq

from malib_lite.backend.ring import RingSpec, SlotLayout
from malib_lite.contracts.data import Field
from malib_lite.runtime.shared_memory import SharedFolder, attach

SIZES = {"1 KB": 1 << 10, "64 KB": 1 << 16, "1 MB": 1 << 20}
BYTES = {"bare": 1 << 30, "ring": 1 << 30, "zeromq": 1 << 28, "queue": 1 << 26}  # moved per measurement, at the most
MOST = {"bare": 20_000, "ring": 20_000, "zeromq": 20_000, "queue": 5_000}  # messages per measurement, at the most
REPEATS = 5
NUM_SLOTS = 4


def _wait(turns: int) -> int:
    if turns > 100:
        time.sleep(20e-6)
    return turns + 1


class Ring:
    """Ours."""

    def __init__(self, folder: SharedFolder, size: int, number: int) -> None:
        layout = SlotLayout({"data": Field((size,), np.dtype(np.uint8))})
        self.spec = RingSpec(f"ring{number}", layout, NUM_SLOTS).create(folder)

    def produce(self, data: np.ndarray, count: int, until_received: Callable[[], object]) -> None:
        ring = self.spec.open()
        for _ in range(count):
            turns = 0
            while (slot := ring.try_reserve()) is None:
                turns = _wait(turns)
            slot.arrays["data"][:] = data
            ring.commit()

    def consume(self, out: np.ndarray, count: int) -> None:
        ring = self.spec.open()
        for _ in range(count):
            turns = 0
            while (slot := ring.try_read()) is None:
                turns = _wait(turns)
            out[:] = slot.arrays["data"]
            ring.release()


class Bare:
    """Two copies and two counters: what shared memory can do at the best from Python."""

    def __init__(self, folder: SharedFolder, size: int, number: int) -> None:
        self.size = size
        self.path = folder.allocate(f"bare{number}", 128 + NUM_SLOTS * size)

    def _open(self) -> tuple[np.ndarray, list[np.ndarray]]:
        memory = attach(self.path)
        counters = np.frombuffer(memory, np.int64, 16)
        return counters, [np.frombuffer(memory, np.uint8, self.size, 128 + i * self.size) for i in range(NUM_SLOTS)]

    def produce(self, data: np.ndarray, count: int, until_received: Callable[[], object]) -> None:
        counters, slots = self._open()
        for i in range(count):
            turns = 0
            while i - counters[8] >= NUM_SLOTS:
                turns = _wait(turns)
            slots[i % NUM_SLOTS][:] = data
            counters[0] = i + 1

    def consume(self, out: np.ndarray, count: int) -> None:
        counters, slots = self._open()
        for i in range(count):
            turns = 0
            while counters[0] <= i:
                turns = _wait(turns)
            out[:] = slots[i % NUM_SLOTS]
            counters[8] = i + 1


class Queue:
    """multiprocessing.Queue."""

    def __init__(self, folder: SharedFolder, size: int, number: int) -> None:
        self.queue = multiprocessing.get_context("spawn").Queue(maxsize=NUM_SLOTS)

    def produce(self, data: np.ndarray, count: int, until_received: Callable[[], object]) -> None:
        for _ in range(count):
            self.queue.put(data)
        self.queue.close()
        self.queue.join_thread()

    def consume(self, out: np.ndarray, count: int) -> None:
        for _ in range(count):
            out[:] = self.queue.get()


class ZeroMQ:
    """PUSH/PULL over ipc."""

    def __init__(self, folder: SharedFolder, size: int, number: int) -> None:
        self.endpoint = f"ipc://{tempfile.mkdtemp()}/z"

    def produce(self, data: np.ndarray, count: int, until_received: Callable[[], object]) -> None:
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.set_hwm(NUM_SLOTS)
            socket.connect(self.endpoint)
            for _ in range(count):
                socket.send(data, copy=len(data) < 65536)
            until_received()  # closing earlier loses the last messages

    def consume(self, out: np.ndarray, count: int) -> None:
        with zmq.Context() as context, context.socket(zmq.PULL) as socket:
            socket.set_hwm(NUM_SLOTS)
            socket.bind(self.endpoint)
            for _ in range(count):
                out[:] = np.frombuffer(socket.recv(copy=False).buffer, np.uint8)


WAYS = {"bare": Bare, "ring": Ring, "queue": Queue, "zeromq": ZeroMQ}


def _produce(
    way: Bare | Ring | Queue | ZeroMQ, size: int, count: int, pipe: multiprocessing.connection.Connection
) -> None:
    data = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    pipe.send(None)
    pipe.recv()
    way.produce(data, count, pipe.recv)


def measure(name: str, size: int, number: int) -> float:
    """Bytes per second."""
    context = multiprocessing.get_context("spawn")
    count = min(MOST[name], BYTES[name] // size)
    with SharedFolder() as folder:
        way = WAYS[name](folder, size, number)
        ours, theirs = context.Pipe()
        process = context.Process(target=_produce, args=(way, size, count, theirs))
        process.start()
        ours.recv()
        out = np.empty(size, np.uint8)
        ours.send(None)
        started = time.perf_counter()
        way.consume(out, count)
        taken = time.perf_counter() - started
        ours.send(None)
        process.join()
    return count * size / taken


def main() -> None:
    """Measure and print the table."""
    print(f"median of {REPEATS} runs, GB/s (messages/s)\n")
    print(
        f"{'size':>6}"
        + "".join(f"{name:>22}" for name in WAYS)
        + f"{'ring/bare':>12}{'ring/queue':>12}{'ring/zeromq':>12}"
    )
    for label, size in SIZES.items():
        runs: dict[str, list[float]] = {name: [] for name in WAYS}
        for repeat in range(REPEATS):
            for name in WAYS:
                runs[name].append(measure(name, size, repeat))
        speed = {name: statistics.median(values) for name, values in runs.items()}
        cells = "".join(f"{v / 1e9:>11.2f} {f'({v / size:,.0f})':>10}" for v in speed.values())
        ratios = "".join(f"{statistics.median(a / b for a, b in zip(runs['ring'], runs[other], strict=True)):>12.2f}"
                         for other in ("bare", "queue", "zeromq"))  # fmt: skip
        print(f"{label:>6}{cells}{ratios}", flush=True)


if __name__ == "__main__":
    main()
