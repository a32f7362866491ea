"""Thousands of copies of a small game, stepped together by table look-up on its tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.envs.open_spiel.game_tree import CHANCE, TERMINAL, GameTree
from malib_lite.envs.open_spiel.games import action_space, agents_of, observation_space

_PARKED = -3  # in the place of a player's number: the environment is finished


class CompiledVector(VectorEnvironment):
    """E copies of a game whose tree is known; one step is one decision in each of them.

    The agents' views share one array of observations and one of masks, since at most one agent acts in an environment.
    Rewards of games that pay only in the end come in the end.

    Observations and masks of :meth:`observation_table` begin with the agent's information sets in the order of the
    game's exact form. Where ``max_step`` can cut episodes short, rows follow for what an agent may see when its time
    runs out while another is to move; their masks are all True, as no choice is asked there.
    """

    def __init__(self, tree: GameTree, num_envs: int, seed: int, max_step: int | None = None) -> None:
        """
        Args:
            tree: the game.
            num_envs: E.
            seed: of the one stream that all chance moves are drawn from.
            max_step: episodes are truncated after so many decisions.
        """
        self.num_envs = num_envs
        self.possible_agents: list[AgentID] = agents_of(tree.game)
        length, num_actions = tree.observation[0].shape[1], tree.num_actions
        self.observation_spaces = {agent: observation_space(length) for agent in self.possible_agents}
        self.action_spaces = {agent: action_space(num_actions) for agent in self.possible_agents}
        self.finished = np.ones(num_envs, bool)
        self._generator = np.random.default_rng(seed)
        self._tree = tree
        self._num_actions = num_actions
        self._chance = _ChanceTable(tree)
        self._make_tables(tree)
        # An episode that ends by itself in its last step is not cut: only nodes of a decision yet to come are.
        depth = tree.num_decisions()
        cut_nodes = np.flatnonzero((tree.player >= 0) & (depth == max_step))
        self._max_step = max_step if len(cut_nodes) else None
        self._final = [_FinalViews(tree, player, cut_nodes) for player in range(tree.num_players)]

        self._park = tree.num_nodes
        self._node = np.full(num_envs, self._park)
        self._next_node = np.empty_like(self._node)
        self._kind = np.full(num_envs, _PARKED, np.int16)  # player to move, TERMINAL or _PARKED
        self._row = np.full(num_envs, self._num_rows)  # of the tables
        self._entry = np.empty_like(self._row)
        self._choice = np.zeros(num_envs, np.int64)
        self._num_steps = np.zeros(num_envs, np.int64)
        self._num_parked = num_envs
        self._cut = False  # whether some views hold final observations
        self._ended = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._observation = np.zeros((num_envs, length), np.float32)
        self._mask = np.ones((num_envs, num_actions), bool)
        self._index = [np.zeros(num_envs, np.int64) for _ in self.possible_agents]
        self._views = {
            agent: AgentView(
                acting=np.zeros(num_envs, bool),
                observation=self._observation,
                action_mask=self._mask,
                reward=np.zeros(num_envs, np.float32),
                terminated=self._ended,
                truncated=self._truncated,
                observation_index=index,
            )
            for agent, index in zip(self.possible_agents, self._index, strict=True)
        }

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set."""
        rows = np.flatnonzero(mask)  # before ``finished`` changes, which may be the mask itself
        if len(rows) == 0:
            return self._views
        self._node[rows] = self._roots(len(rows))
        self._num_parked -= int(np.count_nonzero(self.finished[rows]))
        self.finished[rows] = False
        self._ended[rows] = False
        self._truncated[rows] = False
        if self._max_step is not None:
            self._num_steps[rows] = 0
        self._kind[rows] = self._kind_of.take(self._node[rows])
        for view in self._views.values():
            view.reward[rows] = 0.0
        self._look(rows)
        return self._views

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Make the decision at hand in every environment that is not finished.

        Args:
            actions: (E,) integers by agent; entries where the agent is not acting are ignored.

        Raises:
            ValueError: an acting agent has no action, or an illegal one; nothing has changed then.
        """
        if np.count_nonzero(self.finished) != self._num_parked:  # the caller parked some
            self._park_rows(np.flatnonzero(self.finished))
        self._choose(actions)
        self._release_final_views()

        node, before = self._next_node, self._node
        np.take(self._first, before, out=node, mode="clip")
        node += self._rank_of_choice
        self._node, self._next_node = node, before
        np.take(self._kind_of, node, out=self._kind, mode="clip")
        if self._chance.inside:
            rows = np.flatnonzero(self._kind == CHANCE)
            if len(rows):
                node[rows] = self._chance.draw(node[rows], self._generator)
                self._kind[rows] = self._kind_of.take(node[rows])
        self._pay(before)
        self._end_episodes()
        self._look(None)
        if self._max_step is not None:
            self._truncate()
        return self._views

    def observation_table(self, agent: AgentID) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Every observation (I, n) float32 the agent can have and its mask (I, A) bool, both the caller's to keep."""
        final = self._final[self.possible_agents.index(agent)]
        return final.observation.copy(), final.mask.copy()

    def state_dict(self) -> dict[str, Any]:
        """The random stream."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
        self._generator.bit_generator.state = state["generator"]

    # -- inside -------------------------------------------------------------------------------------------------

    def _make_tables(self, tree: GameTree) -> None:
        """Lay out what a step looks up: by node, and by row for the G information sets of all players together.

        Finished environments stand on one more node, which leads to itself and has row G, so that a step needs not
        tell them apart.
        """
        park = tree.num_nodes
        counts = [len(legal) for legal in tree.legal]
        self._num_rows = sum(counts)
        self._first_row = np.cumsum([0, *counts])[:-1]
        player = tree.player
        self._kind_of = np.append(player, np.int16(_PARKED))
        row = np.where(player >= 0, self._first_row[np.maximum(player, 0)] + tree.infoset, self._num_rows)
        self._row_of = np.append(row, self._num_rows)
        self._first = np.append(np.where(tree.num_children > 0, tree.first_child, park), park).astype(np.int64)
        legal = np.concatenate([*tree.legal, np.ones((1, tree.num_actions), bool)])
        rank = np.where(legal, np.cumsum(legal, axis=1) - 1, -1)
        rank[-1] = 0
        self._rank = rank.ravel()  # of an action among the legal ones of its row, -1 where it is illegal
        self._mask_of = legal
        length = tree.observation[0].shape[1]
        self._observation_of = np.concatenate([*tree.observation, np.zeros((1, length), np.float32)])
        self._returns_of = np.concatenate([tree.returns, np.zeros((1, tree.num_players))]).T.astype(np.float32)

    def _roots(self, count: int) -> np.ndarray | int:
        """Nodes in which new episodes begin."""
        if self._tree.player[0] != CHANCE:
            return 0
        return self._chance.draw(np.zeros(count, np.int64), self._generator)

    def _choose(self, actions: Mapping[AgentID, np.ndarray]) -> None:
        """Check the actions and leave their ranks among the legal ones in ``_rank_of_choice`` (E,)."""
        choice = self._choice
        for agent, view in self._views.items():
            given = actions.get(agent)
            if given is not None:
                np.copyto(choice, given, where=view.acting)
            elif view.acting.any():
                raise ValueError(f"{self._tree.game}: {agent} is to act and has no action")
        # As unsigned numbers, negative actions are large: one comparison finds both ends of the range.
        inside = choice.view(np.uint64).max() < self._num_actions
        if inside:
            np.multiply(self._row, self._num_actions, out=self._entry)
            self._entry += choice
            self._rank_of_choice = self._rank.take(self._entry)
        if not inside or self._rank_of_choice.min() < 0:
            self._refuse()

    def _refuse(self) -> None:
        """Raise for the first illegal action."""
        choice, self._choice = self._choice, np.zeros_like(self._choice)
        legal = self._mask_of[self._row]  # (E, A)
        inside = (choice >= 0) & (choice < self._num_actions)
        chosen = np.take_along_axis(legal, np.where(inside, choice, 0)[:, None], axis=1)[:, 0]
        env = int(np.flatnonzero(~(inside & chosen))[0])
        raise ValueError(
            f"{self._tree.game}: illegal action {choice[env]} of {self.possible_agents[self._kind[env]]} in "
            f"environment {env}; legal are {np.flatnonzero(legal[env]).tolist()}"
        )

    def _pay(self, before: np.ndarray) -> None:
        """Set the rewards for the move from the nodes ``before`` to the present ones."""
        for view, returns in zip(self._views.values(), self._returns_of, strict=True):
            np.take(returns, self._node, out=view.reward, mode="clip")
            if self._tree.pays_on_the_way:
                view.reward -= returns.take(before)

    def _end_episodes(self) -> None:
        np.equal(self._kind, TERMINAL, out=self._ended)
        count = int(np.count_nonzero(self._ended))
        if count:
            self._num_parked += count
            self.finished |= self._ended
            np.copyto(self._node, self._park, where=self._ended)

    def _look(self, rows: np.ndarray | None) -> None:
        """Set what the agents see and who acts, from the nodes; observations only of ``rows``, None for all."""
        row = self._row
        np.take(self._row_of, self._node, out=row, mode="clip")
        if rows is None:
            np.take(self._observation_of, row, axis=0, out=self._observation, mode="clip")
            np.take(self._mask_of, row, axis=0, out=self._mask, mode="clip")
        else:
            here = row[rows]
            self._observation[rows] = self._observation_of.take(here, axis=0)
            self._mask[rows] = self._mask_of.take(here, axis=0)
        for player, (view, index) in enumerate(zip(self._views.values(), self._index, strict=True)):
            np.equal(self._kind, player, out=view.acting)
            np.subtract(row, self._first_row[player], out=index)
            index *= view.acting  # rows that mean nothing must still be rows of the table
        if rows is not None and self._cut:  # other environments may still show what they ended with
            self._copy_to_final_views(rows)

    # -- what happens seldom: truncation, and environments that the caller parks ------------------------------------

    def _park_rows(self, rows: np.ndarray) -> None:
        self._node[rows] = self._park
        self._row[rows] = self._num_rows
        self._kind[rows] = _PARKED
        for view in self._views.values():
            view.acting[rows] = False
        self._num_parked = int(np.count_nonzero(self.finished))

    def _truncate(self) -> None:
        """Cut off the episodes that have had their time, and give every agent its final observation there."""
        self._truncated.fill(False)
        self._num_steps += 1
        rows = np.flatnonzero((self._num_steps >= self._max_step) & (self._kind >= 0))
        if len(rows) == 0:
            return
        nodes = self._node[rows]
        self._truncated[rows] = True
        self.finished[rows] = True
        self._park_rows(rows)
        self._cut = True
        for view, final in zip(self._views.values(), self._final, strict=True):
            at = final.row_of[nodes]
            view.observation = self._observation.copy()
            view.observation[rows] = final.observation[at]
            view.action_mask = self._mask.copy()
            view.action_mask[rows] = final.mask[at]
            view.observation_index = view.observation_index.copy()
            view.observation_index[rows] = at

    def _release_final_views(self) -> None:
        """Let the views share their arrays again."""
        if self._cut:
            self._cut = False
            for view, index in zip(self._views.values(), self._index, strict=True):
                view.observation, view.action_mask, view.observation_index = self._observation, self._mask, index

    def _copy_to_final_views(self, rows: np.ndarray) -> None:
        """Show what is new in ``rows`` in the views that have arrays of their own."""
        for view, index in zip(self._views.values(), self._index, strict=True):
            view.observation[rows] = self._observation[rows]
            view.action_mask[rows] = self._mask[rows]
            view.observation_index[rows] = index[rows]


class _ChanceTable:
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

    def draw(self, nodes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Where chance leads from ``nodes`` (B,), all of them chance nodes after a decision or the root; (B,) int64."""
        rank = self._rank[nodes]
        outcome = np.searchsorted(self._cumulative, rank + generator.random(len(nodes)), side="right")
        # The sum may be rounded up to the next group's first value.
        return self._target[np.minimum(outcome, self._last[rank])]


class _FinalViews:
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
