"""Learning without gradient workers: the learner computes its gradients itself."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Generator
from pathlib import Path

from malib_lite.agent.intake import Intake, ShardOfRound, kept_if_bad
from malib_lite.agent.learning import Learning, Outcome, Stretch, Trainee
from malib_lite.agent.means import Means
from malib_lite.runtime.board import Row


class Alone(Learning):
    """What both ways share: shard after shard, a version after each."""

    def __init__(self, row: Row, intake: Intake, bad_batches: Path) -> None:
        self._row = row
        self._intake = intake
        self._bad_batches = bad_batches  # a file, for the batch on which numbers broke down

    def learn(self, trainee: Trainee, stretch: Stretch, means: Means) -> Generator[None, None, Outcome]:
        decisions, waited_s, used = 0, 0.0, 0
        while not self._is_over(trainee, stretch, used):
            began = time.monotonic()
            shard = yield from self._receive(trainee, stretch, used)
            waited_s += time.monotonic() - began
            used, decisions = used + shard.fragments, decisions + shard.decisions
            updates = trainee.trainer.num_updates
            self._learn_from(shard, trainee, stretch, means)
            trainee.publish()
            self._row.add(step=1, updates=trainee.trainer.num_updates - updates)
        self._intake.close(stretch.leg)
        return Outcome(decisions, waited_s, self._intake.take_tally(), [])

    @abstractmethod
    def _is_over(self, trainee: Trainee, stretch: Stretch, used: int) -> bool:
        """Whether the stretch is, after ``used`` fragments."""

    @abstractmethod
    def _receive(self, trainee: Trainee, stretch: Stretch, used: int) -> Generator[None, None, ShardOfRound]:
        """Put the next shard into the store."""

    def _learn_from(self, shard: ShardOfRound, trainee: Trainee, stretch: Stretch, means: Means) -> None:
        trainer, store = trainee.trainer, trainee.store
        before, room, count = trainer.num_steps, trainer.room(shard.env_steps), store.num_batches
        for number, batch in enumerate(store.batches()):
            if not stretch.is_enough(trainer):
                self._row.pulse()
                with kept_if_bad(batch, self._bad_batches):
                    means.add(trainer.train(batch, room * (number + 1) // count - room * number // count))
        trainer.advance(before + shard.env_steps - trainer.num_steps)
        self._intake.release()


class LearnsFromRounds(Alone):
    """A round is one fragment of every rollout worker, and gives one version.

    In lockstep (BSP) the rollout plays a round on exactly the version that the round before gave. Bounded (BAP, SSP) it
    may be S rounds ahead; then it waits.
    """

    def _is_over(self, trainee: Trainee, stretch: Stretch, used: int) -> bool:
        return used >= stretch.num_rounds * self._intake.num_workers

    def _receive(self, trainee: Trainee, stretch: Stretch, used: int) -> Generator[None, None, ShardOfRound]:
        sequence = stretch.base_sequence + used // self._intake.num_workers
        return (yield from self._intake.receive(sequence, trainee.version, trainee.store))


class LearnsFromArrivals(Alone):
    """Whatever fragments are there make the next version (ASP): neither the learner nor any rollout worker is waited
    for."""

    def __init__(self, row: Row, intake: Intake, bad_batches: Path, max_lag: int | None) -> None:
        super().__init__(row, intake, bad_batches)
        self._max_lag = max_lag

    def _is_over(self, trainee: Trainee, stretch: Stretch, used: int) -> bool:
        enough = stretch.is_enough(trainee.trainer)
        return enough or used >= stretch.num_rounds * self._intake.num_workers

    def _receive(self, trainee: Trainee, stretch: Stretch, used: int) -> Generator[None, None, ShardOfRound]:
        assert trainee.first_leg is not None
        shard = yield from self._intake.receive_any(
            trainee.first_leg, lambda: trainee.version, self._max_lag, trainee.store
        )
        assert shard is not None  # nobody but this learner ends the stretch
        return shard
