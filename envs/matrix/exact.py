"""Exact payoffs and best responses of games that are played once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.exact import ExactGame
from malib_lite.envs.matrix.matrix_vector import agents_of
from malib_lite.envs.matrix.observer import Observer
from malib_lite.envs.matrix.spec import GameTables

_TIE = 1e-12  # actions whose values differ by less are equally good: sums of other orders differ by rounding
_MAX_PLAYERS = 16  # letters for the axes of a contraction


class OneRoundGame(ExactGame):
    """A game of one round: one information set for every first state that is possible, or one where it is not seen.

    Between equally good actions a best response takes the one with the lowest number.
    """

    def __init__(self, tables: GameTables) -> None:
        self.agents: list[AgentID] = agents_of(tables)
        observer = Observer(tables, tables.observe)
        states = np.flatnonzero(tables.start)
        num_joint = int(np.prod(tables.num_actions))
        before = np.full(len(states), num_joint), np.zeros(len(states), np.int64)
        # Payoffs times the probability of the state, so that sums over information sets are expectations.
        self._payoffs = tables.payoffs[states] * tables.start[states].reshape(-1, *[1] * (tables.num_players + 1))
        self._largest = float(np.abs(tables.payoffs[states]).max(initial=0.0))
        if "state" not in tables.observe:
            self._payoffs, states = self._payoffs.sum(axis=0, keepdims=True), states[:1]
        self._observations = observer.observe(states, *(part[: len(states)] for part in before))

    @classmethod
    def build(cls, tables: GameTables) -> OneRoundGame | None:
        """The exact form of a game; None where more than one round may be played."""
        ends = tables.transitions[tables.start > 0.0][..., -1]
        if (tables.rounds != 1 and not np.all(ends == 1.0)) or tables.num_players > _MAX_PLAYERS:
            return None
        return cls(tables)

    def information_sets(self, agent: AgentID) -> tuple[np.ndarray, np.ndarray]:
        """Observations (I, n) float32 and legal actions (I, A) bool, all True; both the caller's to keep."""
        num_actions = self._payoffs.shape[1 + self.agents.index(agent)]
        return self._observations.copy(), np.ones((len(self._observations), num_actions), bool)

    def largest_return(self) -> float:
        return self._largest

    def plans(self, agent: AgentID, pool: np.ndarray) -> np.ndarray:
        """The policies themselves, flattened: in one round the payoffs are linear in them."""
        pool = np.asarray(pool, np.float64)
        shape = (len(self._payoffs), self._payoffs.shape[1 + self.agents.index(agent)])
        if pool.ndim != 3 or pool.shape[1:] != shape:
            raise ValueError(f"the pool of {agent} has shape {pool.shape}; it must be (P, I, A), {shape}")
        # Written so that NaN fails too; the tolerance lets float32 probabilities pass.
        if not (np.all(np.abs(pool.sum(axis=-1) - 1.0) < 1e-4) and pool.min(initial=0.0) >= 0.0):
            raise ValueError(f"the pool of {agent} has rows that are no distribution")
        return pool.reshape(len(pool), -1)

    def behaviour(self, agent: AgentID, plan: np.ndarray) -> np.ndarray:
        """See :meth:`ExactGame.behaviour`."""
        return plan.reshape(len(self._payoffs), -1)

    def plan_payoffs(self, plans: Sequence[np.ndarray]) -> np.ndarray:
        """See :meth:`ExactGame.plan_payoffs`."""
        # Letters: z the information set, a, b, ... the actions, A, B, ... the pools' members, y the player who is paid.
        actions = [chr(ord("a") + player) for player in range(len(self.agents))]
        members = [letter.upper() for letter in actions]
        operands = ",".join(f"{member}z{action}" for member, action in zip(members, actions, strict=True))
        pools = [plan.reshape(len(plan), len(self._payoffs), -1) for plan in plans]
        subscripts = f"z{''.join(actions)}y,{operands}->y{''.join(members)}"
        return np.einsum(subscripts, self._payoffs, *pools, optimize="greedy")

    def respond(self, agent: AgentID, plans: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        """See :meth:`ExactGame.respond`; the policy is (I, A) float64."""
        player = self.agents.index(agent)
        worth = self._payoffs[..., player]  # (I, A_1, ..., A_n)
        for other in reversed(range(len(self.agents))):
            if other != player:
                moved = np.moveaxis(worth, 1 + other, -1)
                worth = (moved * plans[other].reshape(len(moved), *[1] * (moved.ndim - 2), -1)).sum(axis=-1)
        best = worth.max(axis=1)
        policy = np.zeros(worth.shape)
        policy[np.arange(len(best)), np.argmax(worth >= best[:, None] - _TIE, axis=1)] = 1.0
        return float(best.sum()), policy
