"""Gradient workers: sub-workers of an agent interface, each with a shard of the data and a replica of the networks."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from malib_lite.agent.agent_spec import AgentSpec
from malib_lite.agent.gradients import (
    SHARD_IS_HERE,
    SHARD_IS_USED_UP,
    STOP,
    WorkerLink,
    flatten,
    import_networks,
    replica_of,
)
from malib_lite.agent.intake import Intake, kept_if_bad
from malib_lite.agent.means import Means
from malib_lite.backend.parameter_server import ParameterClient
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

    def work(self, policy_id: str, horizon: int, num_rounds: int, base_sequence: int) -> Task:
        """Compute the gradients of ``num_rounds`` rounds, each when the learner permits it.

        Args:
            horizon: environment steps that the schedules of the trainer span.
            base_sequence: records that each ring had seen before the first round.

        Returns:
            The mean of every metric, and the seconds spent waiting for play and for permits.
        """
        if policy_id != self._policy_id:
            self._replicate(policy_id, horizon)
        log = self._spec.learner.log_dir / f"bad_batch_{self._spec.learner.runtime_id}-{self._spec.number}.npz"
        means, waited_s = Means(), {"play": 0.0, "permits": 0.0}
        for number in range(num_rounds):
            began = time.monotonic()
            decisions, env_steps = yield from self._intake.receive(base_sequence + number, self._store)
            waited_s["play"] += time.monotonic() - began
            yield from self._send(SHARD_IS_HERE, rows=decisions, env_steps=env_steps)
            minibatches = self._minibatches()
            while True:
                began = time.monotonic()
                permit = yield from self._permit(policy_id)
                waited_s["permits"] += time.monotonic() - began
                minibatch = None if permit == STOP else next(minibatches, None)
                if minibatch is None:
                    break
                self._row.pulse()
                with kept_if_bad(minibatch, log):
                    gradients, metrics = self._trainer.compute_gradients(minibatch)
                means.add(metrics)
                yield from self._send(permit, rows=minibatch.num_samples, gradients=gradients)
            minibatches.close()
            self._intake.release()
            yield from self._send(SHARD_IS_USED_UP)
            self._row.add(step=1)
        return {"metrics": means.take(), "waited_s": waited_s}

    # -- service ------------------------------------------------------------------------------------------------

    def idle(self) -> None: ...

    def close(self) -> None:
        self._client.close()

    # -- inside -------------------------------------------------------------------------------------------------

    def _replicate(self, policy_id: str, horizon: int) -> None:
        """Make networks, trainer and store for another policy."""
        learner, number = self._spec.learner, self._spec.number
        if self._policy_id is not None:
            self._client.forget(learner.runtime_id, replica_of(self._policy_id))
        self._policy_id = policy_id
        who = (learner.runtime_id, policy_id, number)
        policy = learner.policy.make(derive_int(learner.seed, "replica", *who))
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
        while (slot := self._permits.try_read()) is None:
            yield
        iteration, version = slot.meta["sequence"], slot.meta["policy_version"]
        self._permits.release()
        if iteration != STOP:
            name = replica_of(policy_id)
            snapshot = yield from self._client.wait_for(self._spec.learner.runtime_id, name, version)
            import_networks(self._trainer, snapshot.arrays)
        return iteration

    def _send(
        self, kind: int, rows: int = 0, env_steps: int = 0, gradients: Sequence[torch.Tensor] = ()
    ) -> Generator[None, None, None]:
        while (slot := self._records.try_reserve()) is None:
            yield
        flatten(gradients, slot.arrays["gradient"])
        slot.write_meta(sequence=kind, rows=rows, worker=self._spec.number, policy_version=0, env_steps=env_steps)
        self._records.commit()
