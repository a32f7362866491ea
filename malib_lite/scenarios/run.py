"""A run as its scenario sees it: the managers, the folder, the console, and the totals."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from malib_lite.agent.manager import TrainingManager
from malib_lite.agent.sync_tally import SyncTally
from malib_lite.backend.members import MemberFolder
from malib_lite.rollout.books import Books
from malib_lite.rollout.manager import RolloutWorkerManager
from malib_lite.runtime.actors import Runtime
from malib_lite.runtime.console import Console
from malib_lite.runtime.metrics import MetricsWriter, Reports
from malib_lite.runtime.run_folder import RunFolder
from malib_lite.scenarios.checkpoints import Checkpoints


@dataclass
class Leg:
    """A stretch of training between two reports."""

    env_steps: int = 0  # of the learner that has seen the fewest, since the training began
    rounds: int = 0
    is_last: bool = False  # whether the training ends with it
    books: Books = field(default_factory=Books)  # of the episodes that ended in this leg
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each learner, by runtime id


@dataclass
class Run:
    """A scenario's view of its run."""

    runtime: Runtime
    training: TrainingManager
    rollout: RolloutWorkerManager
    folder: RunFolder
    members: MemberFolder
    console: Console
    metrics: MetricsWriter
    checkpoints: Checkpoints
    env_steps: int = 0
    episodes: int = 0
    updates: int = 0
    env_crashes: int = 0
    sync: dict[str, SyncTally] = field(default_factory=dict)  # what sync modes did, by runtime id
    timelines: dict[str, list[Any]] = field(default_factory=dict)  # of gradient workers, from the busiest leg
    _unreported: dict[str, SyncTally] = field(default_factory=dict)  # the part of it since the last report
    _waits: dict[str, tuple[float, float]] = field(default_factory=dict)  # of learners since then: seconds, of how many
    _reported: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))  # when, at how many steps
    _step: int = 0  # of the last report
    _bar: Callable[[int, str], None] = lambda done, note: None
    _unit: str = ""
    _exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def reports(self) -> Reports:
        """All reports so far."""
        return self.metrics.reports

    def expect(self, unit: str, total: int) -> None:
        """Say what the run counts ("steps" or "iterations") and how many of them there will be."""
        self._unit = unit
        self._bar = self._exit.enter_context(self.console.bar(unit, total))

    def watch(self) -> None:
        """Show how far the actors are."""
        totals = self.runtime.board.totals()
        done = totals["env_steps"] if self._unit == "steps" else self._step
        self._bar(done, f"{totals['env_steps']:,} steps  {totals['updates']:,} updates")

    def count(self, leg: Leg) -> None:
        """Add a leg of training to the run's totals."""
        self.env_steps += leg.books.env_steps
        self.episodes += leg.books.length.count
        self.updates += sum(report["new_updates"] for report in leg.reports.values())
        for runtime_id, report in leg.reports.items():
            waited, wall = self._waits.get(runtime_id, (0.0, 0.0))
            self._waits[runtime_id] = waited + report["waited_s"], wall + report["wall_s"]
            for tallies in (self.sync, self._unreported):
                tallies.setdefault(runtime_id, SyncTally()).add(report["sync"])
            if len(report["timeline"]) > len(self.timelines.get(runtime_id, [])):
                self.timelines[runtime_id] = report["timeline"]
        self.count_crashes(leg.books)

    def count_crashes(self, books: Books) -> None:
        """Add the processes of environments that died, and say so; those of evaluations count, too."""
        self.env_crashes += books.env_crashes
        if books.env_crashes:
            self.console.say(f"environment processes that died and were replaced: {books.env_crashes} (see logs/)")

    def checkpoint(self, state: Mapping[str, Any], indent: int | None = 1) -> None:
        """Write what has been reached; policies that nothing refers to any more go after a while."""
        self.checkpoints.write(state, self.training.take_saved(), indent)

    def report(self, step: int, values: Mapping[str, Any], timings: Mapping[str, float] | None = None) -> None:
        """Write one report to the metrics, with what the sync modes did and how fast it went since the last one."""
        tallies, self._unreported = self._unreported, {}
        values = {"env_steps": self.env_steps, **values}
        timings = {"replaced": sum(self.runtime.replaced.values()), **self._pace(), **(timings or {})}
        histograms: dict[str, Mapping[int, int]] = {}
        for runtime_id, tally in tallies.items():
            values |= {f"{runtime_id}/{name}": number for name, number in tally.counts().items()}
            timings |= {f"{runtime_id}/{name}": seconds for name, seconds in tally.seconds().items()}
            histograms |= {f"{runtime_id}/{name}": counts for name, counts in tally.histograms().items()}
        self.metrics.write(step, values, timings, histograms)
        self._step = step
        self.watch()

    def _pace(self) -> dict[str, float]:
        """Environment steps per second since the last report, and the share of its time that each learner waited."""
        now, (then, env_steps) = time.monotonic(), self._reported
        self._reported = now, self.env_steps
        waits, self._waits = self._waits, {}
        pace = {"env_steps_per_s": round((self.env_steps - env_steps) / max(now - then, 1e-9), 1)}
        return pace | {
            f"{runtime_id}/waited_share": round(waited / max(wall, 1e-9), 3)
            for runtime_id, (waited, wall) in waits.items()
        }
