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

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.exact import ExactGame
from malib_lite.envs.open_spiel.game_tree import CHANCE, TERMINAL, GameTree
from malib_lite.envs.open_spiel.games import agents_of

_TIE = 1e-12  # actions whose values differ by less are equally good: sums of other orders differ by rounding
_BLOCK_BYTES = 2**26  # of leaf realisations held at once


@dataclass(frozen=True)
class _Sequences:
    """One player's sequences: (information set i, action a) has number i * A + a, the empty sequence I * A."""

    legal: np.ndarray  # (I, A) bool
    parent: np.ndarray  # (I,) int64: the own sequence on which an information set follows
    depths: list[np.ndarray]  # information sets with 0, 1, ... own decisions before them
    leaf: np.ndarray  # (L,) int64: the last own sequence before each leaf

    @property
    def count(self) -> int:
        """S = I * A + 1."""
        return self.legal.size + 1


class SequenceFormGame(ExactGame):
    """Payoffs, best responses and NashConv by sweeps over a tree's arrays; see :class:`ExactGame`.

    Tabular policies must be distributions over the legal actions of every information set; ValueError otherwise.
    Between equally good actions a best response takes the one with the lowest number.
    """

    def __init__(self, tree: GameTree, sequences: Sequence[_Sequences]) -> None:
        """See :meth:`build`."""
        self.agents: list[AgentID] = agents_of(tree.game)
        self._observation = tree.observation
        self._sequences = list(sequences)
        leaves = np.flatnonzero(tree.player == TERMINAL)
        self._weight = (tree.returns[leaves] * _chance_reach(tree)[leaves, None]).T.copy()  # (N, L): return x chance
        self._zero_sum = len(self.agents) == 2 and bool(np.all(self._weight[0] == -self._weight[1]))

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
            sequences.append(_Sequences(legal, parent, _by_depth(legal, parent), last[leaves, player]))
        return cls(tree, sequences)

    def information_sets(self, agent: AgentID) -> tuple[np.ndarray, np.ndarray]:
        """Observations (I, n) float32 and legal actions (I, A) bool, both the caller's to keep."""
        player = self.agents.index(agent)
        return self._observation[player].copy(), self._sequences[player].legal.copy()

    def payoffs(self, pools: Sequence[np.ndarray]) -> np.ndarray:
        """See :meth:`ExactGame.payoffs`."""
        self._check_count(pools)
        plans = [self._plans(player, pool) for player, pool in enumerate(pools)]  # (S_n, P_n) each
        weight = self._weight[:1] if self._zero_sum else self._weight
        values = np.zeros((len(weight), *(plan.shape[1] for plan in plans)))
        width = sum(plan.shape[1] for plan in plans) * plans[0].itemsize
        block = max(1, _BLOCK_BYTES // width)
        for start in range(0, weight.shape[1], block):
            here = slice(start, start + block)
            reaches = [plan[own.leaf[here]] for plan, own in zip(plans, self._sequences, strict=True)]  # (B, P_n)
            values += _contract(weight[:, here], reaches)
        return np.concatenate([values, -values]) if self._zero_sum else values

    def best_response(
        self, agent: AgentID, pools: Sequence[np.ndarray], mixtures: Sequence[np.ndarray]
    ) -> tuple[float, np.ndarray]:
        """See :meth:`ExactGame.best_response`; the policy is (I, A) float64."""
        self._check_count(pools, mixtures)
        player = self.agents.index(agent)
        weight = self._weight[player]
        for other, (pool, mixture) in enumerate(zip(pools, mixtures, strict=True)):
            if other != player:
                weight = weight * self._leaf_reach(other, pool, mixture)
        return self._respond(player, weight)

    def gains(self, pools: Sequence[np.ndarray], mixtures: Sequence[np.ndarray]) -> np.ndarray:
        """See :meth:`ExactGame.gains`; the mixtures are merged first, so that no payoff table is needed."""
        self._check_count(pools, mixtures)
        reach = np.stack([self._leaf_reach(p, pool, mixtures[p]) for p, pool in enumerate(pools)])  # (N, L)
        gains = np.empty(len(self.agents))
        for player in range(len(self.agents)):
            weight = self._weight[player] * np.delete(reach, player, axis=0).prod(axis=0)
            gains[player] = self._respond(player, weight)[0] - weight @ reach[player]
        return gains

    # -- inside -------------------------------------------------------------------------------------------------

    def _plans(self, player: int, pool: np.ndarray) -> np.ndarray:
        """Realisation plans (S, P) float64 of a pool (P, I, A): a row per sequence, since leaves gather rows."""
        own = self._sequences[player]
        pool = np.asarray(pool, np.float64)
        if pool.ndim != 3 or pool.shape[1:] != own.legal.shape:
            raise ValueError(
                f"the pool of {self.agents[player]} has shape {pool.shape}; it must be (P, I, A) = (P, "
                f"{own.legal.shape[0]}, {own.legal.shape[1]})"
            )
        sums = np.einsum("pia,ia->pi", pool, own.legal)
        # Written so that NaN fails too; the tolerance lets float32 probabilities pass.
        if not (np.all(np.abs(sums - 1.0) < 1e-4) and pool.min(initial=0.0) >= 0.0):
            raise ValueError(f"the pool of {self.agents[player]} has rows that are no distribution over legal actions")
        probability = pool.transpose(1, 2, 0)  # (I, A, P)
        plans = np.empty((own.count, len(pool)))
        plans[-1] = 1.0  # the empty sequence
        by_infoset = plans[:-1].reshape(probability.shape)  # a view
        for infosets in own.depths:
            by_infoset[infosets] = probability[infosets] * plans[own.parent[infosets], None, :]
        return plans

    def _leaf_reach(self, player: int, pool: np.ndarray, mixture: np.ndarray) -> np.ndarray:
        """The player's own part (L,) in reaching each leaf when it plays a mixture (P,) over its pool (P, I, A)."""
        mixture = np.asarray(mixture, np.float64)
        if mixture.shape != (len(pool),):
            raise ValueError(
                f"the mixture of {self.agents[player]} has shape {mixture.shape} for a pool of {len(pool)} policies"
            )
        support = np.flatnonzero(mixture)  # equilibria leave most members of a large pool out
        plan = self._plans(player, np.asarray(pool)[support]) @ mixture[support]
        return plan[self._sequences[player].leaf]

    def _respond(self, player: int, weight: np.ndarray) -> tuple[float, np.ndarray]:
        """Best value and policy against the others, whose reach times return stands in ``weight`` (L,)."""
        own = self._sequences[player]
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

    def _check_count(self, *per_agent: Sequence[np.ndarray]) -> None:
        for given in per_agent:
            if len(given) != len(self.agents):
                raise ValueError(f"{len(given)} pools or mixtures were given for the {len(self.agents)} agents")


def _contract(weight: np.ndarray, reaches: Sequence[np.ndarray]) -> np.ndarray:
    """Sum over leaves of weight (M, L) times one member's reach (L, P_n) of every player: (M, P_1, ..., P_N).

    Matrix products for the last two players; loops over the members of those before keep memory at one block.
    """
    first, *others = reaches
    if not others:
        return weight @ first
    if len(others) == 1:
        return np.stack([(first * row[:, None]).T @ others[0] for row in weight])
    return np.stack([_contract(weight * member, others) for member in first.T], axis=1)


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
