"""What a compiled game looks up: where moves lead, where chance leads, and what is seen when time runs out."""

from __future__ import annotations

import numpy as np

from malib_lite.envs.open_spiel.game_tree import CHANCE, GameTree


class MoveTable:
    """Moves, by the node they are made at: whoever moves at once moves together, past the inner nodes of the tree."""

    def __init__(self, tree: GameTree) -> None:
        decisions = np.flatnonzero((tree.player >= 0) & ~tree.inner)
        self.at_once = bool(tree.inner.any())  # whether there are nodes at which several players move
        # (V,) each: the player's information set where it moves, -1 elsewhere
        self.infoset = [np.full(tree.num_nodes, -1, np.int64) for _ in range(tree.num_players)]
        # (V,) each: how many nodes lie between those that two actions of neighbouring ranks lead to; 0 elsewhere
        self.stride = [np.zeros(tree.num_nodes, np.int64) for _ in range(tree.num_players)]
        self.first = tree.first_child.astype(np.int64)  # (V,): the node that everybody's first legal actions lead to
        here, at = decisions, decisions  # nodes at which moves begin, and those of the tree that are reached by then
        while len(here):
            player = tree.player[at]
            for mover in range(tree.num_players):
                mine = player == mover
                # The moves that come after it multiply what lies between its own.
                for stride in self.stride:
                    stride[here[mine]] *= tree.num_children[at[mine]]
                self.infoset[mover][here[mine]] = tree.infoset[at[mine]]
                self.stride[mover][here[mine]] = 1
            self.first[here] = tree.first_child[at]
            goes_on = tree.inner[tree.first_child[at]]
            here, at = here[goes_on], tree.first_child[at[goes_on]]


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

    def __init__(self, tree: GameTree, player: int, infoset: np.ndarray, cut_nodes: np.ndarray) -> None:
        """
        Args:
            infoset: (V,) the player's information sets where it moves, -1 elsewhere.
            cut_nodes: the decision nodes in which an episode may be truncated.
        """
        # Numbered apart from the player's decisions: some games describe both alike. What may be done next can depend
        # on what the player does not know, so it is part of the key.
        keys: dict[tuple[str, bytes], int] = {}
        added: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        idle = cut_nodes[infoset[cut_nodes] < 0]
        choices = dict(zip(idle.tolist(), _next_choices(tree, player, idle), strict=True))
        self.row_of = np.zeros(tree.num_nodes, np.int64)  # by node: row of the arrays below; for ``cut_nodes`` only
        for node in cut_nodes.tolist():
            if infoset[node] >= 0:
                self.row_of[node] = infoset[node]
                continue
            state = tree.state(node)
            mask = choices[node]
            number = keys.setdefault((state.information_state_string(player), mask.tobytes()), len(keys))
            self.row_of[node] = len(tree.legal[player]) + number
            if number == len(added):
                added.append(tree.observer(state, player))
                masks.append(mask)
        self.observation, self.mask = tree.observation[player], tree.legal[player]  # (I, n) float32, (I, A) bool
        if added:
            self.observation = np.concatenate([self.observation, np.array(added, np.float32)])
            self.mask = np.concatenate([self.mask, np.array(masks)])


def _next_choices(tree: GameTree, player: int, nodes: np.ndarray) -> np.ndarray:
    """What the player may do when it next decides after ``nodes`` (n,), however the game goes on: (n, A) bool.

    All True where it does not decide again. One sweep from the leaves to the root, which keeps one level at a time.
    """
    result = np.ones((len(nodes), tree.num_actions), bool)
    if len(nodes) == 0:
        return result
    below = np.zeros((0, tree.num_actions), bool)
    for start, end in reversed(list(zip(tree.level_start[:-1], tree.level_start[1:], strict=True))):
        here = np.zeros((end - start, tree.num_actions), bool)
        parents = np.flatnonzero(tree.num_children[start:end])
        if len(parents):
            here[parents] = np.logical_or.reduceat(below, tree.first_child[start + parents] - end)
        own = np.flatnonzero(tree.player[start:end] == player)
        here[own] = tree.legal[player][tree.infoset[start + own]]
        asked = np.flatnonzero((nodes >= start) & (nodes < end))
        result[asked] = here[nodes[asked] - start]
        below = here
    result[~result.any(axis=1)] = True
    return result
