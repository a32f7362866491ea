"""Thousands of copies of a small game, stepped together by table look-up on its tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from malib_lite.contracts.environment import AgentID
from malib_lite.contracts.streams import RowStreams
from malib_lite.contracts.vector import AgentView, VectorEnvironment
from malib_lite.envs.open_spiel.game_tree import CHANCE, TERMINAL, GameTree
from malib_lite.envs.open_spiel.games import action_space, agents_of, observation_space
from malib_lite.envs.open_spiel.tables import ChanceTable, FinalViews, MoveTable


class CompiledVector(VectorEnvironment):
    """E copies of a game whose tree is known; one step is one move in each of them, of all who move at once.

    Where at most one agent acts at a time, the agents' views share one array of observations and one of masks.

    Observations and masks of :meth:`observation_table` begin with the agent's information sets in the order of the
    game's exact form. Where ``max_step`` can cut episodes short, rows follow for what an agent may see when its time
    runs out while another is to move; their masks are what it may do when it is next to act, or all True.
    """

    def __init__(self, tree: GameTree, seeds: Sequence[int], max_step: int | None = None) -> None:
        """
        Args:
            tree: the game.
            seeds: E integers, a stream of chance moves for each row.
            max_step: episodes are truncated after so many steps.
        """
        self.num_envs = num_envs = len(seeds)
        self.possible_agents: list[AgentID] = agents_of(tree.game)
        length, num_actions = tree.observer.length, tree.num_actions
        self.observation_spaces = {agent: observation_space(length) for agent in self.possible_agents}
        self.action_spaces = {agent: action_space(num_actions) for agent in self.possible_agents}
        self.finished = np.ones(num_envs, bool)
        self._streams = RowStreams(seeds)
        self._tree = tree
        self._chance = ChanceTable(tree)
        moves = MoveTable(tree)
        self._make_tables(tree, moves)
        players = range(tree.num_players)
        self._seats = [_Seat(tree, moves, group, num_envs) for group in (zip(players) if moves.at_once else [players])]
        # An episode that ends by itself in its last step is not cut: only nodes of a decision yet to come are.
        cut_nodes = np.flatnonzero((tree.player >= 0) & ~tree.inner & (tree.num_steps() == max_step))
        self._max_step = max_step if len(cut_nodes) else None
        self._final = [FinalViews(tree, player, moves.infoset[player], cut_nodes) for player in players]

        self._park = tree.num_nodes
        self._node = np.full(num_envs, self._park)
        self._node_before = np.empty_like(self._node)
        self._num_steps = np.zeros(num_envs, np.int64)
        self._num_parked = num_envs
        self._cut = False  # whether some views hold final observations
        self._ended = np.zeros(num_envs, bool)
        self._truncated = np.zeros(num_envs, bool)
        self._seat_of = [seat for seat in self._seats for _ in seat.players]  # by player
        self._index = [np.zeros(num_envs, np.int64) for _ in players]
        self._views = {
            agent: AgentView(
                acting=np.zeros(num_envs, bool),
                observation=seat.observation,
                action_mask=seat.mask,
                reward=np.zeros(num_envs, np.float32),
                terminated=self._ended,
                truncated=self._truncated,
                observation_index=index,
            )
            for agent, seat, index in zip(self.possible_agents, self._seat_of, self._index, strict=True)
        }

    def reset(self, mask: np.ndarray) -> dict[AgentID, AgentView]:
        """Begin new episodes where ``mask`` (E,) bool is set."""
        rows = np.flatnonzero(mask)  # before ``finished`` changes, which may be the mask itself
        if len(rows) == 0:
            return self._views
        self._node[rows] = self._chance.draw_first(self._streams.uniform(rows)) if self._chance.first else 0
        self._num_parked -= int(np.count_nonzero(self.finished[rows]))
        self.finished[rows] = False
        self._ended[rows] = False
        self._truncated[rows] = False
        if self._max_step is not None:
            self._num_steps[rows] = 0
        for view in self._views.values():
            view.reward[rows] = 0.0
        self._look(rows)
        return self._views

    def step(self, actions: Mapping[AgentID, np.ndarray]) -> dict[AgentID, AgentView]:
        """Make the move at hand in every environment that is not finished.

        Args:
            actions: (E,) integers by agent; entries where the agent is not acting are ignored.

        Raises:
            ValueError: an acting agent has no action, or an illegal one; nothing has changed then.
        """
        if np.count_nonzero(self.finished) != self._num_parked:  # the caller parked some
            self._park_rows(np.flatnonzero(self.finished))
        self._choose(actions)
        self._release_final_views()

        self._node, self._node_before = self._node_before, self._node
        node, before = self._node, self._node_before
        # Methods and not numpy's functions, here and below: with 64 environments half the time is spent on calling.
        self._first.take(before, out=node, mode="clip")
        for seat in self._seats:
            node += seat.offset(before)
        if self._chance.inside:
            rows = self._is_chance.take(node).nonzero()[0]
            if len(rows):
                node[rows] = self._chance.draw(node[rows], self._streams.uniform(rows))
        self._pay(before)
        self._end_episodes()
        self._look()
        if self._max_step is not None:
            self._truncate(self._max_step)
        return self._views

    def observation_table(self, agent: AgentID) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Every observation (I, n) float32 the agent can have and its mask (I, A) bool, both the caller's to keep."""
        final = self._final[self.possible_agents.index(agent)]
        return final.observation.copy(), final.mask.copy()

    def state_dict(self) -> dict[str, Any]:
        """The random streams."""
        return self._streams.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
        self._streams.load_state_dict(state)

    # -- inside -------------------------------------------------------------------------------------------------

    def _make_tables(self, tree: GameTree, moves: MoveTable) -> None:
        """Lay out what a step looks up by node.

        Finished environments stand on one more node, which leads to itself, so that a step needs not tell them apart.
        """
        park = tree.num_nodes
        self._is_chance, self._is_end = (
            np.append(tree.player == CHANCE, False),
            np.append(tree.player == TERMINAL, False),
        )
        self._acting_of = [np.append(infoset >= 0, False) for infoset in moves.infoset]
        # Rows that mean nothing must still be rows of an agent's table: 0.
        self._index_of = [np.append(np.maximum(infoset, 0), 0) for infoset in moves.infoset]
        self._first = np.append(np.where(tree.num_children > 0, moves.first, park), park)
        self._returns_of = np.concatenate([tree.returns, np.zeros((1, tree.num_players))]).T.astype(np.float32)

    def _choose(self, actions: Mapping[AgentID, np.ndarray]) -> None:
        """Check the actions and leave them with the seats."""
        for player, (agent, view) in enumerate(self._views.items()):
            given = actions.get(agent)
            if given is not None:
                np.copyto(self._seat_of[player].choice, given, where=view.acting)
            elif view.acting.any():
                raise ValueError(f"{self._tree.game}: {agent} is to act and has no action")
        for seat in self._seats:
            if not seat.choose():
                self._refuse(seat)

    def _refuse(self, seat: _Seat) -> None:
        """Raise for the first illegal action of a seat."""
        choice = seat.choice
        for other in self._seats:  # nothing of what was given may stay
            other.choice = np.zeros_like(choice)
        legal = seat.mask_of[seat.row]  # (E, A)
        inside = (choice >= 0) & (choice < legal.shape[1])
        chosen = np.take_along_axis(legal, np.where(inside, choice, 0)[:, None], axis=1)[:, 0]
        env = int(np.flatnonzero(~(inside & chosen))[0])
        (player,) = (player for player in seat.players if self._acting_of[player][self._node[env]])
        raise ValueError(
            f"{self._tree.game}: illegal action {choice[env]} of {self.possible_agents[player]} in "
            f"environment {env}; legal are {np.flatnonzero(legal[env]).tolist()}"
        )

    def _pay(self, before: np.ndarray) -> None:
        """Set the rewards for the move from the nodes ``before`` to the present ones."""
        for view, returns in zip(self._views.values(), self._returns_of, strict=True):
            returns.take(self._node, out=view.reward, mode="clip")
            if self._tree.pays_on_the_way:
                view.reward -= returns.take(before)

    def _end_episodes(self) -> None:
        self._is_end.take(self._node, out=self._ended, mode="clip")
        count = int(np.count_nonzero(self._ended))
        if count:
            self._num_parked += count
            self.finished |= self._ended
            np.copyto(self._node, self._park, where=self._ended)

    def _look(self, rows: np.ndarray | None = None) -> None:
        """Set who acts and what it sees, from the nodes; only ``rows`` have changed, None: all."""
        node = self._node
        for seat in self._seats:
            seat.look(node, rows)
        for player, (view, index) in enumerate(zip(self._views.values(), self._index, strict=True)):
            self._acting_of[player].take(node, out=view.acting, mode="clip")
            self._index_of[player].take(node, out=index, mode="clip")
        if rows is not None and self._cut:  # other environments may still show what they ended with
            self._copy_to_final_views(rows)

    # -- what happens seldom: truncation, and environments that the caller parks ------------------------------------

    def _park_rows(self, rows: np.ndarray) -> None:
        self._node[rows] = self._park
        for seat in self._seats:
            seat.row[rows] = seat.num_rows
        for view in self._views.values():
            view.acting[rows] = False
        self._num_parked = int(np.count_nonzero(self.finished))

    def _truncate(self, max_step: int) -> None:
        """Cut off the episodes that have had their time, and give every agent its final observation there."""
        self._truncated.fill(False)
        self._num_steps += 1
        rows = np.flatnonzero((self._num_steps >= max_step) & (self._node < self._park))
        if len(rows) == 0:
            return
        nodes = self._node[rows]
        self._truncated[rows] = True
        self.finished[rows] = True
        self._park_rows(rows)
        self._cut = True
        for view, final, seat, index in zip(self._views.values(), self._final, self._seat_of, self._index, strict=True):
            at = final.row_of[nodes]
            view.observation, view.action_mask, view.observation_index = (
                _with_rows(array, rows, values)
                for array, values in (
                    (seat.observation, final.observation[at]),
                    (seat.mask, final.mask[at]),
                    (index, at),
                )
            )

    def _release_final_views(self) -> None:
        """Let the views share their arrays again."""
        if self._cut:
            self._cut = False
            for view, seat, index in zip(self._views.values(), self._seat_of, self._index, strict=True):
                view.observation, view.action_mask, view.observation_index = seat.observation, seat.mask, index

    def _copy_to_final_views(self, rows: np.ndarray) -> None:
        """Show what is new in ``rows`` in the views that have arrays of their own."""
        for view, seat, index in zip(self._views.values(), self._seat_of, self._index, strict=True):
            assert view.action_mask is not None and view.observation_index is not None
            view.observation[rows] = seat.observation[rows]
            view.action_mask[rows] = seat.mask[rows]
            view.observation_index[rows] = index[rows]


class _Seat:
    """A decision in each environment: of whose turn it is, or, where several move at once, of one certain player.

    The tables have a row for each of the players' G information sets, and row G for whoever has nothing to choose.
    """

    def __init__(self, tree: GameTree, moves: MoveTable, players: Sequence[int], num_envs: int) -> None:
        self.players = players
        num_actions, length = tree.num_actions, tree.observer.length
        counts = [len(tree.legal[player]) for player in players]
        self.num_rows = sum(counts)
        self._row_of = np.full(tree.num_nodes + 1, self.num_rows)  # by node, and for the finished
        for player, first in zip(players, np.cumsum([0, *counts]).tolist(), strict=False):
            infoset = moves.infoset[player]
            acting = np.flatnonzero(infoset >= 0)
            self._row_of[acting] = first + infoset[acting]
        # By node: what a rank counts for among the children. Where one player moves at a time, it is their number.
        self._stride_of = np.append(moves.stride[players[0]], 0) if moves.at_once else None
        self.mask_of = np.concatenate([*(tree.legal[player] for player in players), np.ones((1, num_actions), bool)])
        self._observation_of = np.concatenate(
            [*(tree.observation[player] for player in players), np.zeros((1, length), np.float32)]
        )
        rank = np.where(self.mask_of, np.cumsum(self.mask_of, axis=1) - 1, -1)
        rank[-1] = 0
        self._rank_of = rank.ravel()  # of an action among the legal ones of its row, -1 where it is illegal
        self._num_actions = num_actions
        self.row = np.full(num_envs, self.num_rows)
        self._entry = np.empty_like(self.row)
        self._rank = np.empty_like(self.row)
        self.choice = np.zeros(num_envs, np.int64)
        self.observation = np.zeros((num_envs, length), np.float32)
        self.mask = np.ones((num_envs, num_actions), bool)

    def choose(self) -> bool:
        """Look up the ranks of ``choice`` (E,) among the legal actions; False where an action is not legal."""
        # As unsigned numbers, negative actions are large: one comparison finds both ends of the range.
        if self.choice.view(np.uint64).max() >= self._num_actions:
            return False
        np.multiply(self.row, self._num_actions, out=self._entry)
        self._entry += self.choice
        self._rank_of.take(self._entry, out=self._rank, mode="clip")
        return bool(self._rank.min() >= 0)

    def offset(self, node: np.ndarray) -> np.ndarray:
        """How far behind the first child the choices lead from ``node`` (E,), (E,) int64."""
        return self._rank if self._stride_of is None else self._rank * self._stride_of.take(node)

    def look(self, node: np.ndarray, rows: np.ndarray | None) -> None:
        """Show what is seen at ``node`` (E,); only ``rows`` have changed, None: all."""
        row = self.row
        self._row_of.take(node, out=row, mode="clip")
        if rows is None or 4 * len(rows) > len(row):
            self._observation_of.take(row, axis=0, out=self.observation, mode="clip")
            self.mask_of.take(row, axis=0, out=self.mask, mode="clip")
        else:
            here = row[rows]
            self.observation[rows] = self._observation_of.take(here, axis=0)
            self.mask[rows] = self.mask_of.take(here, axis=0)


def _with_rows(array: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A copy of ``array`` with other values in some rows."""
    changed = array.copy()
    changed[rows] = values
    return changed
