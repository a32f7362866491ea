"""What a compiled game looks up beside its nodes: where chance leads, and what is seen when time runs out."""

from __future__ import annotations

import numpy as np

from malib_lite.envs.open_spiel.game_tree import CHANCE, GameTree


class ChanceTable:
    """Chance moves: from every chance node that follows a decision, straight to the nodes where chance has ended."""

    def __init__(self, tree: GameTree) -> None:
        is_chance = tree.player == CHANCE
        top = np.arange(tree.num_nodes)  # the first of the chance nodes in a row that lead to a node
        reach = np.ones(tree.num_nodes)
        for level in tree.levels():
            parent = tree.parent[level]
            by_chance = is_chance[parent]
            top[level] = np.where(by_chance, top[parent], top[level])
            reach[level] = np.where(by_chance, reach[parent] * tree.probability[level], 1.0)
        targets = np.flatnonzero((top != np.arange(tree.num_nodes)) & ~is_chance)
        targets = targets[np.argsort(top[targets], kind="stable")]
        tops, start, count = np.unique(top[targets], return_index=True, return_counts=True)
        self.first = bool(is_chance[0])  # whether chance moves first
        self.inside = bool(np.any(tops > 0))  # whether chance moves in the course of the game, too
        self._target = targets
        self._rank = np.zeros(tree.num_nodes, np.int64)
        self._rank[tops] = np.arange(len(tops))
        self._last = start + count - 1
        # Cumulative probabilities, each group of outcomes one above the group before: one search serves all groups.
        self._cumulative = np.empty(len(targets))
        for rank, (first, last) in enumerate(zip(start, self._last, strict=True)):
            cumulative = np.cumsum(reach[targets[first : last + 1]])
            self._cumulative[first : last + 1] = rank + cumulative / cumulative[-1]

    def draw_first(self, chances: np.ndarray) -> np.ndarray:
        """Where chance leads from the root, (B,) int64, for uniform random numbers ``chances`` (B,)."""
        outcome = self._cumulative[: self._last[0] + 1].searchsorted(chances, side="right")
        return self._target.take(outcome)

    def draw(self, nodes: np.ndarray, chances: np.ndarray) -> np.ndarray:
        """Where chance leads from ``nodes`` (B,), all of them chance nodes after a decision; (B,) int64."""
        rank = self._rank[nodes]
        outcome = self._cumulative.searchsorted(rank + chances, side="right")
        # The sum may be rounded up to the next group's first value.
        return self._target[np.minimum(outcome, self._last[rank])]


class FinalViews:
    """All that one agent may see: at its own decisions, and where it is cut off while another is to move."""

    def __init__(self, tree: GameTree, player: int, cut_nodes: np.ndarray) -> None:
        """
        Args:
            cut_nodes: the decision nodes in which an episode may be truncated.
        """
        keys = dict(tree.keys[player])
        added: list[list[float]] = []
        self.row_of = np.zeros(tree.num_nodes, np.int64)  # by node: row of the arrays below; for ``cut_nodes`` only
        for node in cut_nodes.tolist():
            if tree.player[node] == player:
                self.row_of[node] = tree.infoset[node]
                continue
            state = tree.state(node)
            row = self.row_of[node] = keys.setdefault(state.information_state_string(player), len(keys))
            if row == len(tree.keys[player]) + len(added):
                added.append(tree.tensor(state, player))
        self.observation, self.mask = tree.observation[player], tree.legal[player]  # (I, n) float32, (I, A) bool
        if added:
            self.observation = np.concatenate([self.observation, np.array(added, np.float32)])
            self.mask = np.concatenate([self.mask, np.ones((len(added), tree.num_actions), bool)])
