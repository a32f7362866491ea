"""What a small game can offer beside stepping: its exact values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from malib_lite.contracts.environment import AgentID


class ExactGame(ABC):
    """A finite game whose payoffs and best responses are computed, not sampled.

    A *tabular policy* of an agent is an array (I, A) of action probabilities over the agent's I information sets, in
    the order of :meth:`information_sets`; illegal actions have probability zero. A *pool* is (P, I, A), and a mixture
    over it plays one member, drawn before the game starts.
    """

    agents: list[AgentID]

    @abstractmethod
    def information_sets(self, agent: AgentID) -> tuple[np.ndarray, np.ndarray]:
        """Observations (I, *obs) and legal actions (I, A) bool of the agent's information sets."""

    @abstractmethod
    def payoffs(self, pools: Sequence[np.ndarray]) -> np.ndarray:
        """Expected returns of every joint choice of pool members.

        Args:
            pools: one (P_n, I_n, A_n) array per agent.

        Returns:
            (N, P_1, ..., P_N) float64.
        """

    @abstractmethod
    def best_response(
        self, agent: AgentID, pools: Sequence[np.ndarray], mixtures: Sequence[np.ndarray]
    ) -> tuple[float, np.ndarray]:
        """The best return of ``agent`` against the others' mixtures, and a deterministic policy (I, A) that earns it.

        The agent's own pool and mixture are ignored.
        """

    def gains(self, pools: Sequence[np.ndarray], mixtures: Sequence[np.ndarray]) -> np.ndarray:
        """How much each agent gains by a best response to the mixtures, (N,) float64; never negative."""
        aggregate = [np.asarray(m, dtype=np.float64) for m in mixtures]
        values = self.payoffs(pools)
        for mixture in aggregate:  # contract the first pool axis each time
            values = np.tensordot(values, mixture, axes=([1], [0]))
        best = [self.best_response(agent, pools, mixtures)[0] for agent in self.agents]
        return np.asarray(best) - values

    def nash_conv(self, pools: Sequence[np.ndarray], mixtures: Sequence[np.ndarray]) -> float:
        """NashConv of the mixtures: the *sum* of all agents' gains (exploitability is this divided by N)."""
        return float(self.gains(pools, mixtures).sum())
