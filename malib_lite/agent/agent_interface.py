"""The agent interface: who learns. One per runtime id, in a process of its own where there are processes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from malib_lite.agent.agent_spec import AgentSpec
from malib_lite.agent.alone import LearnsFromArrivals, LearnsFromRounds
from malib_lite.agent.conducted import ConductsFreely, ConductsRounds
from malib_lite.agent.conductor import Conductor
from malib_lite.agent.gradients import replica_of
from malib_lite.agent.intake import Intake
from malib_lite.agent.learning import Learning, Stretch, Trainee
from malib_lite.agent.means import Means
from malib_lite.agent.sync_config import SyncConfig
from malib_lite.backend.members import Member
from malib_lite.backend.ring import Slot
from malib_lite.backend.stores import make_store
from malib_lite.contracts.data import Trajectories
from malib_lite.contracts.joint import JointTrajectories
from malib_lite.runtime.actors import Task
from malib_lite.runtime.board import Row
from malib_lite.runtime.seeds import derive_int, generator


class AgentInterface(ABC):
    """Owns the policies of a runtime id, the data they learn from, and their versions. A service.

    What a kind of agent decides is :meth:`multiagent_post_process`, how the trajectories of the agents it governs
    become what its trainer learns from, and who computes gradients: :meth:`num_gradient_workers`. The way of learning
    follows from that and from the sync mode.
    """

    def __init__(self, row: Row, spec: AgentSpec) -> None:
        self._spec = spec
        self._server = spec.address.serve()
        self._learning = self._way_of_learning(row)
        self._trainees: dict[str, Trainee] = {}  # policies that may still learn

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

    @classmethod
    def num_gradient_workers(cls, sync: SyncConfig) -> int:
        """Of each learner; 0: it computes its gradients itself.

        Raises:
            ConfigError: this kind of agent does not go with the sync mode.
        """
        return sync.learners if sync.learners > 1 else 0

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
        store = make_store(trainer.data_spec(), generator(spec.seed, "store", spec.runtime_id, policy_id))
        self._trainees[policy_id] = Trainee(policy_id, policy, trainer, store, self._server)
        return None
        yield  # a task, though it never waits

    def train(
        self, policy_id: str, num_rounds: int, base_sequence: int, max_updates: int | None = None, leg: int = 0
    ) -> Task:
        """Learn from ``num_rounds`` rounds, one fragment of every worker each, or from as many fragments altogether.

        Args:
            base_sequence: records that each ring had seen before the first round.
            max_updates: the trainer's updates end here; further rounds only keep the rollout in step.
            leg: number of this stretch of training.

        Returns:
            The numbers of updates, environment steps and decisions, the mean of every metric, the version reached, and
            the SyncTally.
        """
        trainee, means = self._trainees[policy_id], Means()
        trainer = trainee.trainer
        if trainee.first_leg is None:
            trainee.first_leg = leg
        updates_before, steps_before, started = trainer.num_updates, trainer.num_steps, time.monotonic()
        outcome = yield from self._learning.learn(trainee, Stretch(num_rounds, base_sequence, leg, max_updates), means)
        outcome.sync.wall_s = time.monotonic() - started
        return {
            "updates": trainer.num_updates,
            "new_updates": trainer.num_updates - updates_before,
            "env_steps": trainer.num_steps - steps_before,
            "decisions": outcome.decisions,
            "version": trainee.version,
            "metrics": means.take(),
            "wall_s": outcome.sync.wall_s,
            "waited_s": outcome.waited_s,
            "sync": outcome.sync.to_json(),
            "timeline": outcome.timeline,
        }

    def save(self, policy_id: str) -> Task:
        """Make a pool member of what a policy has learnt so far; returns it, as text. The policy may go on learning."""
        return str(self._spec.members.save(self._spec.runtime_id, self._server.get_weights(policy_id).arrays))
        yield  # a task, though it never waits

    def retire(self, policy_id: str) -> Task:
        """Forget a policy that will not learn any more."""
        del self._trainees[policy_id]
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

    def _way_of_learning(self, row: Row) -> Learning:
        spec = self._spec
        if spec.workers:
            conductor = Conductor(spec.workers)
            if spec.sync.lockstep:
                return ConductsRounds(row, conductor)
            return ConductsFreely(row, conductor, spec.sync, len(spec.rings))
        intake = Intake(spec.rings, self.multiagent_post_process)
        bad_batches = spec.log_dir / f"bad_batch_{spec.runtime_id}.npz"
        if spec.sync.rollout_lead(0) is None:
            return LearnsFromArrivals(row, intake, bad_batches, spec.sync.lag_bound)
        return LearnsFromRounds(row, intake, bad_batches)
