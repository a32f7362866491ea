"""What an agent interface and its gradient workers are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from malib_lite.agent.gradients import WorkerLink
from malib_lite.agent.sync_config import SyncConfig
from malib_lite.backend.members import MemberFolder
from malib_lite.backend.parameter_server import Link, ParameterServer
from malib_lite.backend.ring import RingSpec
from malib_lite.contracts.trainer import Trainer
from malib_lite.rollout.rolloutworker import PolicySpec


class Address(Protocol):
    """Where this runtime id's parameters are to be had."""

    def serve(self) -> ParameterServer:
        """Bind, in the process that owns the server."""

    def connect(self) -> Link:
        """Follow, from any process."""


@dataclass(frozen=True)
class AgentSpec:
    """What an agent interface is made from."""

    runtime_id: str
    governed_agents: Sequence[str]
    policy: PolicySpec
    trainer_class: type[Trainer[Any, Any]]
    trainer_config: Any
    address: Address
    members: MemberFolder  # where policies are saved
    rings: Sequence[RingSpec]  # one per rollout worker, in the workers' order; gradient workers share them
    log_dir: Path
    seed: int
    sync: SyncConfig
    workers: Sequence[WorkerLink] = ()  # the gradient workers, in their order; none where the learner learns itself
    device: str = "cpu"  # where policies learn; they play on the CPU
