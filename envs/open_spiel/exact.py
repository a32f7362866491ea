"""Exact values of a compiled game in sequence form.

A player's *sequence* is what it knows and did itself: an (information set, action) pair stands for the whole path of
own decisions that leads there, because players remember. A policy's *realisation plan* gives each sequence the product
of the policy's probabilities along that path. A leaf is then reached with the product of chance's and the players'
realisations, payoffs are linear in every player's plan, and a mixture over policies is the mixture of their plans.
See von Stengel 1996, Efficient computation of behavior strategies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.exact import ExactGame, Names
from malib_lite.envs.open_spiel.equilibrium import solve
from malib_lite.envs.open_spiel.game_tree import CHANCE, TERMINAL, GameTree
from malib_lite.envs.open_spiel.games import agents_of
from malib_lite.envs.open_spiel.names import names_of

_TIE = 1e-12  # actions whose values differ by less are equally good: sums of other orders differ by rounding


@dataclass(frozen=True)
class Sequences:
    """One player's sequences: (information set i, action a) has number i * A + a, the empty sequence I * A."""

    legal: np.ndarray  # (I, A) bool
    parent: np.ndarray  # (I,) int64: the own sequence on which an information set follows
    depths: list[np.ndarray]  # information sets with 0, 1, ... own decisions before them
    leaf: np.ndarray  # (L,) int64: the last own sequence before each leaf

    @property
    def count(self) -> int:
        """S = I * A + 1."""
        return self.legal.size + 1

    def behaviour(self, plan: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """The policy (I, A) with the plan (S,); where that never leads, alike among the actions of ``otherwise``."""
        weight = np.where(self.legal, plan[:-1].reshape(self.legal.shape), 0.0)
        total = weight.sum(axis=1, keepdims=True)
        uniform = otherwise / otherwise.sum(axis=1, keepdims=True)
        return np.where(total > 0.0, weight / np.where(total > 0.0, total, 1.0), uniform)


class SequenceFormGame(ExactGame):
    """Payoffs, best responses and NashConv by sweeps over a tree's arrays; see :class:`ExactGame`.

    Plans are realisation plans. Tabular policies must be distributions over the legal actions of every information
    set; ValueError otherwise. Between equally good actions a best response takes the one with the lowest number.
    """

    def __init__(self, tree: GameTree, sequences: Sequence[Sequences]) -> None:
        """See :meth:`build`."""
        self.agents: list[AgentID] = agents_of(tree.game)
        self._tree = tree  # which others who ask for the game share
        self._sequences = list(sequences)
        leaves = np.flatnonzero(tree.player == TERMINAL)
        self._weight = (tree.returns[leaves] * _chance_reach(tree)[leaves, None]).T.copy()  # (N, L): return x chance
        self._largest = float(np.abs(tree.returns[leaves]).max(initial=0.0))
        self._zero_sum = len(self.agents) == 2 and bool(np.all(self._weight[0] == -self._weight[1]))
        self._pairs = _Pairs(*sequences[-2:]) if len(sequences) > 1 else None

    @classmethod
    def build(cls, tree: GameTree) -> SequenceFormGame | None:
        """The sequence form of a tree; None where a player forgets, as it has none then."""
        last = _last_sequences(tree)
        leaves = np.flatnonzero(tree.player == TERMINAL)
        sequences = []
        for player, legal in enumerate(tree.legal):
            parent = _own_parents(tree, player, last[:, player])
            if parent is None:
                return None
            sequences.append(Sequences(legal, parent, _by_depth(legal, parent), last[leaves, player]))
        return cls(tree, sequences)

    def information_sets(self, agent: AgentID) -> tuple[np.ndarray, np.ndarray]:
        """Observations (I, n) float32 and legal actions (I, A) bool, both the caller's to keep."""
        player = self.agents.index(agent)
        return self._tree.observation[player].copy(), self._sequences[player].legal.copy()

    def describe(self, agent: AgentID) -> Names:
        """See :func:`~malib_lite.envs.open_spiel.names.names_of`."""
        return names_of(self._tree, self.agents.index(agent))

    def largest_return(self) -> float:
        return self._largest

    def plans(self, agent: AgentID, pool: np.ndarray) -> np.ndarray:
        """Realisation plans; see :meth:`ExactGame.plans`."""
        own = self._sequences[self.agents.index(agent)]
        pool = np.asarray(pool, np.float64)
        if pool.ndim != 3 or pool.shape[1:] != own.legal.shape:
            raise ValueError(
                f"the pool of {agent} has shape {pool.shape}; it must be (P, I, A) = (P, "
                f"{own.legal.shape[0]}, {own.legal.shape[1]})"
            )
        sums = np.einsum("pia,ia->pi", pool, own.legal)
        # Written so that NaN fails too; the tolerance lets float32 probabilities pass.
        if not (np.all(np.abs(sums - 1.0) < 1e-4) and pool.min(initial=0.0) >= 0.0):
            raise ValueError(f"the pool of {agent} has rows that are no distribution over legal actions")
        plans = np.empty((len(pool), own.count))
        plans[:, -1] = 1.0  # the empty sequence
        by_infoset = plans[:, :-1].reshape(pool.shape)
        for infosets in own.depths:
            by_infoset[:, infosets] = pool[:, infosets] * plans[:, own.parent[infosets], None]
        return plans

    def behaviour(self, agent: AgentID, plan: np.ndarray) -> np.ndarray:
        """See :meth:`ExactGame.behaviour`."""
        own = self._sequences[self.agents.index(agent)]
        return own.behaviour(plan, otherwise=own.legal)

    def plan_payoffs(self, plans: Sequence[np.ndarray]) -> np.ndarray:
        """See :meth:`ExactGame.plan_payoffs`."""
        weights = self._weight[:1] if self._zero_sum else self._weight
        values = np.stack([self._expect(weight, list(plans)) for weight in weights])
        return np.concatenate([values, -values]) if self._zero_sum else values

    def respond(self, agent: AgentID, plans: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
        """See :meth:`ExactGame.respond`: one sweep over the agent's information sets, from the last to the first."""
        player = self.agents.index(agent)
        own, weight = self._sequences[player], self._weight[player]
        for other, plan in enumerate(plans):
            if other != player:
                weight = weight * plan[self._sequences[other].leaf]
        value = np.bincount(own.leaf, weights=weight, minlength=own.count)  # of what ends right after a sequence
        by_infoset = value[:-1].reshape(own.legal.shape)  # a view
        policy = np.zeros(own.legal.shape)
        for infosets in reversed(own.depths):
            choices = np.where(own.legal[infosets], by_infoset[infosets], -np.inf)
            best = choices.max(axis=1)
            policy[infosets, np.argmax(choices >= best[:, None] - _TIE, axis=1)] = 1.0
            # An action may be followed by several information sets, which one decides between after it.
            np.add.at(value, own.parent[infosets], best)
        return float(value[-1]), policy

    def check_restricted(self) -> None:
        """See :meth:`ExactGame.check_restricted`."""
        if not self._zero_sum or self._pairs is None:
            raise ConfigError("restricted games are solved for two players in zero-sum games, and this is none")

    def restricted_equilibrium(self, allowed: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See :meth:`ExactGame.restricted_equilibrium`; by :func:`~malib_lite.envs.open_spiel.equilibrium.solve`."""
        self.check_restricted()
        assert self._pairs is not None
        self._check_count(allowed)
        first, second = self._sequences
        return solve(first, second, self._pairs.matrix(self._weight[0]), *allowed)

    # -- inside -------------------------------------------------------------------------------------------------

    def _expect(self, weight: np.ndarray, plans: list[np.ndarray]) -> np.ndarray:
        """Sum over leaves of ``weight`` (L,) times the reach of a member of each of the last players: (P_k, ..., P_N).

        Matrix products for the last two players; loops over the members of those before.
        """
        if len(plans) == 2 and self._pairs is not None:
            matrix = self._pairs.matrix(weight)
            if len(plans[0]) < len(plans[1]):
                return (plans[0] @ matrix) @ plans[1].T
            return plans[0] @ (matrix @ plans[1].T)
        own = self._sequences[-len(plans)]
        if len(plans) == 1:
            return plans[0] @ np.bincount(own.leaf, weights=weight, minlength=own.count)
        return np.stack([self._expect(weight * plan[own.leaf], plans[1:]) for plan in plans[0]])


class _Pairs:
    """Which sequences of two players meet at leaves: weights of leaves become a matrix between their plans."""

    def __init__(self, first: Sequences, second: Sequences) -> None:
        self._shape = first.count, second.count
        pairs, self._pair = np.unique(first.leaf * second.count + second.leaf, return_inverse=True)
        row, self._indices = np.divmod(pairs, second.count)
        self._indptr = np.searchsorted(row, np.arange(first.count + 1))

    def matrix(self, weight: np.ndarray) -> csr_array:
        """Sums of leaves' weights (L,), sparse (S_1, S_2)."""
        data = np.bincount(self._pair, weights=weight, minlength=len(self._indices))
        return csr_array((data, self._indices, self._indptr), shape=self._shape)


def _chance_reach(tree: GameTree) -> np.ndarray:
    """Chance's part in reaching each node, (V,)."""
    reach = np.ones(tree.num_nodes)
    for level in tree.levels():
        reach[level] = reach[tree.parent[level]] * tree.probability[level]
    return reach


def _last_sequences(tree: GameTree) -> np.ndarray:
    """The last own sequence of every player on the way to each node, (V, N) int64."""
    last = np.empty((tree.num_nodes, tree.num_players), np.int64)
    last[0] = [legal.size for legal in tree.legal]
    for level in tree.levels():
        parent = tree.parent[level]
        last[level] = last[parent]
        decided = np.flatnonzero(tree.player[parent] > CHANCE)
        sequence = tree.infoset[parent].astype(np.int64) * tree.num_actions + tree.action[level]
        last[level.start + decided, tree.player[parent[decided]]] = sequence[decided]
    return last


def _own_parents(tree: GameTree, player: int, last: np.ndarray) -> np.ndarray | None:
    """The sequence on which each of the player's information sets follows, (I,) int64; None where it is not unique."""
    nodes = np.flatnonzero(tree.player == player)
    infosets = tree.infoset[nodes]
    parent = np.empty(len(tree.legal[player]), np.int64)
    parent[infosets] = last[nodes]
    return parent if np.array_equal(parent[infosets], last[nodes]) else None


def _by_depth(legal: np.ndarray, parent: np.ndarray) -> list[np.ndarray]:
    """Information sets with 0, 1, ... own decisions before them."""
    num_infosets, num_actions = legal.shape
    depth_of_sequence = np.full(legal.size + 1, -1)  # own decisions in a sequence, once known
    depth_of_sequence[-1] = 0
    depths: list[np.ndarray] = []
    placed = 0
    while placed < num_infosets:
        infosets = np.flatnonzero(depth_of_sequence[parent] == len(depths))
        depth_of_sequence[:-1].reshape(num_infosets, num_actions)[infosets] = len(depths) + 1
        depths.append(infosets)
        placed += len(infosets)
    return depths
