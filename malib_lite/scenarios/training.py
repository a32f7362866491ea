"""The inner loop that scenarios share: rollout and learning side by side until a budget is used up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from malib_lite.rollout.manager import Pools
from malib_lite.scenarios.run import Leg, Run


@dataclass
class Budget:
    """Where a training ends; the first limit counts."""

    env_steps: int  # of each learner, in its own environments
    rounds: int | None = None
    updates: int | None = None  # of each learner


def train(
    run: Run,
    learners: Mapping[str, str],
    budget: Budget,
    num_legs: int,
    opponents: Mapping[str, Pools] | None = None,
) -> Iterator[Leg]:
    """Train ``learners`` (policy id by runtime id), in about ``num_legs`` legs; yields after each.

    ``opponents`` are the pools that play for those who do not learn in a learner's arena, by its runtime id. Within a
    leg workers and learners keep step with each other through rings and parameter versions alone (BSP): the
    main process only watches.
    """
    leg = Leg()
    rounds = 1  # the first leg finds out how many steps a round has
    while True:
        calls = {
            **run.training.calls(learners, rounds, budget.updates),
            **run.rollout.calls(
                learners, run.training.versions, rounds, run.training.rounds, run.training.legs, opponents
            ),
        }
        results = run.runtime.run(calls, run.watch)
        leg.books = run.rollout.retrieve(results)
        leg.reports = run.training.advance(results, rounds)
        # Not the books' number: theirs covers all arenas, and those of a worker that was killed are lost.
        leg.env_steps += min(report["env_steps"] for report in leg.reports.values())
        leg.rounds += rounds
        run.count(leg)
        steps_per_round = max(1.0, leg.env_steps / leg.rounds)
        left = int(-(-(budget.env_steps - leg.env_steps) // steps_per_round))
        if budget.rounds is not None:
            left = min(left, budget.rounds - leg.rounds)
        if budget.updates is not None and all(report["updates"] >= budget.updates for report in leg.reports.values()):
            left = 0
        leg.is_last = left <= 0
        yield leg
        if leg.is_last:
            return
        rounds = max(1, min(left, round(budget.env_steps / steps_per_round / num_legs)))
