"""Gradient workers: sub-workers of an agent interface, each with a shard of the data and a replica of the networks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from malib_lite.agent.agent_spec import AgentSpec
from malib_lite.agent.gradients import (
    BACK,
    GONE,
    SHARD_IS_HERE,
    SHARD_IS_USED_UP,
    STOP,
    WorkerLink,
    flatten,
    import_networks,
    replica_of,
)
from malib_lite.agent.intake import Intake, ShardOfRound, kept_if_bad
from malib_lite.agent.means import Means
from malib_lite.backend.parameter_server import ParameterClient
from malib_lite.backend.ring import Slot
from malib_lite.backend.stores import make_store
from malib_lite.runtime.actors import Task
from malib_lite.runtime.board import Row
from malib_lite.runtime.seeds import derive_int, generator

if TYPE_CHECKING:
    from malib_lite.agent.agent_interface import AgentInterface


@dataclass(frozen=True)
class GradientWorkerSpec:
    """What a gradient worker is made from."""

    learner: AgentSpec  # whose gradients it computes; the rings are those of this worker's share of the rollout
    interface: type[AgentInterface]
    number: int  # 0 to K - 1
    link: WorkerLink


class GradientWorker:
    """A service; its task is :meth:`work`."""

    def __init__(self, row: Row, spec: GradientWorkerSpec) -> None:
        self._row = row
        self._spec = spec
        learner = spec.learner
        self._client = ParameterClient({learner.runtime_id: learner.address.connect()})
        self._intake = Intake(learner.rings, spec.interface.multiagent_post_process)
        self._permits, self._records = spec.link.permits.open(), spec.link.records.open()
        self._policy_id: str | None = None  # whom trainer and store are for
        self._number = self._records.head  # among those who had this place: above 0 if another one died here
        self._announced = False

    def work(self, policy_id: str, horizon: int, num_rounds: int, base_sequence: int, leg: int) -> Task:
        """Compute gradients, each when the learner permits it: of ``num_rounds`` rounds in lockstep, of what comes
        until the learner has had enough otherwise.

        Args:
            horizon: environment steps that the schedules of the trainer span.
            base_sequence: records that each ring had seen before the first round.
            leg: number of the stretch of training, over which a rollout that keeps no step hears in its rings.

        Returns:
            The mean of every metric, the seconds spent waiting for play and for permits, and the fragments dropped.
        """
        sync = self._spec.learner.sync
        delay = dict(enumerate(sync.delays)).get(self._spec.number, 0.0)
        if policy_id != self._policy_id:
            self._replicate(policy_id, horizon)
            self._first_leg = leg
        log = self._spec.learner.log_dir / f"bad_batch_{self._spec.learner.runtime_id}-{self._spec.number}.npz"
        means, waited_s, dropped, permit = Means(), {"play": 0.0, "permits": 0.0}, 0, None
        self._leg = leg
        if self._number > 0 and not self._announced:
            yield from self._send(BACK, env_steps=self._number)
            self._announced = True
        # A worker that takes over from one that died sees in the rings how far that one had come.
        done = self._intake.rounds_released - base_sequence
        for number in range(done, num_rounds) if sync.lockstep else itertools.count():
            began = time.monotonic()
            shard: ShardOfRound | None
            if sync.lockstep:
                shard = yield from self._intake.receive(base_sequence + number, self._store)
            elif self._intake.is_closed(leg):
                break  # by whoever was here before, at the end of the leg
            else:
                oldest = None if sync.max_lag is None else self._newest_version(policy_id) - sync.max_lag
                shard = yield from self._intake.receive_any(self._first_leg, oldest, self._store, self._is_over)
                dropped += self._intake.take_dropped()
            waited_s["play"] += time.monotonic() - began
            if shard is None:
                break
            yield from self._send(SHARD_IS_HERE, shard.decisions, shard.env_steps, shard.policy_version)
            minibatches = self._minibatches()
            while True:
                began = time.monotonic()
                if permit is None:
                    permit = yield from self._permit(policy_id)
                waited_s["permits"] += time.monotonic() - began
                minibatch = None if permit == STOP else next(minibatches, None)
                if minibatch is None:
                    break
                self._row.pulse()
                time.sleep(delay)
                with kept_if_bad(minibatch, log):
                    gradients, metrics = self._trainer.compute_gradients(minibatch)
                means.add(metrics)
                yield from self._send(permit, minibatch.num_samples, 0, self._version, gradients)
                permit = None
            minibatches.close()
            self._intake.release()
            self._row.add(step=1)
            if sync.lockstep:
                yield from self._send(GONE)
                permit = None  # given back: the next round's iterations are counted anew
            elif permit == STOP:
                break
            else:  # the permit holds for the next shard
                yield from self._send(SHARD_IS_USED_UP)
        if not sync.lockstep:
            self._intake.close(leg)
            if permit != STOP and self._is_over():
                self._permits.release()  # the STOP that was seen while waiting for play
            yield from self._send(GONE)
        return {"metrics": means.take(), "waited_s": waited_s, "dropped": dropped}

    # -- service ------------------------------------------------------------------------------------------------

    def idle(self) -> None: ...

    def close(self) -> None:
        self._client.close()

    # -- inside -------------------------------------------------------------------------------------------------

    def _replicate(self, policy_id: str, horizon: int) -> None:
        """Make networks, trainer and store for another policy."""
        learner, number = self._spec.learner, self._spec.number
        if self._policy_id is not None:
            for name in (self._policy_id, replica_of(self._policy_id)):
                self._client.forget(learner.runtime_id, name)
        self._policy_id = policy_id
        who = (learner.runtime_id, policy_id, number)
        policy = learner.policy.make(derive_int(learner.seed, "replica", *who)).to(learner.device)
        self._trainer = learner.trainer_class(
            learner.trainer_config, policy, derive_int(learner.seed, "replica trainer", *who), horizon
        )
        self._store = make_store(self._trainer.data_spec(), generator(learner.seed, "replica store", *who))

    def _minibatches(self) -> Generator[Any, None, None]:
        """All that there is to learn from now."""
        for batch in self._store.batches():
            yield from self._trainer.minibatches(batch)

    def _permit(self, policy_id: str) -> Generator[None, None, int]:
        """Wait for the next permit; returns its iteration, with the networks at the version that it names."""
        while (slot := self._next_permit()) is None:
            yield
        iteration, version = slot.meta["sequence"], slot.meta["policy_version"]
        self._permits.release()
        if iteration != STOP:
            name = replica_of(policy_id)
            snapshot = yield from self._client.wait_for(self._spec.learner.runtime_id, name, version)
            import_networks(self._trainer, snapshot.arrays)
            self._version = snapshot.version
        return iteration

    def _next_permit(self) -> Slot | None:
        """The next permit of this leg; those for one that died here are thrown away, but STOP holds for all."""
        while (slot := self._permits.try_read()) is not None:
            mine = slot.meta["sequence"] == STOP or slot.meta["env_steps"] == self._number
            if mine and slot.meta["rows"] == self._leg:
                return slot
            self._permits.release()
        return None

    def _is_over(self) -> bool:
        """Whether the learner has said so; heard while there is no permit to wait for."""
        slot = self._next_permit()
        return slot is not None and slot.meta["sequence"] == STOP

    def _newest_version(self, policy_id: str) -> int:
        """Of the policy that plays."""
        snapshot = self._client.newest(self._spec.learner.runtime_id, policy_id)
        return 0 if snapshot is None else snapshot.version

    def _send(
        self,
        kind: int,
        rows: int = 0,
        env_steps: int = 0,
        policy_version: int = 0,
        gradients: Sequence[torch.Tensor] = (),
    ) -> Generator[None, None, None]:
        while (slot := self._records.try_reserve()) is None:
            yield
        flatten(gradients, slot.arrays["gradient"])
        slot.write_meta(sequence=kind, rows=rows, worker=self._leg, policy_version=policy_version, env_steps=env_steps)
        self._records.commit()
