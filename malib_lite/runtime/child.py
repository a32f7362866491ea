"""What runs inside an actor's process: wait for a task, run it, answer."""

from __future__ import annotations

import faulthandler
import io
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from malib_lite.runtime.actors import Service
from malib_lite.runtime.board import Board, Row
from malib_lite.runtime.files import UnwrittenFile
from malib_lite.runtime.shared_memory import attach


def main(pipe: Connection, packed: bytes, index: int, num_actors: int, board_path: Path, log_path: Path) -> None:
    """Entry point of an actor's process. ``packed`` is the cloudpickled ActorSpec from our own main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent(board_path.parent)
    log = _open_log(log_path)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    faulthandler.enable(log)
    board = Board(attach(board_path), num_actors)
    row = board.row(index)
    service: Service | None = None
    try:
        import cloudpickle
        import torch

        row.pulse()
        spec = cloudpickle.loads(packed)
        torch.set_num_threads(spec.num_threads)
        print(f"{spec.name}: process {os.getpid()}, started by {os.getppid()}")
        service = spec.factory(row, **spec.arguments)
        _serve(pipe, service, row)
    except _MainIsGone:
        pass
    except BaseException as error:
        report = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        log.write(report)
        if isinstance(error, UnwrittenFile):  # which says all there is to say
            _send(pipe, {"error": str(error), "traceback": ""})
        else:
            _send(pipe, {"error": f"{type(error).__name__}: {error}", "traceback": report})
        sys.exit(1)
    finally:
        if service is not None:
            service.close()


class _MainIsGone(Exception):
    """The main process has ended or closed our pipe."""


class _Log(io.FileIO):
    """A log file. What it cannot take, since the disk is full, is dropped: a log is worth no run."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def _open_log(path: Path) -> io.TextIOWrapper:
    """The log, written line by line; nowhere, if it cannot be made."""
    try:
        file = _Log(path, "a")
    except OSError:
        file = _Log(os.devnull, "a")
    return io.TextIOWrapper(io.BufferedWriter(file), "utf-8", "backslashreplace", line_buffering=True)


def _serve(pipe: Connection, service: Service, row: Row) -> None:
    """Answer calls until told to stop."""
    _send(pipe, {"ready": True})
    while True:
        while not _has_message(pipe):
            service.idle()
            row.pulse()
        message = json.loads(_receive(pipe))
        if "stop" in message:
            return
        task = getattr(service, message["method"])(**message["arguments"])
        _send(pipe, {"result": _run_to_end(task, service, row)})


def _run_to_end(task: Any, service: Service, row: Row) -> Any:
    """Resume the task until it returns; sleep a little, then longer, while it waits."""
    waits, work = 0, row.work()
    while True:
        try:
            next(task)
        except StopIteration as stop:
            return stop.value
        before, work = work, row.work()
        waits = waits + 1 if work == before else 0  # a task that got something done begins a new wait
        service.idle()
        row.pulse()
        if waits > 20:  # never spin for long: there may be fewer cores than actors
            time.sleep(50e-6 if waits < 200 else 1e-3)


def _send(pipe: Connection, message: dict[str, Any]) -> None:
    """Answer in JSON: nothing that comes through a pipe is ever unpickled."""
    try:
        pipe.send_bytes(json.dumps(message).encode())
    except (BrokenPipeError, ConnectionResetError):
        raise _MainIsGone from None


def _has_message(pipe: Connection) -> bool:
    """Wait a little for a message; wakes at once when one comes."""
    try:
        return pipe.poll(0.002)
    except (EOFError, OSError):
        raise _MainIsGone from None


def _receive(pipe: Connection) -> bytes:
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError):
        raise _MainIsGone from None


def _die_with_parent(folder: Path) -> None:
    """Leave no orphan: end when the main process ends, however it ended, and remove what only it would have removed."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def how_it_ended(exit_code: int) -> str:
    """What a process's exit code says, as the end of a sentence."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    names = {number.value: number.name for number in signal.Signals}
    how = f"was killed by {names.get(-exit_code, f'signal {-exit_code}')}"
    if exit_code == -signal.SIGKILL:
        how += " (if nobody did that, the system was out of memory)"
    return how
