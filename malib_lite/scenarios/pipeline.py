"""A pipeline of best responses that learn at the same time (P2SRO; McAleer et al. 2020, https://arxiv.org/abs/2006.08555).

Every player has L policies that learn, its levels. The lowest one answers the mixtures of the population. Each of the
others answers the mixtures of the population and of what is learning below it, as that was a moment ago. So when the
lowest one is done and becomes a member, the next one has learnt for long already, against nearly the right opponents.

    repeat
        for all levels at the same time: learn a part of what a policy learns altogether, against the mixtures below
        when the lowest ones have learnt as much as a policy shall: they become members, and new ones start at the top

All levels begin at the same time, so their first policies wait for each other and learn for longer.

Deviations: in the paper a policy is done when it gains no more; here when it has learnt for ``--steps``, the last part
of them against the population alone (``psro.min_gain`` and ``second_chances`` may say more). Mixtures are found between
the parts, not all the time, so that a run can be repeated to the bit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from malib_lite.backend.members import Member
from malib_lite.population.population import Objective, Population
from malib_lite.rollout.manager import Pools
from malib_lite.scenarios.oracles import Responses
from malib_lite.scenarios.run import Run
from malib_lite.scenarios.training import Budget, train

# From the snapshots of every level, by player: whom each level above the lowest plays, by player.
OpponentsAbove = Callable[[Sequence[Mapping[str, Member]]], list[dict[str, Pools]]]


class PipelineOracle:
    """Best responses by level: who answers is the lowest of each player."""

    def __init__(
        self, run: Run, levels: Mapping[str, Sequence[str]], budget: Budget, opponents_above: OpponentsAbove
    ) -> None:
        """
        Args:
            levels: runtime ids of each player, as many for all.
            budget: of one policy, in environment steps and rounds; no fewer rounds than levels.
            opponents_above: called between the parts of a training.
        """
        self._run = run
        self._levels = {player: deque(ids) for player, ids in levels.items()}  # the lowest first
        self._num_levels = min(map(len, self._levels.values()))
        rounds = None if budget.rounds is None else budget.rounds // self._num_levels
        self._budget = Budget(math.ceil(budget.env_steps / self._num_levels), rounds)  # of a part
        self._horizon = budget.env_steps
        self._opponents_above = opponents_above
        self._learning: dict[str, str] = {}  # policy ids, by runtime id
        self._parts: dict[str, int] = {}  # that each of them has learnt for

    def first(self) -> dict[str, Member]:
        """Untrained networks, which make room for others."""
        self._learning = self._run.training.add_policies(self._horizon)
        self._parts = dict.fromkeys(self._learning, 0)
        return self._save(0)

    def respond(self, population: Population, objectives: Mapping[str, Objective]) -> Responses:
        """What the next lowest ones have learnt, of each player, when they are done; who answered last time leaves."""
        self._start_anew()
        while True:
            responses = self.improve(population, objectives)
            if all(self._parts[ids[0]] >= self._num_levels for ids in self._levels.values()):
                return responses

    def improve(self, population: Population, objectives: Mapping[str, Objective]) -> Responses:
        """Another part of a training for all levels; the lowest ones answer."""
        below = [self._save(level) for level in range(self._num_levels - 1)]
        pools: list[Mapping[str, Pools]] = [
            {player: population.pools(objective.opponents) for player, objective in objectives.items()},
            *self._opponents_above(below),
        ]
        opponents = {ids[level]: pools[level][p] for p, ids in self._levels.items() for level in range(len(ids))}
        metrics: dict[str, Any] = {}
        for leg in train(self._run, self._learning, self._budget, num_legs=1, opponents=opponents):
            for player, ids in self._levels.items():
                report = leg.reports[ids[0]]
                metrics[f"{player}/updates"] = report["updates"]
                metrics.update({f"{player}/{name}": value for name, value in report["metrics"].items()})
        self._parts = {runtime_id: parts + 1 for runtime_id, parts in self._parts.items()}
        return Responses(self._save(0), metrics)

    # -- inside -------------------------------------------------------------------------------------------------

    def _start_anew(self) -> None:
        """The lowest ones of last time, which are done, leave; new ones come in at the top."""
        lowest = [ids[0] for ids in self._levels.values()]
        self._run.training.retire({runtime_id: self._learning[runtime_id] for runtime_id in lowest})
        self._learning |= self._run.training.add_policies(self._horizon, runtime_ids=lowest)
        self._parts |= dict.fromkeys(lowest, 0)
        for ids in self._levels.values():
            ids.rotate(-1)

    def _save(self, level: int) -> dict[str, Member]:
        """Snapshots of a level, by player."""
        names = {ids[level]: player for player, ids in self._levels.items()}
        saved = self._run.training.save({runtime_id: self._learning[runtime_id] for runtime_id in names})
        return {names[runtime_id]: member for runtime_id, member in saved.items()}
