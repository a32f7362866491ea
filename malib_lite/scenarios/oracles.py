"""Oracles: where best responses come from. One that learns and one that knows, of the same interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from malib_lite.backend.members import Member, MemberFolder
from malib_lite.population.anytime import AnytimeSolver
from malib_lite.population.exploitability import ExactEvaluator
from malib_lite.population.population import Objective, Population
from malib_lite.rollout.books import Books
from malib_lite.scenarios.run import Run
from malib_lite.scenarios.training import Budget, train


class Responses(NamedTuple):
    """A best response of every player that has an objective, and what is to be reported of how it was found."""

    members: dict[str, Member]  # by player
    metrics: dict[str, Any]
    values: dict[str, float] = {}  # by player: what the best responses get, where that is known
    scores: dict[str, dict[str, list[int]]] = {}  # by player: [wins, draws, losses] against members, while it learnt


class Oracle(Protocol):
    """Finds best responses to what a population plays."""

    def first(self) -> dict[str, Member]:
        """What the populations begin with, by player."""

    def respond(self, population: Population, objectives: Mapping[str, Objective]) -> Responses:
        """New best responses, one for each objective, by player."""

    def improve(self, population: Population, objectives: Mapping[str, Objective]) -> Responses:
        """The best responses of last time, after as much work again."""


class LearntOracle:
    """Every player's trainer, with a new policy for each best response."""

    def __init__(self, run: Run, budget: Budget, horizon: int | None = None) -> None:
        """
        Args:
            budget: of one response or improvement.
            horizon: environment steps that the schedules of a policy's trainer span; None: those of the budget.
        """
        self._run = run
        self._budget = budget
        self._horizon = budget.env_steps if horizon is None else horizon
        self._learning: dict[str, str] = {}  # policy ids, by player
        self._objectives: dict[str, Objective] = {}  # each learner's last one
        self._updates = 0  # that those who learn have behind them

    def first(self) -> dict[str, Member]:
        """Untrained networks."""
        self._begin()
        return self._run.training.save(self._learning)

    def respond(self, population: Population, objectives: Mapping[str, Objective]) -> Responses:
        self._begin({player: it.start for player, it in objectives.items() if it.start is not None})
        return self.improve(population, objectives)

    def improve(self, population: Population, objectives: Mapping[str, Objective]) -> Responses:
        # All learners keep step: one without an objective has its last one again, and what comes of it is dropped.
        self._objectives |= objectives
        opponents = {player: population.pools(self._objectives[player].opponents) for player in self._learning}
        metrics: dict[str, Any] = {}
        updates = None if self._budget.updates is None else self._updates + self._budget.updates
        budget, books = dataclasses.replace(self._budget, updates=updates), Books()
        for leg in train(self._run, self._learning, budget, num_legs=4, opponents=opponents):
            books.merge(leg.books)
            self._updates = max(report["updates"] for report in leg.reports.values())
            for player, report in leg.reports.items():
                if player in objectives:
                    metrics[f"{player}/updates"] = report["updates"]
                    metrics.update({f"{player}/{name}": value for name, value in report["metrics"].items()})
        answered = {player: policy_id for player, policy_id in self._learning.items() if player in objectives}
        return Responses(self._run.training.save(answered), metrics, scores=books.scores)

    def _begin(self, parents: Mapping[str, Member] | None = None) -> None:
        if self._learning:
            self._run.training.retire(self._learning)
        self._learning = self._run.training.add_policies(self._horizon, parents)
        self._updates = 0


class ExactOracle:
    """Best responses that are computed, where the game offers it. Its members are tables."""

    def __init__(self, exact: ExactEvaluator, agents: Mapping[str, str], folder: MemberFolder) -> None:
        """
        Args:
            agents: the only agent of each player.
        """
        self._exact = exact
        self._agents = dict(agents)
        self._folder = folder

    def first(self) -> dict[str, Member]:
        """Every legal action alike."""
        members = {}
        for player, agent in self._agents.items():
            legal = self._exact.game.information_sets(agent)[1]
            members[player] = self._save(player, legal / legal.sum(axis=1, keepdims=True))
        return members

    def respond(self, population: Population, objectives: Mapping[str, Objective]) -> Responses:
        found = {p: self.find(population, p, it.opponents) for p, it in objectives.items()}
        members = {player: self._save(player, table) for player, (_, table) in found.items()}
        return Responses(members, {}, {player: value for player, (value, _) in found.items()})

    def improve(self, population: Population, objectives: Mapping[str, Objective]) -> Responses:
        """Nothing is left to improve."""
        return self.respond(population, objectives)

    def find(
        self, population: Population, player: str, opponents: Mapping[str, np.ndarray]
    ) -> tuple[float, np.ndarray]:
        """The best return against mixtures (P,) of the others, and a policy (I, A) that earns it."""
        return population.best_response(player, opponents)

    def _save(self, player: str, table: np.ndarray) -> Member:
        return self._folder.save(player, {"table": np.asarray(table, np.float64)})


class EquilibriumOracle(ExactOracle):
    """Best responses that play as the player does in equilibrium with the other's mixture: mixed where it has to be."""

    def __init__(self, solver: AnytimeSolver, *args: Any) -> None:
        """
        Args:
            solver: where the mixtures come from, too.

        The others are those of :class:`ExactOracle`.
        """
        super().__init__(*args)
        self._solver = solver

    def find(
        self, population: Population, player: str, opponents: Mapping[str, np.ndarray]
    ) -> tuple[float, np.ndarray]:
        agent = self._agents[player]
        return self._solver.values[agent], self._solver.answers[agent]
