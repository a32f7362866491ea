"""Learning with gradient workers: the learner is their parameter server and computes no gradient itself."""

from __future__ import annotations

import time
from collections.abc import Generator

from malib_lite.agent.conductor import Conductor
from malib_lite.agent.learning import Learning, Outcome, Stretch, Trainee
from malib_lite.agent.means import Means
from malib_lite.agent.sync_config import SyncConfig
from malib_lite.backend.sync import BSP, make_sync
from malib_lite.runtime.board import Row


class ConductsRounds(Learning):
    """Lockstep (BSP): a round is shared out, its iterations are whole, and a version follows when all are done."""

    def __init__(self, row: Row, conductor: Conductor) -> None:
        self._row = row
        self._conductor = conductor

    def learn(self, trainee: Trainee, stretch: Stretch, means: Means) -> Generator[None, None, Outcome]:
        trainer, conductor = trainee.trainer, self._conductor
        conductor.start(stretch.leg)
        decisions, waited_s = 0, 0.0
        for _ in range(stretch.num_rounds):
            began = time.monotonic()
            shards = yield from conductor.shards()
            waited_s += time.monotonic() - began
            decisions += sum(shard.decisions for shard in shards)
            sync = BSP(range(conductor.num_workers))
            conductor.begin(trainer, sync, trainee.publish_networks, means, shards=shards)
            while not conductor.is_over:
                updates = trainer.num_updates
                if not conductor.turn(stop=stretch.is_enough(trainer)):
                    yield
                self._row.add(updates=trainer.num_updates - updates)
            conductor.settle()
            trainee.publish()
            self._row.add(step=1)
        return Outcome(decisions, waited_s, conductor.tally, conductor.timeline)


class ConductsFreely(Learning):
    """Every worker goes at the pace that the sync mode allows it, on fragments that its own rollout workers play
    without waiting for anybody.

    Asynchronously (ASP) every shard gives a version for the rollout. Bounded (BAP, SSP) it is as many shards as a round
    has: so versions count rounds, and S bounds both how far workers and how far policies are apart.
    """

    def __init__(self, row: Row, conductor: Conductor, config: SyncConfig, num_rollout_workers: int) -> None:
        """
        Args:
            num_rollout_workers: of all gradient workers together.
        """
        self._row = row
        self._conductor = conductor
        self._config = config
        self._round = num_rollout_workers  # fragments
        self._per_version = num_rollout_workers if config.is_bounded else 1

    def learn(self, trainee: Trainee, stretch: Stretch, means: Means) -> Generator[None, None, Outcome]:
        trainer, conductor, config = trainee.trainer, self._conductor, self._config
        conductor.start(stretch.leg)
        sync = make_sync(config.sync, (), config.staleness if config.is_bounded else None)
        conductor.begin(trainer, sync, trainee.publish_networks, means, config.longest_iteration_s)
        decisions, used, versions, over = 0, 0, 0, False
        published = trainer.num_updates
        while not conductor.is_over:
            updates = trainer.num_updates
            progress = conductor.turn()
            while conductor.arrived:
                shard = conductor.arrived.popleft()
                decisions += shard.decisions
            while conductor.used_up:
                used += conductor.used_up.popleft()
                self._row.add(step=1)
                if used // self._per_version > versions:
                    versions, published = used // self._per_version, trainer.num_updates
                    trainee.publish()
            self._row.add(updates=trainer.num_updates - updates)
            if not over and (used >= stretch.num_rounds * self._round or stretch.is_enough(trainer)):
                over = True
                conductor.stop()
            if not progress:
                yield
        conductor.settle()
        if trainer.num_updates > published:
            trainee.publish()  # what came after the last version
        return Outcome(decisions, 0.0, conductor.tally, conductor.timeline)
