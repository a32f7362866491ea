"""Multi-agent reinforcement learning as such: every runtime id learns, all in the same environments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from malib_lite.backend.members import Member
from malib_lite.scenarios.run import Leg, Run
from malib_lite.scenarios.scenario import Scenario
from malib_lite.scenarios.stopping import RewardImprovement
from malib_lite.scenarios.training import Budget, train

_NUM_REPORTS = 50
_FEW = 4  # agents of whom each is shown, not only their mean
_CURVES = (("", "training episodes"), ("eval/", "evaluation"))


class MARLScenario(Scenario):
    """One policy per runtime id, trained until the budget is used up."""

    default_steps = 150_000

    def arenas(self) -> list[list[str]]:
        return [list(self.groups)]

    def execute(self, run: Run) -> dict[str, Any]:
        learners = run.training.add_policies(horizon=self.total_steps)
        budget = Budget(self.total_steps, self.stopping.rollout.max_iteration, self.stopping.training.max_iteration)
        improvement = RewardImprovement(
            self.stopping.rollout.minimum_reward_improvement, self.stopping.rollout.patience
        )
        run.expect("steps", budget.env_steps)
        evaluated: dict[str, float] = {}  # by the latest evaluation
        for number, leg in enumerate(train(run, learners, budget, _NUM_REPORTS)):
            values, due = self._values(leg), number % self.rollout.eval_interval == 0 or leg.is_last
            if due:
                evaluated = self._evaluate(run, self._save(run, learners, leg))
                values.update(evaluated)
            run.report(leg.env_steps, values)
            run.console.say(_line(leg, values))
            if due and improvement.should_stop(evaluated["eval/return_mean"]):
                run.console.say("the evaluation has stopped improving")
                break
        return {"return_mean": evaluated["eval/return_mean"], **evaluated}

    def plot(self, run: Run) -> None:
        from malib_lite.runtime.plots import plot_curves

        curves = {}
        agents = self.env_description["possible_agents"]
        shown = (
            {"return_mean": ""} if len(agents) == 1 or len(agents) > _FEW else {f"return/{a}": f"{a}, " for a in agents}
        )
        lines = [(prefix + key, who + what) for key, who in shown.items() for prefix, what in _CURVES]
        for key, name in lines:
            points = [(r["step"], r[key]) for r in run.reports if key in r and math.isfinite(r[key])]
            if points:
                curves[name] = points
        if curves:
            path = run.folder.path / "plots" / "return.png"
            plot_curves(path, self.title, "environment steps", "mean return", curves)

    # -- inside -------------------------------------------------------------------------------------------------

    def _evaluate(self, run: Run, members: Mapping[str, Member]) -> dict[str, float]:
        """Play with exploration off, in environments of its own."""
        match = {runtime_id: {member: 1.0} for runtime_id, member in members.items()}
        books = run.rollout.simulate([match], self.rollout.num_eval_episodes, greedy=True)[0]
        run.count_crashes(books)
        return books.summary("eval/")

    def _save(self, run: Run, learners: Mapping[str, str], leg: Leg) -> dict[str, Member]:
        members = run.training.save(learners)
        policies = {runtime_id: member.digest for runtime_id, member in members.items()}
        run.checkpoint({"env_steps": leg.env_steps, "policies": policies})
        return members

    def _values(self, leg: Leg) -> dict[str, Any]:
        values: dict[str, Any] = {"episodes": leg.books.length.count, **leg.books.summary()}
        for runtime_id, report in leg.reports.items():
            values[f"{runtime_id}/updates"] = report["updates"]
            values.update({f"{runtime_id}/{name}": value for name, value in report["metrics"].items()})
        return values


def _line(leg: Leg, values: Mapping[str, Any]) -> str:
    evaluated = f"   evaluation {_shown(values, 'eval/')}" if "eval/return_mean" in values else ""
    played = f"steps {leg.env_steps:>9,}   episodes {values['episodes']:>6,}"
    return f"{played}   return {_shown(values, '')}{evaluated}"


def _shown(values: Mapping[str, Any], prefix: str) -> str:
    """The return of each of a few agents, the mean of many: between opponents the mean says nothing."""
    each = [value for name, value in values.items() if name.startswith(f"{prefix}return/")]
    return " / ".join(f"{value:.2f}" for value in each if len(each) <= _FEW) or f"{values[f'{prefix}return_mean']:9.2f}"
