"""Mixtures that lose as little as a pool allows, whatever the other player does (two players, zero-sum).

A Nash mixture of the payoff table is safe against the other player's *pool*; NashConv, which counts everything that the
other may do, can rise when members are added. The mixtures of anytime double oracle are safe against the whole game, so
NashConv does not rise (McAleer et al. 2022, https://arxiv.org/abs/2201.07700). A player with a pool meets another one
without any restriction:

    answers = none
    repeat
        mixture, theirs = equilibrium of (pool, answers)
        add the other player's best response to the mixture, until it earns what theirs does

How the other player plays in that equilibrium is a best response to the mixture, and mixed where it has to be: what
self-play PSRO adds to the other's pool (McAleer et al. 2022, https://arxiv.org/abs/2207.06541). On Leduc poker that
takes far fewer rounds than the double oracle; on games of a few actions, where that one ends, it may take more.

Deviations: the papers find both by regret minimisation and reinforcement learning; here they are computed, by this one-
sided double oracle, to within a hundredth of NashConv, by which it may rise. Self-play PSRO also adds a best response
that is not mixed.
"""

from __future__ import annotations

import numpy as np

from malib_lite.population.exploitability import ExactEvaluator
from malib_lite.population.meta_solvers import nash

_SHARE = 0.01  # of NashConv: how much better a mixture could be at most
_FINEST = 1e-9  # differences below this are rounding, as a part of the largest payoff
# Answers that earn so much less than the best ones, as a part of the payoff range, are forgotten: programs stay small.
_SLACK = 0.0002


class AnytimeSolver:
    """A meta-solver; and, for every agent, how it plays against the other's mixture in equilibrium."""

    def __init__(self, exact: ExactEvaluator) -> None:
        """
        Args:
            exact: the pools, not empty, of two agents whose payoffs add up to a constant.
        """
        self._exact = exact
        self._tolerance = np.inf
        self._largest = 0.0  # payoff seen so far
        self.answers: dict[str, np.ndarray] = {}  # by agent: tabular policy (I, A)
        self.values: dict[str, float] = {}  # by agent: the best return against the other's mixture
        self.guarantees: dict[str, float] = {}  # by agent: what its mixture earns whatever the other does
        # An agent's answers so far, as plans (C, S), with one to begin with.
        self._found = {agent: self._respond(agent, exact.plans(other)[0])[1] for agent, other in self._pairs()}

    def __call__(self, payoffs: np.ndarray) -> list[np.ndarray]:
        """Mixtures (P_1,) and (P_2,) of the pools, of whose ``payoffs`` (2, P_1, P_2) only the sum matters."""
        total = float(payoffs.sum(axis=0).mean())
        while True:
            mixtures = [self._solve(agent, other) for agent, other in self._pairs()]
            self.guarantees = {agent: total - self.values[other] for agent, other in self._pairs()}
            nash_conv = sum(self.values.values()) - total
            wanted = max(_FINEST * self._largest, _SHARE * nash_conv)
            if self._tolerance <= wanted:
                return mixtures
            self._tolerance = wanted

    def _pairs(self) -> list[tuple[str, str]]:
        first, second = self._exact.agents
        return [(first, second), (second, first)]

    def _solve(self, agent: str, other: str) -> np.ndarray:
        """The agent's mixture (P,); notes what the other does about it."""
        pool = self._exact.plans(agent)
        earned = self._payoffs(other, self._found[other])
        while True:
            mixture, theirs = nash(np.stack([-earned, earned]))
            expected = float(mixture @ earned @ theirs)
            best, plan = self._respond(other, mixture @ pool)
            # An answer that is there already has nothing to add but the program's rounding.
            if best - expected <= self._tolerance or (self._found[other] == plan).all(axis=1).any():
                break
            self._found[other] = np.concatenate([self._found[other], plan])
            earned = np.concatenate([earned, self._payoffs(other, plan)], axis=1)
        self.values[other] = best
        self.answers[other] = self._exact.game.behaviour(other, theirs @ self._found[other])
        self._found[other] = self._found[other][mixture @ earned >= expected - _SLACK * np.ptp(earned)]
        return mixture

    def _respond(self, agent: str, plan: np.ndarray) -> tuple[float, np.ndarray]:
        """The best return against the other's plan (S,), and a plan (1, S) that earns it."""
        plans = [np.empty(0) if each == agent else plan for each in self._exact.agents]
        best, policy = self._exact.game.respond(agent, plans)
        return best, self._exact.game.plans(agent, policy[None])

    def _payoffs(self, agent: str, plans: np.ndarray) -> np.ndarray:
        """What an agent earns by plans (C, S) against the members of the other's pool, (P, C)."""
        game = self._exact.game
        table = game.plan_payoffs([plans if each == agent else self._exact.plans(each) for each in game.agents])
        self._largest = max(self._largest, float(np.abs(table).max()))
        return table[0].T if agent == game.agents[0] else table[1]
