"""The agent interface: who learns. One per runtime id, in a process of its own where there are processes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from malib_lite.agent.agent_spec import AgentSpec
from malib_lite.agent.gradients import (
    SHARD_IS_HERE,
    SHARD_IS_USED_UP,
    STOP,
    export_networks,
    replica_of,
    unflatten,
    weighted_mean,
)
from malib_lite.agent.intake import Intake, kept_if_bad
from malib_lite.agent.means import Means
from malib_lite.backend.ring import Ring, Slot
from malib_lite.backend.stores import Store, make_store
from malib_lite.backend.sync import BSP
from malib_lite.contracts.data import Trajectories
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.contracts.policy import Policy
from malib_lite.contracts.trainer import Trainer
from malib_lite.runtime.actors import Task
from malib_lite.runtime.board import Row
from malib_lite.runtime.seeds import derive_int, generator


class AgentInterface(ABC):
    """Owns the policies of a runtime id, the data they learn from, and their versions. A service.

    What a kind of agent decides is :meth:`multiagent_post_process`: how the trajectories of the agents it governs
    become what its trainer learns from.
    """

    def __init__(self, row: Row, spec: AgentSpec) -> None:
        self._row = row
        self._spec = spec
        self._server = spec.address.serve()
        self._intake = Intake(spec.rings, self.multiagent_post_process)
        self._permits: list[Ring] = [link.permits.open() for link in spec.workers]
        self._records: list[Ring] = [link.records.open() for link in spec.workers]
        self._policies: dict[str, Policy] = {}  # those that may still learn
        self._trainers: dict[str, Trainer[Any, Any]] = {}
        self._stores: dict[str, Store] = {}

    @property
    def governed_agents(self) -> tuple[str, ...]:
        """The environment agents that this interface learns for."""
        return tuple(self._spec.governed_agents)

    @classmethod
    @abstractmethod
    def multiagent_post_process(cls, slots: Sequence[Slot]) -> Sequence[Trajectories | JointTrajectories]:
        """What the trainer's store takes in of a round's slots (one per worker, in the workers' order).

        The arrays may be views of the slots, which stay valid until the round has been learnt from.
        """

    # -- tasks --------------------------------------------------------------------------------------------------

    def add_policy(self, policy_id: str, horizon: int, parent: str | None = None) -> Task:
        """Make a policy that can learn and publish its version 0.

        Args:
            horizon: environment steps that the schedules of its trainer span.
            parent: policy whose parameters it starts from; None starts anew.
        """
        spec = self._spec
        policy = spec.policy.make(derive_int(spec.seed, "policy", spec.runtime_id, policy_id))
        if parent is not None:
            policy.import_state(self._server.get_weights(parent).arrays)
        seed = derive_int(spec.seed, "trainer", spec.runtime_id, policy_id)
        trainer = spec.trainer_class(spec.trainer_config, policy, seed, horizon)
        self._policies[policy_id] = policy
        self._trainers[policy_id] = trainer
        self._stores[policy_id] = make_store(
            trainer.data_spec(), generator(spec.seed, "store", spec.runtime_id, policy_id)
        )
        self._server.set_weights(policy_id, 0, policy.export_state())
        if self._spec.workers:
            self._server.set_weights(replica_of(policy_id), 0, export_networks(trainer))
        return None
        yield  # a task, though it never waits

    def train(self, policy_id: str, num_rounds: int, base_sequence: int, max_updates: int | None = None) -> Task:
        """Learn from ``num_rounds`` rounds, one fragment of every worker each, and publish a version after each (BSP).

        Args:
            base_sequence: records that each ring had seen before the first round.
            max_updates: the trainer's updates end here; further rounds only keep the rollout in step.

        Returns:
            The numbers of updates, environment steps and decisions, the mean of every metric, the version reached.
        """
        trainer, means = self._trainers[policy_id], Means()
        updates_before, steps_before, decisions = trainer.num_updates, trainer.num_steps, 0
        started, waited_s = time.monotonic(), 0.0
        round_of = self._learn_round if not self._spec.workers else self._conduct_round
        for number in range(num_rounds):
            updates, began = trainer.num_updates, time.monotonic()
            learnt = round_of(policy_id, base_sequence + number, max_updates, means)
            of_round, waited = yield from learnt
            decisions, waited_s = decisions + of_round, waited_s + waited - began
            self._publish(policy_id)
            self._row.add(step=1, updates=trainer.num_updates - updates)
        return {
            "updates": trainer.num_updates,
            "new_updates": trainer.num_updates - updates_before,
            "env_steps": trainer.num_steps - steps_before,
            "decisions": decisions,
            "version": self._server.get_weights(policy_id).version,
            "metrics": means.take(),
            "wall_s": time.monotonic() - started,
            "waited_s": waited_s,
        }

    def freeze(self, policy_id: str) -> Task:
        """End a policy's learning: it becomes a pool member that never changes again. Returns its digest."""
        for kept in (self._policies, self._trainers, self._stores):
            kept.pop(policy_id, None)
        self._server.forget(replica_of(policy_id))
        return self._server.freeze(policy_id).digest()
        yield  # a task, though it never waits

    # -- service ------------------------------------------------------------------------------------------------

    def idle(self) -> None:
        self._server.serve()

    def close(self) -> None:
        self._server.close()

    # -- inside -------------------------------------------------------------------------------------------------

    def _learn_round(
        self, policy_id: str, sequence: int, max_updates: int | None, means: Means
    ) -> Generator[None, None, tuple[int, float]]:
        """Learn from a round; returns its decisions, and when (``time.monotonic``) all of it was there."""
        trainer, store = self._trainers[policy_id], self._stores[policy_id]
        decisions, env_steps = yield from self._intake.receive(sequence, store)
        arrived = time.monotonic()
        trainer.advance(env_steps)
        for batch in store.batches():
            if max_updates is None or trainer.num_updates < max_updates:
                self._row.pulse()
                with kept_if_bad(batch, self._spec.log_dir / f"bad_batch_{self._spec.runtime_id}.npz"):
                    means.add(trainer.train(batch))
        self._intake.release()
        return decisions, arrived

    def _conduct_round(
        self, policy_id: str, sequence: int, max_updates: int | None, means: Means
    ) -> Generator[None, None, tuple[int, float]]:
        """Have the gradient workers learn from a round, each from its shard, and apply what they find (BSP)."""
        trainer, workers = self._trainers[policy_id], range(len(self._spec.workers))
        shards = []
        for records in self._records:
            while (record := records.try_read()) is None:
                yield
            assert record.meta["sequence"] == SHARD_IS_HERE
            shards.append((record.meta["rows"], record.meta["env_steps"]))
            records.release()
        arrived = time.monotonic()
        trainer.advance(sum(env_steps for _, env_steps in shards))
        version = self._publish_networks(policy_id)
        sync = BSP(workers)
        gradients: dict[tuple[int, int], tuple[np.ndarray, int]] = {}  # by worker and iteration, with their samples
        permitted = dict.fromkeys(workers, -1)
        while sync.clocks:
            progress = False
            for worker in list(sync.clocks):
                stop = max_updates is not None and trainer.num_updates >= max_updates
                if sync.begin(worker) is not None and permitted[worker] < sync.clocks[worker]:
                    permitted[worker] = sync.clocks[worker]
                    self._permit(worker, STOP if stop else sync.clocks[worker], version)
                    progress = True
            for worker, records in enumerate(self._records):
                record = records.try_read()
                if record is None:
                    continue
                progress, iteration = True, record.meta["sequence"]
                if iteration == SHARD_IS_USED_UP:
                    aggregates = sync.leave(worker)
                else:
                    gradients[worker, iteration] = record.arrays["gradient"].copy(), record.meta["rows"]
                    aggregates = sync.submit(worker, iteration)
                records.release()
                for aggregate in aggregates:
                    if not aggregate.contributions:
                        continue
                    rows, counts = zip(*(gradients.pop(key) for key in aggregate.contributions), strict=True)
                    gradient = weighted_mean(rows, counts)
                    means.add(trainer.apply_gradients(unflatten(gradient, trainer.parameters())))
                    version = self._publish_networks(policy_id)
            self._row.pulse()
            if not progress:
                yield
        return sum(decisions for decisions, _ in shards), arrived

    def _permit(self, worker: int, iteration: int, version: int) -> None:
        """Let a gradient worker begin an iteration; it has used up the permit before, so there is room."""
        slot = self._permits[worker].try_reserve()
        assert slot is not None
        slot.write_meta(sequence=iteration, rows=0, worker=worker, policy_version=version, env_steps=0)
        self._permits[worker].commit()

    def _publish_networks(self, policy_id: str) -> int:
        """Publish all that gradients depend on; returns the version."""
        name = replica_of(policy_id)
        version = self._server.get_weights(name).version + 1
        self._server.set_weights(name, version, export_networks(self._trainers[policy_id]))
        return version

    def _publish(self, policy_id: str) -> None:
        version = self._server.get_weights(policy_id).version + 1
        self._server.set_weights(policy_id, version, self._policies[policy_id].export_state())
