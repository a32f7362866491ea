"""The agent interface: who learns. One per runtime id, in a process of its own where there are processes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any

from malib_lite.agent.agent_spec import AgentSpec
from malib_lite.agent.conductor import Conductor
from malib_lite.agent.gradients import export_networks, replica_of
from malib_lite.agent.intake import Intake, kept_if_bad
from malib_lite.agent.means import Means
from malib_lite.backend.members import Member
from malib_lite.backend.ring import Slot
from malib_lite.backend.stores import Store, make_store
from malib_lite.backend.sync import BSP, make_sync
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
        self._conductor = Conductor(spec.workers)
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
            parent: the member (as text) whose parameters it starts from; None starts anew.
        """
        spec = self._spec
        policy = spec.policy.make(derive_int(spec.seed, "policy", spec.runtime_id, policy_id))
        if parent is not None:
            policy.import_state(spec.members.load(Member.parse(parent).digest))
        policy.to(spec.device)  # before the trainer copies networks and lists parameters
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

    def train(
        self, policy_id: str, num_rounds: int, base_sequence: int, max_updates: int | None = None, leg: int = 0
    ) -> Task:
        """Learn from ``num_rounds`` rounds, one fragment of every worker each, and publish a version after each (BSP).

        Args:
            base_sequence: records that each ring had seen before the first round.
            max_updates: the trainer's updates end here; further rounds only keep the rollout in step.
            leg: number of this stretch of training.

        Returns:
            The numbers of updates, environment steps and decisions, the mean of every metric, the version reached.
        """
        trainer, means = self._trainers[policy_id], Means()
        updates_before, steps_before, decisions = trainer.num_updates, trainer.num_steps, 0
        started, waited_s = time.monotonic(), 0.0
        conductor = self._conductor
        conductor.start(leg)
        if not self._spec.sync.lockstep:
            decisions = yield from self._conduct_freely(policy_id, num_rounds, max_updates, means)
            num_rounds = 0
        round_of = self._learn_round if not self._spec.workers else self._conduct_round
        for number in range(num_rounds):
            updates, began = trainer.num_updates, time.monotonic()
            of_round, arrived = yield from round_of(policy_id, base_sequence + number, max_updates, means)
            decisions, waited_s = decisions + of_round, waited_s + arrived - began
            self._publish(policy_id)
            self._row.add(step=1, updates=trainer.num_updates - updates)
        of_workers = {
            "gradients_applied": conductor.applied,
            "gradients_ignored": conductor.ignored,
            "max_staleness": conductor.max_staleness,
            "timeline": conductor.timeline,
        }
        return {
            **(of_workers if self._spec.workers else {}),
            "updates": trainer.num_updates,
            "new_updates": trainer.num_updates - updates_before,
            "env_steps": trainer.num_steps - steps_before,
            "decisions": decisions,
            "version": self._server.get_weights(policy_id).version,
            "metrics": means.take(),
            "wall_s": time.monotonic() - started,
            "waited_s": waited_s,
        }

    def save(self, policy_id: str) -> Task:
        """Make a pool member of what a policy has learnt so far; returns it, as text. The policy may go on learning."""
        return str(self._spec.members.save(self._spec.runtime_id, self._server.get_weights(policy_id).arrays))
        yield  # a task, though it never waits

    def retire(self, policy_id: str) -> Task:
        """Forget a policy that will not learn any more."""
        for kept in (self._policies, self._trainers, self._stores):
            del kept[policy_id]
        for name in (policy_id, replica_of(policy_id)):
            self._server.forget(name)
        return None
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
        shard = yield from self._intake.receive(sequence, store)
        arrived = time.monotonic()
        trainer.advance(shard.env_steps)
        for batch in store.batches():
            if max_updates is None or trainer.num_updates < max_updates:
                self._row.pulse()
                with kept_if_bad(batch, self._spec.log_dir / f"bad_batch_{self._spec.runtime_id}.npz"):
                    means.add(trainer.train(batch))
        self._intake.release()
        return shard.decisions, arrived

    def _conduct_round(
        self, policy_id: str, sequence: int, max_updates: int | None, means: Means
    ) -> Generator[None, None, tuple[int, float]]:
        """Have the gradient workers learn from a round, each from its shard, in lockstep (BSP)."""
        trainer, conductor = self._trainers[policy_id], self._conductor
        shards = yield from conductor.shards()
        arrived = time.monotonic()
        trainer.advance(sum(shard.env_steps for shard in shards))
        conductor.begin(trainer, BSP(range(conductor.num_workers)), lambda: self._publish_networks(policy_id), means)
        while len(conductor.gone) < conductor.num_workers:
            enough = max_updates is not None and trainer.num_updates >= max_updates
            if not conductor.turn(stop=enough):
                yield
            self._row.pulse()
        return sum(shard.decisions for shard in shards), arrived

    def _conduct_freely(
        self, policy_id: str, num_rounds: int, max_updates: int | None, means: Means
    ) -> Generator[None, None, int]:
        """Have the gradient workers learn, each at the pace that the sync mode allows, from as many shards altogether
        as ``num_rounds`` rounds have. Returns their decisions."""
        trainer, conductor, config = self._trainers[policy_id], self._conductor, self._spec.sync
        sync = make_sync(config.sync, (), config.staleness if config.sync in ("bap", "ssp") else None)
        publish, shards, decisions, over = (lambda: self._publish_networks(policy_id)), 0, 0, False
        conductor.begin(trainer, sync, publish, means, config.longest_iteration_s)
        while len(conductor.gone) < conductor.num_workers:
            updates = trainer.num_updates
            progress = conductor.turn()
            while conductor.arrived:
                shard = conductor.arrived.popleft()
                decisions += shard.decisions
                trainer.advance(shard.env_steps)
                version = self._server.get_weights(policy_id).version
                means.add({"policy_lag": float(version - shard.policy_version)})
            while conductor.used_up:
                conductor.used_up.popleft()
                shards += 1
                self._publish(policy_id)  # for the rollout
                self._row.add(step=1)
            self._row.add(updates=trainer.num_updates - updates)
            enough = max_updates is not None and trainer.num_updates >= max_updates
            if not over and (shards >= num_rounds * conductor.num_workers or enough):
                over = True
                conductor.stop()
            if not progress:
                yield
        return decisions

    def _publish_networks(self, policy_id: str) -> int:
        """Publish all that gradients depend on; returns the version."""
        name = replica_of(policy_id)
        version = self._server.get_weights(name).version + 1
        self._server.set_weights(name, version, export_networks(self._trainers[policy_id]))
        return version

    def _publish(self, policy_id: str) -> None:
        version = self._server.get_weights(policy_id).version + 1
        self._server.set_weights(policy_id, version, self._policies[policy_id].export_state())
