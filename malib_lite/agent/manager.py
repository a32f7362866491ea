"""The training manager: all agent interfaces of a run, as the scenario sees them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from malib_lite.agent.sync_tally import SyncTally
from malib_lite.backend.members import Member
from malib_lite.runtime.actors import Call, Runtime


class TrainingManager:
    """Adds policies, counts versions and rounds, and words the calls that have the agents learn."""

    def __init__(self, runtime: Runtime, learners: Sequence[str], num_gradient_workers: int = 0) -> None:
        """
        Args:
            learners: runtime ids of those that learn.
            num_gradient_workers: K of every learner; 0 where they learn themselves.
        """
        self._runtime = runtime
        self._num_gradient_workers = num_gradient_workers
        self._horizon = 0  # of the policies that learn
        self._num_added = 0
        self.runtime_ids = tuple(learners)
        self.versions: dict[str, int] = dict.fromkeys(learners, 0)  # of the policy that learns
        self.rounds = 0  # rounds that every ring has seen
        self.legs = 0  # calls of advance
        self._saved: list[Member] = []  # since they were taken

    @staticmethod
    def actor(runtime_id: str) -> str:
        """Name of a runtime id's actor."""
        return f"learner-{runtime_id}"

    @staticmethod
    def worker(runtime_id: str, number: int) -> str:
        """Name of the actor of a learner's gradient worker."""
        return f"gradients-{runtime_id}-{number}"

    def add_policies(
        self,
        horizon: int,
        parents: Mapping[str, Member] | None = None,
        runtime_ids: Collection[str] | None = None,
    ) -> dict[str, str]:
        """Give runtime ids a new policy each that can learn; returns their ids.

        Args:
            horizon: environment steps that the schedules of their trainers span; the same for all that learn at a time.
            parents: members whose parameters they start from, by runtime id; without one a policy starts anew.
            runtime_ids: None: all. The others go on with what they have.
        """
        self._horizon = horizon
        added = dict.fromkeys(self.runtime_ids if runtime_ids is None else runtime_ids, f"policy-{self._num_added}")
        self._num_added += 1
        parent_of = {runtime_id: str(parent) for runtime_id, parent in (parents or {}).items()}
        self._runtime.run(
            {
                self.actor(runtime_id): Call(
                    "add_policy",
                    {"policy_id": policy_id, "horizon": horizon, "parent": parent_of.get(runtime_id)},
                )
                for runtime_id, policy_id in added.items()
            }
        )
        self.versions |= dict.fromkeys(added, 0)
        return added

    def calls(self, learners: Mapping[str, str], num_rounds: int, max_updates: int | None = None) -> dict[str, Call]:
        """The calls by which each runtime id trains its policy for ``num_rounds`` rounds."""
        calls = {}
        for runtime_id, policy_id in learners.items():
            rounds = {
                "policy_id": policy_id, "num_rounds": num_rounds, "base_sequence": self.rounds, "leg": self.legs
            }  # fmt: skip
            for number in range(self._num_gradient_workers):
                calls[self.worker(runtime_id, number)] = Call(
                    "work", {**rounds, "horizon": self._horizon, "first_version": self.versions[runtime_id]}
                )
            calls[self.actor(runtime_id)] = Call("train", {**rounds, "max_updates": max_updates})
        return calls

    def advance(self, results: Mapping[str, Any], num_rounds: int) -> dict[str, dict[str, Any]]:
        """Note what the calls brought; returns each runtime id's report, with the :class:`SyncTally` under "sync"."""
        self.rounds += num_rounds
        self.legs += 1
        reports = {runtime_id: results[self.actor(runtime_id)] for runtime_id in self.runtime_ids}
        for runtime_id, report in reports.items():
            self.versions[runtime_id] = report["version"]
            shares = [results[self.worker(runtime_id, number)] for number in range(self._num_gradient_workers)]
            for name in shares[0]["metrics"] if shares else ():
                values = [share["metrics"][name] for share in shares if name in share["metrics"]]
                report["metrics"][name] = sum(values) / len(values)
            report["sync"] = SyncTally.from_json(report["sync"])
            for share in shares:
                report["sync"].add(SyncTally.from_json(share["sync"]))
            report["metrics"]["policy_lag"] = report["sync"].mean("policy_lag")
        return reports

    def save(self, policies: Mapping[str, str]) -> dict[str, Member]:
        """Make pool members of what policies (ids by runtime id) have learnt so far."""
        saved = self._ask("save", policies)
        members = {runtime_id: Member.parse(member) for runtime_id, member in saved.items()}
        self._saved += members.values()
        return members

    def take_saved(self) -> list[Member]:
        """The members that were saved since the last call."""
        saved, self._saved = self._saved, []
        return saved

    def retire(self, policies: Mapping[str, str]) -> None:
        """Forget policies that will not learn any more."""
        self._ask("retire", policies)

    def _ask(self, method: str, policies: Mapping[str, str]) -> dict[str, Any]:
        results = self._runtime.run(
            {self.actor(runtime_id): Call(method, {"policy_id": pid}) for runtime_id, pid in policies.items()}
        )
        return {runtime_id: results[self.actor(runtime_id)] for runtime_id in policies}
