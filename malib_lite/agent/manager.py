"""The training manager: all agent interfaces of a run, as the scenario sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from malib_lite.backend.parameter_server import ParameterClient
from malib_lite.backend.snapshots import Snapshot
from malib_lite.population.strategy_spec import StrategySpec
from malib_lite.rollout.rolloutworker import PolicySpec
from malib_lite.runtime.actors import Call, Runtime


class TrainingManager:
    """Adds policies, counts versions and rounds, and words the calls that have the agents learn."""

    def __init__(
        self,
        runtime: Runtime,
        groups: Mapping[str, Sequence[str]],
        policies: Mapping[str, PolicySpec],
        client: ParameterClient,
        num_gradient_workers: int = 0,
    ) -> None:
        """
        Args:
            num_gradient_workers: K of every learner; 0 where they learn themselves.
        """
        self._runtime = runtime
        self._num_gradient_workers = num_gradient_workers
        self._horizon = 0  # of the policies that learn
        self._client = client
        self.agent_groups = {runtime_id: tuple(agents) for runtime_id, agents in groups.items()}
        self.policy_specs = dict(policies)
        self.strategies = {
            runtime_id: StrategySpec(
                identifier=runtime_id,
                policy_ids=(),
                meta_data={"policy_cls": spec.policy_class, "kwargs": spec.arguments},
            )
            for runtime_id, spec in policies.items()
        }
        self.versions: dict[str, int] = dict.fromkeys(self.agent_groups, 0)  # of the policy that learns
        self.rounds = 0  # rounds that every ring has seen
        self.legs = 0  # calls of advance

    @property
    def runtime_ids(self) -> tuple[str, ...]:
        """The runtime ids, in a fixed order."""
        return tuple(self.agent_groups)

    @staticmethod
    def actor(runtime_id: str) -> str:
        """Name of a runtime id's actor."""
        return f"learner-{runtime_id}"

    @staticmethod
    def worker(runtime_id: str, number: int) -> str:
        """Name of the actor of a learner's gradient worker."""
        return f"gradients-{runtime_id}-{number}"

    def add_policies(self, horizon: int, parents: Mapping[str, str] | None = None) -> dict[str, str]:
        """Give every runtime id a new policy that can learn; returns their ids."""
        self._horizon = horizon
        added = {runtime_id: f"policy-{spec.num_policy}" for runtime_id, spec in self.strategies.items()}
        self._runtime.run(
            {
                self.actor(runtime_id): Call(
                    "add_policy",
                    {"policy_id": policy_id, "horizon": horizon, "parent": (parents or {}).get(runtime_id)},
                )
                for runtime_id, policy_id in added.items()
            }
        )
        for runtime_id, policy_id in added.items():
            self.strategies[runtime_id].register_policy_id(policy_id)
            self.versions[runtime_id] = 0
        return added

    def calls(self, learners: Mapping[str, str], num_rounds: int, max_updates: int | None = None) -> dict[str, Call]:
        """The calls by which each runtime id trains its policy for ``num_rounds`` rounds."""
        calls = {}
        for runtime_id, policy_id in learners.items():
            rounds = {
                "policy_id": policy_id, "num_rounds": num_rounds, "base_sequence": self.rounds, "leg": self.legs
            }  # fmt: skip
            for number in range(self._num_gradient_workers):
                calls[self.worker(runtime_id, number)] = Call("work", {**rounds, "horizon": self._horizon})
            calls[self.actor(runtime_id)] = Call("train", {**rounds, "max_updates": max_updates})
        return calls

    def advance(self, results: Mapping[str, Any], num_rounds: int) -> dict[str, dict[str, Any]]:
        """Note what the calls brought; returns each runtime id's report."""
        self.rounds += num_rounds
        self.legs += 1
        reports = {runtime_id: results[self.actor(runtime_id)] for runtime_id in self.runtime_ids}
        for runtime_id, report in reports.items():
            self.versions[runtime_id] = report["version"]
            shares = [results[self.worker(runtime_id, number)] for number in range(self._num_gradient_workers)]
            for name in shares[0]["metrics"] if shares else ():
                values = [share["metrics"][name] for share in shares if name in share["metrics"]]
                report["metrics"][name] = sum(values) / len(values)
            report["fragments_dropped"] = sum(share["dropped"] for share in shares)
            for number, share in enumerate(shares):
                for what, seconds in share["waited_s"].items():
                    report[f"worker_{number}_waited_for_{what}_s"] = seconds
        return reports

    def freeze(self, policies: Mapping[str, str]) -> dict[str, str]:
        """Make policies pool members; returns their digests by runtime id."""
        results = self._runtime.run(
            {self.actor(runtime_id): Call("freeze", {"policy_id": pid}) for runtime_id, pid in policies.items()}
        )
        return {runtime_id: results[self.actor(runtime_id)] for runtime_id in policies}

    def snapshot(self, runtime_id: str, policy_id: str, version: int | None = None) -> Snapshot:
        """The parameters of a policy: ``version`` or newer, or, of a pool member, the frozen ones."""
        snapshot: Snapshot = self._runtime.wait(self._client.wait_for(runtime_id, policy_id, version))
        if snapshot.frozen:
            self._client.forget(runtime_id, policy_id)  # whoever asked has it; the learner keeps the pool
        return snapshot
