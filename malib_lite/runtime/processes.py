"""Actors in processes of their own, and their supervisor."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cloudpickle

from malib_lite.runtime import child, fork_server
from malib_lite.runtime.actors import ActorSpec, Call
from malib_lite.runtime.board import Board
from malib_lite.runtime.shared_memory import SharedFolder, attach


class ActorFailure(RuntimeError):
    """An actor failed for good. The message names it, says how it ended, and carries its traceback."""


@dataclass
class _Actor:
    """An actor's process as the supervisor sees it."""

    spec: ActorSpec
    index: int
    process: BaseProcess
    pipe: Connection
    restarts_left: int
    ready: bool = False
    call: Call | None = None  # the task it is busy with


class ProcessRuntime:
    """One process per actor. Must be used from the main thread: the children's lives hang on it."""

    def __init__(
        self,
        folder: SharedFolder,
        num_actors: int,
        log_dir: Path,
        preload: Sequence[str] = (),
        hang_timeout_s: float = 300.0,
        on_event: Callable[[str], None] = print,
    ) -> None:
        """
        Args:
            folder: the run's shared folder; the board's segment is made in it.
            num_actors: rows of the board.
            log_dir: where each actor's output goes, one file each.
            preload: what the fork server imports beside its ``MODULES``, unless it runs already.
            hang_timeout_s: an actor that is busy and shows no pulse for so long is taken for hung and killed.
            on_event: told, in a sentence, of everything the user should know.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "processes are started from the main thread only; use serial mode (num_threads=0) elsewhere"
            )
        self._log_dir = log_dir
        self._num_actors = num_actors
        self._board_path = folder.allocate("board", Board.num_bytes(num_actors))
        self.board = Board(attach(self._board_path), num_actors)
        self.replaced: dict[str, int] = {}
        fork_server.start(preload)
        self._context = fork_server.start_method()
        self._hang_timeout_s = hang_timeout_s
        self._on_event = on_event
        self._actors: dict[str, _Actor] = {}

    def start(self, specs: Sequence[ActorSpec]) -> None:
        for index, spec in enumerate(specs):
            process, pipe = self._launch(spec, index)
            self._actors[spec.name] = _Actor(spec, index, process, pipe, spec.restarts)

    def run(self, calls: Mapping[str, Call], watch: Callable[[], None] | None = None) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name, call in calls.items():
            actor = self._actors[name]
            actor.call = call
            self.board.row(actor.index).pulse()
            if actor.ready:
                self._send(actor, call)
        while len(results) < len(calls):
            results.update(self._receive())
            self._end_hung()
            if watch is not None:
                watch()
        return {name: results[name] for name in calls}

    def close(self) -> None:
        """Ask, then terminate, then kill; returns when no process is left."""
        for actor in self._actors.values():
            with contextlib.suppress(OSError):
                actor.pipe.send_bytes(b'{"stop": true}')
        deadline = time.monotonic() + 2.0
        for end in ("join", "terminate", "kill"):
            for actor in self._actors.values():
                if actor.process.is_alive():
                    getattr(actor.process, end)(*([max(0.0, deadline - time.monotonic())] if end == "join" else []))
            if end != "join":
                connection.wait([a.process.sentinel for a in self._actors.values()], timeout=0.2)
                for actor in self._actors.values():
                    actor.process.join(1.0)
        for actor in self._actors.values():
            actor.pipe.close()
        self._actors.clear()

    # -- inside -------------------------------------------------------------------------------------------------

    def _launch(self, spec: ActorSpec, index: int) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        log = self._log_dir / f"{spec.name}.log"
        arguments = (theirs, cloudpickle.dumps(spec), index, self._num_actors, self._board_path, log)
        process = self._context.Process(target=child.main, args=arguments, name=spec.name, daemon=True)  # type: ignore[attr-defined]
        self.board.row(index).pulse()
        with _without_main_module(), fork_server.thread_limits():
            process.start()
        theirs.close()
        return process, ours

    def _send(self, actor: _Actor, call: Call) -> None:
        message = json.dumps({"method": call.method, "arguments": dict(call.arguments)})
        with contextlib.suppress(BrokenPipeError):  # dead already: its sentinel says so, and _receive sees to it
            actor.pipe.send_bytes(message.encode())

    def _receive(self) -> dict[str, Any]:
        """Wait a little for messages and deaths; returns the results that came, by name."""
        results: dict[str, Any] = {}
        waiting: dict[Any, _Actor] = {}
        for actor in self._actors.values():
            waiting[actor.pipe] = actor
            waiting[actor.process.sentinel] = actor
        signalled = connection.wait(list(waiting), timeout=0.1)
        for actor in {id(waiting[s]): waiting[s] for s in signalled}.values():
            message = self._read(actor)
            if message is None:
                if actor.process.sentinel in signalled:
                    self._bury(actor)
            elif "error" in message:
                raise ActorFailure(f"{actor.spec.name} failed: {message['error']}\n\n{message['traceback']}".rstrip())
            elif "ready" in message:
                actor.ready = True
                if actor.call is not None:
                    self._send(actor, actor.call)
            else:
                actor.call = None
                results[actor.spec.name] = message["result"]
        return results

    def _read(self, actor: _Actor) -> dict[str, Any] | None:
        """The next message of the actor, None where there is none or its pipe is closed."""
        try:
            return json.loads(actor.pipe.recv_bytes()) if actor.pipe.poll(0) else None
        except (EOFError, OSError):
            return None

    def _bury(self, actor: _Actor) -> None:
        """An actor's process is gone: start it again if its budget allows, else give up."""
        actor.process.join()
        how = child.how_it_ended(actor.process.exitcode or 0)
        if actor.restarts_left == 0:
            log = self._log_dir / f"{actor.spec.name}.log"
            raise ActorFailure(f"{actor.spec.name} {how}; its last words are in {log}:\n{_tail(log)}")
        actor.restarts_left -= 1
        self.replaced[actor.spec.name] = self.replaced.get(actor.spec.name, 0) + 1
        self._on_event(f"{actor.spec.name} {how}; started again, {actor.restarts_left} restarts left")
        actor.pipe.close()
        actor.ready = False
        actor.process, actor.pipe = self._launch(actor.spec, actor.index)

    def _end_hung(self) -> None:
        for actor in self._actors.values():
            if actor.call is not None and self.board.seconds_since_pulse(actor.index) > self._hang_timeout_s:
                self._on_event(f"{actor.spec.name} has shown no sign of life for {self._hang_timeout_s:.0f} s")
                self.board.row(actor.index).pulse()  # its heir gets the full time
                actor.process.kill()


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep multiprocessing from importing the user's script again in every child.

    Everything a child needs travels by cloudpickle, which carries what is defined in ``__main__`` by value. So a
    script needs no ``if __name__ == "__main__"``, and a notebook works as well.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _tail(path: Path, num_chars: int = 2000) -> str:
    return path.read_text(errors="replace")[-num_chars:] if path.exists() else ""
