"""From publishing a version to having it applied: 1 MB of weights, four subscribers.

    python benchmarks/parameters.py

Each subscriber process waits for the next version as a rollout worker does, copies it into a policy's parameters, and
notes the time. The clock is the system's monotonic one, which all processes share. Beside it: the same megabyte handed
through four ``multiprocessing.Queue``\\ s, in the same run.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import statistics
import time

import numpy as np

from malib_lite.backend.bus import BusAddress
from malib_lite.backend.parameter_server import ParameterClient
from malib_lite.runtime.shared_memory import SharedFolder

NUM_SUBSCRIBERS, NUM_VERSIONS = 4, 200
SHAPES = {"a": (256, 512), "b": (512,), "c": (240, 512), "d": (8, 512)}  # 1 MB of float32


def _weights(version: int) -> dict[str, np.ndarray]:
    return {name: np.full(shape, version, np.float32) for name, shape in SHAPES.items()}


def _subscribe(address: BusAddress, pipe: multiprocessing.connection.Connection) -> None:
    own = _weights(0)
    client = ParameterClient({"r": address.connect()})
    for version in range(NUM_VERSIONS):
        task, turns = client.wait_for("r", "p", version), 0
        while True:
            try:
                next(task)
            except StopIteration as stop:
                for name, array in stop.value.arrays.items():
                    own[name][...] = array
                pipe.send_bytes(str(time.monotonic_ns()).encode())
                break
            turns += 1
            if turns > 20:  # as runtime.child does
                time.sleep(50e-6 if turns < 200 else 1e-3)
    client.close()


def _take(queue: multiprocessing.Queue, pipe: multiprocessing.connection.Connection) -> None:
    own = _weights(0)
    for _ in range(NUM_VERSIONS):
        for name, array in queue.get().items():
            own[name][...] = array
        pipe.send_bytes(str(time.monotonic_ns()).encode())


def _report(name: str, latencies_ms: list[list[float]]) -> None:
    every = sorted(value for row in latencies_ms for value in row)
    last = [max(row) for row in latencies_ms]
    slow = every[int(len(every) * 0.99)]
    print(
        f"{name:>24}: each subscriber median {statistics.median(every):.2f} ms, 99 % {slow:.2f} ms, "
        f"last of {NUM_SUBSCRIBERS} median {statistics.median(last):.2f} ms"
    )


def main() -> None:
    """Measure and print."""
    context = multiprocessing.get_context("spawn")
    size = sum(array.nbytes for array in _weights(0).values())
    print(f"{size / 2**20:.2f} MiB, {NUM_SUBSCRIBERS} subscribers, {NUM_VERSIONS} versions, one at a time")
    for way in ("parameter bus", "multiprocessing.Queue"):
        with SharedFolder() as folder:
            address = BusAddress(folder.endpoint("pub"), folder.endpoint("ask"))
            pipes, processes, queues = [], [], []
            for _ in range(NUM_SUBSCRIBERS):
                ours, theirs = context.Pipe()
                queues.append(context.Queue())
                arguments = (_subscribe, (address, theirs)) if way == "parameter bus" else (_take, (queues[-1], theirs))
                processes.append(context.Process(target=arguments[0], args=arguments[1]))
                processes[-1].start()
                pipes.append(ours)
            server = address.serve()
            latencies_ms: list[list[float]] = []
            for version in range(NUM_VERSIONS):
                weights = _weights(version)
                started = time.monotonic_ns()
                if way == "parameter bus":
                    server.set_weights("p", version, weights)
                else:
                    for queue in queues:
                        queue.put(weights)
                done = [0] * NUM_SUBSCRIBERS
                while not all(done):
                    server.serve()
                    for i, pipe in enumerate(pipes):
                        if not done[i] and pipe.poll(0):
                            done[i] = int(pipe.recv_bytes())
                if version >= 20:  # the first ones pay for starting
                    latencies_ms.append([(t - started) / 1e6 for t in done])
                time.sleep(0.002)
            for process in processes:
                process.join()
            server.close()
        _report(way, latencies_ms)


if __name__ == "__main__":
    main()
