"""Ways of learning: how an agent interface comes from what was played to the next version. Here, what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, NamedTuple

from malib_lite.agent.gradients import export_networks, replica_of
from malib_lite.agent.means import Means
from malib_lite.agent.sync_tally import SyncTally
from malib_lite.backend.parameter_server import ParameterServer
from malib_lite.backend.stores import Store
from malib_lite.contracts.policy import Policy
from malib_lite.contracts.trainer import Trainer


class Trainee:
    """A policy that learns, with its trainer, what it learns from, and the versions of it that are published."""

    def __init__(
        self, policy_id: str, policy: Policy, trainer: Trainer[Any, Any], store: Store, server: ParameterServer
    ) -> None:
        self.policy_id = policy_id
        self.trainer = trainer
        self.store = store
        self.first_leg: int | None = None  # in which it learnt; what was played before is another one's
        self._policy = policy
        self._server = server
        server.set_weights(policy_id, 0, policy.export_state())

    @property
    def version(self) -> int:
        """Of the policy, as published for the rollout."""
        return self._server.get_weights(self.policy_id).version

    def publish(self) -> None:
        """Publish the policy, for the rollout."""
        self._server.set_weights(self.policy_id, self.version + 1, self._policy.export_state())

    def publish_networks(self) -> int:
        """Publish all that gradients depend on, for gradient workers; returns the version, from 0 on."""
        name = replica_of(self.policy_id)
        version = self._server.get_weights(name).version + 1 if name in self._server.tables else 0
        self._server.set_weights(name, version, export_networks(self.trainer))
        return version


class Stretch(NamedTuple):
    """A stretch of training."""

    num_rounds: int  # as many fragments of every rollout worker are to be learnt from
    base_sequence: int  # records that each ring had seen before the first round
    leg: int  # its number
    max_updates: int | None  # the trainer's updates end here; further rounds only keep the rollout in step

    def is_enough(self, trainer: Trainer[Any, Any]) -> bool:
        """Whether the trainer is to do no further update."""
        return self.max_updates is not None and trainer.num_updates >= self.max_updates


class Outcome(NamedTuple):
    """What a stretch brought, beside what the trainer counts."""

    decisions: int
    waited_s: float  # until there was something to learn from
    sync: SyncTally
    timeline: list[Any]  # the first iterations of gradient workers


class Learning(ABC):
    """A way of learning."""

    @abstractmethod
    def learn(self, trainee: Trainee, stretch: Stretch, means: Means) -> Generator[None, None, Outcome]:
        """Learn for a stretch; ``means`` takes the metrics in."""
