"""What a small game can offer beside stepping: its exact values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import AgentID


class Names(NamedTuple):
    """What people call an agent's information sets and actions."""

    information_sets: list[str]  # I of them, in the order of the tabular policies' rows
    actions: list[str]  # A of them
    order: list[int]  # the numbers of the information sets, as people would list them
    legend: str = ""  # how the names of the information sets are to be read


class ExactGame(ABC):
    """A finite game whose payoffs and best responses are computed, not sampled.

    A *tabular policy* of an agent is an array (I, A) of action probabilities over the agent's I information sets, in
    the order of :meth:`information_sets`; illegal actions have probability zero. A *pool* is (P, I, A), and a mixture
    over it plays one member, drawn before the game starts.

    A policy's *plan* is a vector (S,) float64 in which every agent's payoff is linear, whatever the others play. So a
    mixture over policies is worth what the mixture of their plans is worth, and a population that grows is best kept
    as plans: the methods that take pools turn them into plans each time.
    """

    agents: list[AgentID]

    @abstractmethod
    def information_sets(self, agent: AgentID) -> tuple[np.ndarray, np.ndarray]:
        """Observations (I, *obs) and legal actions (I, A) bool of the agent's information sets."""

    def describe(self, agent: AgentID) -> Names | None:
        """Names of the agent's information sets and actions; None where there are no better ones than their numbers."""
        return None

    @abstractmethod
    def largest_return(self) -> float:
        """The largest absolute return that any agent can have in any play of the game."""

    # -- with plans ---------------------------------------------------------------------------------------------

    @abstractmethod
    def plans(self, agent: AgentID, pool: np.ndarray) -> np.ndarray:
        """The plans (P, S) float64 of a pool (P, I, A).

        Raises:
            ValueError: the shape is another one, or a row is no distribution over the legal actions.
        """

    @abstractmethod
    def behaviour(self, agent: AgentID, plan: np.ndarray) -> np.ndarray:
        """The tabular policy (I, A) float64 that has this plan (S,), or is worth the same as this mixture of plans.

        Where the plan itself never leads, whatever the others do, all legal actions have the same probability.
        """

    @abstractmethod
    def plan_payoffs(self, plans: Sequence[np.ndarray]) -> np.ndarray:
        """:meth:`payoffs`, from one array of plans (P_n, S_n) per agent."""

    @abstractmethod
    def respond(self, agent: AgentID, plans: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        """:meth:`best_response` to one plan (S_n,) per agent, of which the agent's own is ignored."""

    def plan_gains(self, plans: Sequence[np.ndarray]) -> np.ndarray:
        """:meth:`gains`, where every agent plays one plan (S_n,)."""
        values = self.plan_payoffs([plan[None] for plan in plans]).reshape(len(self.agents))
        return np.array([self.respond(agent, plans)[0] for agent in self.agents]) - values

    # -- with pools ---------------------------------------------------------------------------------------------

    def payoffs(self, pools: Sequence[np.ndarray]) -> np.ndarray:
        """Expected returns of every joint choice of pool members.

        Args:
            pools: one (P_n, I_n, A_n) array per agent.

        Returns:
            (N, P_1, ..., P_N) float64.
        """
        self._check_count(pools)
        return self.plan_payoffs([self.plans(agent, pool) for agent, pool in zip(self.agents, pools, strict=True)])

    def best_response(
        self, agent: AgentID, pools: Sequence[np.ndarray], mixtures: Sequence[np.ndarray]
    ) -> tuple[float, np.ndarray]:
        """The best return of ``agent`` against the others' mixtures, and a deterministic policy (I, A) that earns it.

        The agent's own pool and mixture are ignored.
        """
        self._check_count(pools, mixtures)
        plans = [
            np.empty(0) if other == agent else self._mix(other, pool, mixture)
            for other, pool, mixture in zip(self.agents, pools, mixtures, strict=True)
        ]
        return self.respond(agent, plans)

    def gains(self, pools: Sequence[np.ndarray], mixtures: Sequence[np.ndarray]) -> np.ndarray:
        """How much each agent gains by a best response to the mixtures, (N,) float64; negative only by rounding."""
        self._check_count(pools, mixtures)
        return self.plan_gains(
            [self._mix(agent, *its) for agent, *its in zip(self.agents, pools, mixtures, strict=True)]
        )

    def nash_conv(self, pools: Sequence[np.ndarray], mixtures: Sequence[np.ndarray]) -> float:
        """NashConv of the mixtures: the *sum* of all agents' gains (exploitability is this divided by N)."""
        return float(self.gains(pools, mixtures).sum())

    # -- what only some games offer -----------------------------------------------------------------------------

    def check_restricted(self) -> None:
        """That there is a :meth:`restricted_equilibrium`, which is asked before anything begins.

        Raises:
            ConfigError: the game is not solved so: it has other than two players, is not zero-sum, or offers it not.
        """
        raise ConfigError(f"{type(self).__name__} has no restricted games: only compiled two-player zero-sum games do")

    def restricted_equilibrium(self, allowed: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A Nash equilibrium of the game in which the agents take only some of their actions.

        Args:
            allowed: per agent (I, A) bool; at least one legal action of every information set.

        Returns:
            One tabular policy (I, A) per agent. Where an agent itself never goes, its allowed actions are alike.

        Raises:
            ConfigError: as of :meth:`check_restricted`.
        """
        self.check_restricted()
        raise NotImplementedError

    # -- inside -------------------------------------------------------------------------------------------------

    def _mix(self, agent: AgentID, pool: np.ndarray, mixture: np.ndarray) -> np.ndarray:
        """The plan (S,) of a mixture (P,) over a pool (P, I, A)."""
        mixture = np.asarray(mixture, np.float64)
        if mixture.shape != (len(pool),):
            raise ValueError(f"the mixture of {agent} has shape {mixture.shape} for a pool of {len(pool)} policies")
        support = np.flatnonzero(mixture)  # equilibria leave most members of a large pool out
        return mixture[support] @ self.plans(agent, np.asarray(pool)[support])

    def _check_count(self, *per_agent: Sequence[np.ndarray]) -> None:
        for given in per_agent:
            if len(given) != len(self.agents):
                raise ValueError(f"{len(given)} pools or mixtures were given for the {len(self.agents)} agents")
