"""Gradient workers: sub-workers of an agent interface, each with a shard of the data and a replica of the networks."""

from __future__ import annotations

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
from malib_lite.agent.sync_tally import WorkerTally
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
        self._delay_s = dict(enumerate(learner.sync.delays)).get(spec.number, 0.0)
        self._bad_batches = learner.log_dir / f"bad_batch_{learner.runtime_id}-{spec.number}.npz"

    def work(
        self, policy_id: str, horizon: int, first_version: int, num_rounds: int, base_sequence: int, leg: int
    ) -> Task:
        """Compute gradients, each when the learner permits it: of ``num_rounds`` rounds in lockstep, of what comes
        until the learner has had enough otherwise.

        Args:
            horizon: environment steps that the schedules of the trainer span.
            first_version: of the policy, on which the first round is played.
            base_sequence: records that each ring had seen before the first round.
            leg: number of the stretch of training, over which a rollout that keeps no step hears in its rings.

        Returns:
            The mean of every metric, and this worker's part of the learner's SyncTally.
        """
        if policy_id != self._policy_id:
            self._replicate(policy_id, horizon)
            self._first_leg = leg
        self._leg, self._first_version = leg, first_version
        self._permit: int | None = None  # that has not been used
        self._means, self._tally = Means(), WorkerTally()
        if self._number > 0 and not self._announced:
            yield from self._send(BACK, env_steps=self._number)
            self._announced = True
        if self._spec.learner.sync.lockstep:
            yield from self._learn_in_step(num_rounds, base_sequence)
        else:
            yield from self._learn_freely()
        tally = self._intake.take_tally()
        tally.workers[self._spec.number] = self._tally
        return {"metrics": self._means.take(), "sync": tally.to_json()}

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

    def _learn_in_step(self, num_rounds: int, base_sequence: int) -> Generator[None, None, None]:
        """Compute gradients of rounds; after each of them the iterations are counted anew."""
        # A worker that takes over from one that died sees in the rings how far that one had come.
        for number in range(self._intake.rounds_released - base_sequence, num_rounds):
            began = time.monotonic()
            version = self._first_version + number
            shard = yield from self._intake.receive(base_sequence + number, version, self._store)
            self._tally.waited_for_play_s += time.monotonic() - began
            yield from self._learn_from(shard)
            yield from self._send(GONE)
            self._permit = None  # given back

    def _learn_freely(self) -> Generator[None, None, None]:
        """Compute gradients of what is there, until the learner says STOP."""
        max_lag = self._spec.learner.sync.lag_bound
        while self._permit != STOP and not self._intake.is_closed(self._leg):  # by whoever was here before
            began = time.monotonic()
            shard = yield from self._intake.receive_any(
                self._first_leg, self._newest_version, max_lag, self._store, self._is_over
            )
            self._tally.waited_for_play_s += time.monotonic() - began
            if shard is None:
                break
            yield from self._learn_from(shard)
            if self._permit != STOP:  # it holds for the next shard
                yield from self._send(SHARD_IS_USED_UP, shard.fragments)
        self._intake.close(self._leg)
        if self._permit != STOP and self._is_over():
            self._permits.release()  # the STOP that was seen in place of play
        yield from self._send(GONE)

    def _learn_from(self, shard: ShardOfRound) -> Generator[None, None, None]:
        """Compute all gradients of a shard, each on a permit of its own; what is left at a STOP is thrown away."""
        yield from self._send(SHARD_IS_HERE, shard.decisions, shard.env_steps)
        minibatches = self._minibatches(shard.env_steps)
        while True:
            if self._permit is None:
                began = time.monotonic()
                self._permit = yield from self._take_permit()
                self._tally.waited_for_permits_s += time.monotonic() - began
            found = None if self._permit == STOP else next(minibatches, None)
            if found is None:
                break
            minibatch, steps_used = found
            self._row.pulse()
            time.sleep(self._delay_s)
            with kept_if_bad(minibatch, self._bad_batches):
                gradients, metrics = self._trainer.compute_gradients(minibatch)
            self._means.add(metrics)
            yield from self._send(self._permit, minibatch.num_samples, steps_used, self._version, gradients)
            self._permit = None
        minibatches.close()
        self._intake.release()
        self._row.add(step=1)

    def _minibatches(self, env_steps: int) -> Generator[tuple[Any, int], None, None]:
        """All that there is to learn from now, and how many of the shard's environment steps are behind with it."""
        count = self._store.num_batches
        for number, batch in enumerate(self._store.batches()):
            for minibatch in self._trainer.minibatches(batch):
                yield minibatch, int(env_steps * (number + self._trainer.batch_used) / count)

    def _take_permit(self) -> Generator[None, None, int]:
        """Wait for the next permit; returns its iteration, with the networks at the version that it names."""
        while (slot := self._next_permit()) is None:
            yield
        iteration, version = slot.meta["sequence"], slot.meta["policy_version"]
        self._permits.release()
        if iteration != STOP:
            assert self._policy_id is not None
            name = replica_of(self._policy_id)
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
        """Whether the learner has said so; heard while no permit is waited for."""
        slot = self._next_permit()
        return slot is not None and slot.meta["sequence"] == STOP

    def _newest_version(self) -> int:
        """Of the policy that plays, as far as is known here."""
        assert self._policy_id is not None
        snapshot = self._client.newest(self._spec.learner.runtime_id, self._policy_id)
        return self._first_version if snapshot is None else snapshot.version

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
