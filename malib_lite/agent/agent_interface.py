"""The agent interface: who learns. One per runtime id, in a process of its own where there are processes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from malib_lite.backend.parameter_server import ParameterServer
from malib_lite.backend.ring import Ring, RingSpec, Slot
from malib_lite.backend.stores import Store, make_store
from malib_lite.contracts.data import Trajectories
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.contracts.policy import Policy
from malib_lite.contracts.trainer import Metrics, Trainer
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.runtime.actors import Task
from malib_lite.runtime.board import Row
from malib_lite.runtime.seeds import derive_int, generator


class Address(Protocol):
    """Where this runtime id's parameters are to be had."""

    def serve(self) -> ParameterServer:
        """Bind, in the process that owns the server."""


@dataclass(frozen=True)
class AgentSpec:
    """What an agent interface is made from."""

    runtime_id: str
    governed_agents: Sequence[str]
    policy: PolicySpec
    trainer_class: type[Trainer[Any, Any]]
    trainer_config: Any
    address: Address
    rings: Sequence[RingSpec]  # one per rollout worker, in the workers' order
    log_dir: Path
    seed: int


class AgentInterface(ABC):
    """Owns the policies of a runtime id, the data they learn from, and their versions. A service.

    What a kind of agent decides is :meth:`multiagent_post_process`: how the trajectories of the agents it governs
    become what its trainer learns from.
    """

    def __init__(self, row: Row, spec: AgentSpec) -> None:
        self._row = row
        self._spec = spec
        self._server = spec.address.serve()
        self._rings: list[Ring] = [ring.open() for ring in spec.rings]
        self._policies: dict[str, Policy] = {}  # those that may still learn
        self._trainers: dict[str, Trainer[Any, Any]] = {}
        self._stores: dict[str, Store] = {}

    @property
    def governed_agents(self) -> tuple[str, ...]:
        """The environment agents that this interface learns for."""
        return tuple(self._spec.governed_agents)

    @abstractmethod
    def multiagent_post_process(self, slots: Sequence[Slot]) -> Sequence[Trajectories | JointTrajectories]:
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
        trainer, store = self._trainers[policy_id], self._stores[policy_id]
        means = _Means()
        updates_before, steps_before, decisions = trainer.num_updates, trainer.num_steps, 0
        started, waited_s = time.monotonic(), 0.0
        for number in range(num_rounds):
            began = time.monotonic()
            slots = yield from self._receive(base_sequence + number)
            waited_s += time.monotonic() - began
            fragments = self.multiagent_post_process(slots)
            for fragment in fragments:
                store.add(fragment)
            decisions += sum(fragment.num_decisions for fragment in fragments)
            trainer.advance(sum(slot.meta["env_steps"] for slot in slots))
            updates = trainer.num_updates
            for batch in store.batches():
                if max_updates is None or trainer.num_updates < max_updates:
                    means.add(self._learn(trainer, batch))
            for ring in self._rings:
                ring.release()  # not earlier: on-policy batches are views of the slots
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
        return self._server.freeze(policy_id).digest()
        yield  # a task, though it never waits

    # -- service ------------------------------------------------------------------------------------------------

    def idle(self) -> None:
        self._server.serve()

    def close(self) -> None:
        self._server.close()

    # -- inside -------------------------------------------------------------------------------------------------

    def _receive(self, sequence: int) -> Generator[None, None, list[Slot]]:
        """One round's slots, in the workers' order: never that of arrival, or sums would depend on it."""
        slots = []
        for worker, ring in enumerate(self._rings):
            while (slot := ring.try_read()) is None:
                yield
            if slot.meta["sequence"] != sequence:
                raise RuntimeError(f"worker {worker} sent record {slot.meta['sequence']} where {sequence} was due")
            slots.append(slot)
        return slots

    def _learn(self, trainer: Trainer[Any, Any], batch: Any) -> Metrics:
        """One batch. Where numbers break down the batch is kept for whoever looks into it."""
        self._row.pulse()
        try:
            return trainer.train(batch)
        except FloatingPointError as error:
            path = self._spec.log_dir / f"bad_batch_{self._spec.runtime_id}.npz"
            arrays: dict[str, Any] = {name: v for name, v in vars(batch).items() if isinstance(v, np.ndarray)}
            np.savez(path, **arrays)
            raise FloatingPointError(f"{error}; the batch is in {path}") from error

    def _publish(self, policy_id: str) -> None:
        version = self._server.get_weights(policy_id).version + 1
        self._server.set_weights(policy_id, version, self._policies[policy_id].export_state())


class _Means:
    """Running means of named metrics."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}
