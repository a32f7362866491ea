"""Actors: what runs beside what, told apart from where it runs.

A *service* is an object whose public methods are **tasks**: generators that do their work in plain loops and
``yield`` whenever they cannot go on yet (a ring is full, a version has not arrived). What a task returns must be
made of JSON's types. Two runtimes drive the same services:

- :class:`SerialRuntime` resumes one task after the other in this process. It is the definition of every run.
- :class:`malib_lite.runtime.processes.ProcessRuntime` gives each service a process of its own.

Under BSP what a task computes depends only on what it waited for, never on who was resumed first: both give the
same numbers to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from malib_lite.runtime.board import Board, Row

Task = Generator[None, None, Any]


class Service(Protocol):
    """What an actor is: tasks as methods, and these two."""

    def idle(self) -> None:
        """Serve whoever asks, without waiting; called while a task waits and between tasks."""

    def close(self) -> None:
        """Free sockets and environments."""


@dataclass(frozen=True)
class ActorSpec:
    """How an actor is made: ``factory(board_row, **arguments)``; both travel to its process by cloudpickle."""

    name: str
    factory: Callable[..., Service]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    restarts: int = 0  # how often it is started again when it was killed; its task is then called again
    num_threads: int = 1  # torch threads


@dataclass(frozen=True)
class Call:
    """A task to run: a method's name and its keyword arguments, of JSON's types."""

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Runtime(Protocol):
    """Runs actors. ``run`` is the one way to have them do something."""

    board: Board
    replaced: dict[str, int]  # how often each actor was started again, of those who were

    def start(self, specs: Sequence[ActorSpec]) -> None:
        """Make the actors."""

    def run(self, calls: Mapping[str, Call], watch: Callable[[], None] | None = None) -> dict[str, Any]:
        """Run one task on each named actor, all at the same time, and return what they return, by name.

        ``watch`` is called about ten times a second meanwhile.
        """

    def close(self) -> None:
        """End the actors, whatever they are doing."""


class Deadlock(RuntimeError):
    """Every task waits for another one."""


class SerialRuntime:
    """All actors in this process, one task resumed after the other, in the order in which they were started."""

    patience = 1000  # turns in which nobody gets anything done, before that is called a deadlock

    def __init__(self, num_actors: int, watch_every: int = 64) -> None:
        self.board = Board(bytearray(Board.num_bytes(num_actors)), num_actors)
        self.replaced: dict[str, int] = {}  # nobody dies alone here
        self._services: dict[str, Service] = {}
        self._watch_every = watch_every

    def start(self, specs: Sequence[ActorSpec]) -> None:
        for index, spec in enumerate(specs):
            row: Row = self.board.row(index)
            self._services[spec.name] = spec.factory(row, **spec.arguments)

    def run(self, calls: Mapping[str, Call], watch: Callable[[], None] | None = None) -> dict[str, Any]:
        order = [name for name in self._services if name in calls]
        tasks: dict[str, Task] = {
            name: getattr(self._services[name], calls[name].method)(**calls[name].arguments) for name in order
        }
        results: dict[str, Any] = {}
        turns, before, still = 0, self.board.totals(), 0
        while tasks:
            for name in list(tasks):
                try:
                    next(tasks[name])
                except StopIteration as stop:
                    results[name] = stop.value
                    del tasks[name]
                    still = 0
            turns += 1
            now = self.board.totals()
            before, still = now, still + 1 if now == before else 0
            if still > self.patience:
                raise Deadlock(f"{', '.join(tasks)} wait for each other")
            if watch is not None and turns % self._watch_every == 0:
                watch()
        return {name: results[name] for name in calls}

    def close(self) -> None:
        for service in self._services.values():
            service.close()
        self._services.clear()
