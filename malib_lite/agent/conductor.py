"""The learner's side of its gradient workers: a sync mode with rings, an optimiser and a clock wrapped around it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np

from malib_lite.agent.gradients import (
    BACK,
    GONE,
    SHARD_IS_HERE,
    SHARD_IS_USED_UP,
    STOP,
    WorkerLink,
    unflatten,
    weighted_mean,
)
from malib_lite.agent.means import Means
from malib_lite.agent.sync_tally import SyncTally, WorkerTally, count
from malib_lite.backend.ring import Ring, Slot
from malib_lite.backend.sync import Aggregate, SyncMode
from malib_lite.contracts.trainer import Trainer

_TIMELINE_LENGTH = 400  # iterations that are kept for plots


class Shard(NamedTuple):
    """What a gradient worker says of the data that it has got."""

    decisions: int
    env_steps: int


def _shard(record: Slot) -> Shard:
    meta = record.meta
    assert meta["sequence"] == SHARD_IS_HERE
    return Shard(meta["rows"], meta["env_steps"])


class Iteration(NamedTuple):
    """What a worker did when; times are those of ``time.monotonic``, which all processes share."""

    worker: int
    began: float  # the permit was given
    ended: float  # the gradient was there
    counted: bool  # or ignored


class _Gradient(NamedTuple):
    row: np.ndarray  # (P,) float32
    num_samples: int
    version: int  # of the networks that it was computed on
    steps_used: int  # environment steps of its worker's shard that are behind with it


class Conductor:
    """Lets gradient workers begin, takes their gradients in, and applies what the sync mode says is to be applied.

    :meth:`turn` is called again and again; it never waits.
    """

    def __init__(self, links: Sequence[WorkerLink]) -> None:
        self._permits: list[Ring] = [link.permits.open() for link in links]
        self._records: list[Ring] = [link.records.open() for link in links]
        self._incarnations = [0] * len(links)  # a number for whoever has each worker's place now
        self.start(0)

    def start(self, leg: int) -> None:
        """Count anew, for another leg: :attr:`tally` and :attr:`timeline`."""
        self._leg = leg
        self.tally = SyncTally(workers={worker: WorkerTally() for worker in range(self.num_workers)})
        self.timeline: list[Iteration] = []  # the first iterations

    def begin(
        self,
        trainer: Trainer[Any, Any],
        sync: SyncMode,
        publish: Callable[[], int],
        means: Means,
        longest_iteration_s: float | None = None,
        shards: Sequence[Shard] = (),
    ) -> None:
        """Conduct another stretch of training.

        The trainer advances, by what has been used of the shards, whenever gradients have been applied.

        Args:
            sync: whose members are those whose shards are there.
            publish: makes the networks known to the workers; returns their version.
            means: where metrics go.
            longest_iteration_s: an iteration that lasts longer is interrupted; None: never.
            shards: of a round, in the workers' order; none where workers get one after the other.
        """
        self._trainer, self._sync, self._publish, self._means = trainer, sync, publish, means
        self._longest_s = longest_iteration_s
        self._version = publish()
        self._open = {worker: shard.env_steps for worker, shard in enumerate(shards)}  # shards that are learnt from
        self._used: dict[int, int] = {}  # environment steps of each of them
        self._finished = 0  # environment steps of shards that are used up
        self._before, self._total = trainer.num_steps, sum(self._open.values())
        self._room = trainer.room(self._total)
        self._gradients: dict[tuple[int, int], _Gradient] = {}
        self._busy: dict[int, float] = {}  # when workers that have a permit, and have not submitted, got it
        self._interrupted: dict[int, float] = {}  # when workers that compute in vain were interrupted
        self.arrived: deque[Shard] = deque()
        self.used_up: deque[int] = deque()  # fragments of each shard that is
        self._gone: set[int] = set()
        self._stopped = False

    @property
    def num_workers(self) -> int:
        """K."""
        return len(self._permits)

    @property
    def is_over(self) -> bool:
        """Whether all workers have left."""
        return len(self._gone) == self.num_workers

    def settle(self) -> None:
        """Whatever is left of shards counts as learnt from."""
        for worker in list(self._open):
            self._finish(worker)
        self._trainer.advance(max(0, self._before + self._finished - self._trainer.num_steps))

    def shards(self) -> Generator[None, None, list[Shard]]:
        """Wait until every worker has its shard of a round; in the workers' order."""
        shards = []
        for worker, records in enumerate(self._records):
            while (record := self._next(worker)) is None or record.meta["sequence"] == BACK:
                if record is not None:
                    self._incarnations[worker] = record.meta["env_steps"]
                    records.release()
                yield
            shards.append(_shard(record))
            records.release()
        return shards

    def turn(self, stop: bool = False) -> bool:
        """Grant, collect and apply what there is; whether there was anything.

        Args:
            stop: whoever asks for another iteration is told that there is none.
        """
        granted = self._grant(stop)
        collected = [self._collect(worker) for worker in range(self.num_workers)]
        return granted or any(collected) or self._interrupt()

    def stop(self) -> None:
        """Tell all workers, whatever they are doing, that the stretch is over. What they are computing still counts."""
        self._stopped = True
        for worker in range(self.num_workers):
            self._permit(worker, STOP)

    # -- inside -------------------------------------------------------------------------------------------------

    def _grant(self, stop: bool) -> bool:
        granted = False
        for worker in self._sync.clocks if not self._stopped else ():
            if worker not in self._busy and self._sync.begin(worker) is not None:
                if not stop:
                    count(self.tally.staleness, self._sync.lead(worker))
                self._permit(worker, STOP if stop else self._sync.clocks[worker])
                # one that was late the last time does not have the others wait for its next iteration from the start
                self._busy[worker] = self._interrupted.pop(worker, time.monotonic())
                granted = True
        return granted

    def _permit(self, worker: int, iteration: int) -> None:
        """A worker has used up its last permit when it gets the next, or is another one: there is always room."""
        slot = self._permits[worker].try_reserve()
        assert slot is not None
        slot.write_meta(
            sequence=iteration,
            rows=self._leg,
            worker=worker,
            policy_version=self._version,
            env_steps=self._incarnations[worker],
        )
        self._permits[worker].commit()

    def _collect(self, worker: int) -> bool:
        record = self._next(worker)
        if record is None:
            return False
        kind, meta = record.meta["sequence"], record.meta
        if kind == SHARD_IS_HERE:
            shard = _shard(record)
            self.arrived.append(shard)
            self._open[worker], self._used[worker] = shard.env_steps, 0
            if worker not in self._sync.clocks:
                self._sync.join(worker)
        elif kind == BACK:
            self._incarnations[worker] = meta["env_steps"]
            self._welcome_back(worker)
        elif kind == SHARD_IS_USED_UP:
            self.used_up.append(meta["rows"])
            self._finish(worker)
        elif kind == GONE:
            self._gone.add(worker)
            self._busy.pop(worker, None)
            self._apply(self._sync.leave(worker))
        elif self._sync.expects(worker, kind):
            row = record.arrays["gradient"].copy()
            self._gradients[worker, kind] = _Gradient(row, meta["rows"], meta["policy_version"], meta["env_steps"])
            self._note(worker, counted=True)
            self._apply(self._sync.submit(worker, kind))
        else:  # it was interrupted meanwhile
            self.tally.worker(worker).gradients_ignored += 1
            self._note(worker, counted=False)
        self._records[worker].release()
        return True

    def _welcome_back(self, worker: int) -> None:
        """The worker died in the middle of something and was started again: its iteration under way is lost."""
        self._busy.pop(worker, None)
        self._gone.discard(worker)
        self._apply(self._sync.leave(worker))
        if self._stopped:
            self._permit(worker, STOP)

    def _note(self, worker: int, counted: bool) -> None:
        began = self._busy.pop(worker)
        if len(self.timeline) < _TIMELINE_LENGTH:
            self.timeline.append(Iteration(worker, began, time.monotonic(), counted))

    def _next(self, worker: int) -> Slot | None:
        """A worker's next record, but for those of an earlier leg, whose end it has missed."""
        while (record := self._records[worker].try_read()) is not None and record.meta["worker"] < self._leg:
            self._records[worker].release()
        return record

    def _apply(self, aggregates: Sequence[Aggregate]) -> None:
        for aggregate in aggregates:
            if not aggregate.contributions:
                continue
            gradients = [self._gradients.pop(key) for key in aggregate.contributions]
            mean = weighted_mean([g.row for g in gradients], [g.num_samples for g in gradients])
            self._means.add(
                self._trainer.apply_gradients(unflatten(mean.to(self._trainer.device), self._trainer.parameters()))
            )
            for (worker, _), gradient in zip(aggregate.contributions, gradients, strict=True):
                lag = self._version - gradient.version
                self._means.add({"gradient_lag": float(lag)})
                count(self.tally.gradient_lag, lag)
                self.tally.worker(worker).gradients_applied += 1
                self._used[worker] = gradient.steps_used
            self._advance()
            self._version = self._publish()

    def _finish(self, worker: int) -> None:
        self._finished += self._open.pop(worker, 0)
        self._used.pop(worker, None)

    def _advance(self) -> None:
        """Schedules follow what has been used; in lockstep the last round ends where they do."""
        used = self._finished + sum(self._used.values())
        if self._total:
            used = used * self._room // self._total
        self._trainer.advance(max(0, self._before + used - self._trainer.num_steps))

    def _interrupt(self) -> bool:
        """End iterations that have lived too long. Whoever computes one still may go on only when it has submitted."""
        if self._longest_s is None:
            return False
        late = [worker for worker, since in self._busy.items() if time.monotonic() - since > self._longest_s]
        for worker in late:
            self._busy[worker] = self._interrupted[worker] = time.monotonic()
            self._apply(self._sync.interrupt(worker))
        return bool(late)
