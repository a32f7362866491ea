"""A process that works for another one in lockstep: asked, it does one thing on shared memory, and answers.

Made for what must not take its owner down with it: simulators that crash, hang or leak. Any process may have helpers,
rollout workers too, which may not start processes by multiprocessing; so they are started with ``subprocess``. The
memory is anonymous: it has no name that could outlive a crash, and ends with the last process that maps it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from malib_lite.runtime.child import how_it_ended
from malib_lite.runtime.fork_server import THREAD_LIMITS

_START = "from malib_lite.runtime.helper import main; main()"


class HelperDied(RuntimeError):
    """The helper's process is gone, or was hung and has been killed; the message says how it ended."""


class HelperError(RuntimeError):
    """What the helper was asked to do raised an exception; the message holds its traceback."""


class AnonymousMemory:
    """Zeros that several processes map, without a name."""

    def __init__(self, num_bytes: int) -> None:
        if hasattr(os, "memfd_create"):
            self._descriptor = os.memfd_create("malib_lite")
        else:
            with tempfile.TemporaryFile() as file:
                self._descriptor = os.dup(file.fileno())
        os.ftruncate(self._descriptor, num_bytes)
        self.memory = mmap.mmap(self._descriptor, num_bytes)

    def fileno(self) -> int:
        """The descriptor by which a helper maps it."""
        return self._descriptor

    def close(self) -> None:
        """Give the descriptor back; the mapping lives as long as arrays refer to it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Helper:
    """A running helper.

    ``factory(memory, **arguments)`` is called in its process and gives the object whose methods (without arguments or
    results) :meth:`ask` names.
    """

    def __init__(
        self, name: str, factory: Callable[..., Any], arguments: Mapping[str, Any], memory: AnonymousMemory
    ) -> None:
        self.name = name
        work = cloudpickle.dumps((factory, dict(arguments)))  # before anything is started: it may be refused
        self._pipe, theirs = connection.Pipe()
        descriptors = (theirs.fileno(), memory.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *map(str, descriptors), str(os.getpid())],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **THREAD_LIMITS},
        )
        theirs.close()
        with contextlib.suppress(OSError):  # it may be dead already: the first answer will tell
            self._pipe.send_bytes(json.dumps(list(map(str, sys.path))).encode())
            self._pipe.send_bytes(work)
        self._asked = time.monotonic()

    def ask(self, method: str) -> None:
        """Have it begin; what became of it, :meth:`answer` says."""
        self._asked = time.monotonic()
        with contextlib.suppress(OSError):
            self._pipe.send_bytes(method.encode())

    def answer(self, timeout_s: float) -> None:
        """Wait until it has done what it was asked. The first answer says that it has started.

        Raises:
            HelperDied: it has died, or took longer than ``timeout_s`` since it was asked and was killed.
            HelperError: it failed; it has ended.
        """
        try:
            if not self._pipe.poll(max(0.0, self._asked + timeout_s - time.monotonic())):
                self.kill()
                raise HelperDied(f"{self.name} gave no answer for {timeout_s:.0f} s and was killed")
            answer = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            self.kill()
            raise HelperDied(f"{self.name} {how_it_ended(self._process.returncode)}") from None
        if answer is not None:
            self.close()
            raise HelperError(answer["error"] + "\n\n" + answer["traceback"])

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)  # one that died by itself keeps its own exit code
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def dismiss(self) -> None:
        """Let it end, without waiting for it."""
        self._pipe.close()  # it reads the end of the pipe

    def close(self) -> None:
        """Let it end; it is killed if it does not."""
        self.dismiss()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Entry point of a helper's process."""
    pipe_descriptor, memory_descriptor, owner = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process decides
    _die_with(owner)
    pipe = Connection(pipe_descriptor)
    service: Any = None
    try:
        sys.path[:] = json.loads(pipe.recv_bytes())
        factory, arguments = cloudpickle.loads(pipe.recv_bytes())  # from the process that started this one
        service = factory(mmap.mmap(memory_descriptor, 0), **arguments)
        while True:
            pipe.send_bytes(b"null")
            getattr(service, pipe.recv_bytes().decode())()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the owner has closed the pipe or is gone
    except Exception as error:
        report = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        with contextlib.suppress(OSError):
            pipe.send_bytes(json.dumps(report).encode())
        sys.exit(1)
    finally:
        if service is not None:
            service.close()


def _die_with(owner: int) -> None:
    """Leave no orphan, even one that hangs in a simulator when its owner is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != owner:  # it died before that was in force
        os._exit(1)
    if sys.platform != "linux":
        threading.Thread(target=_watch, args=(owner,), daemon=True).start()


def _watch(owner: int) -> None:
    while os.getppid() == owner:
        threading.Event().wait(1.0)
    os._exit(1)
