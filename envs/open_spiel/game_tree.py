"""A game's whole tree as arrays: what stepping by table look-up and exact values are made from."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyspiel

from malib_lite.config import ConfigError
from malib_lite.envs.open_spiel.games import load_game

CHANCE = -1  # entries of GameTree.player beside the players' numbers
TERMINAL = -2

BUDGET = 500_000  # histories of the largest game that is expanded

_TABLE_LIMIT = 2**25  # numbers in all information sets' tensors together: 128 MB


@dataclass(frozen=True)
class GameTree:
    """All V histories of a game, numbered breadth first from the root, 0; the children of a node follow each other.

    The arrays are read-only: one tree serves everybody who asks for the game. Moves at which several players act at
    once are turned into one move after the other, none of which sees the moves before it.
    """

    game: pyspiel.Game  # the game that was expanded; turn-based
    player: np.ndarray  # (V,) int16: whose decision it is, or CHANCE or TERMINAL
    parent: np.ndarray  # (V,) int32; the root's is -1
    action: np.ndarray  # (V,) int32: the action or chance outcome that leads here; the root's is -1
    probability: np.ndarray  # (V,) float64: that chance leads here from the parent; 1 where it is a player's decision
    first_child: np.ndarray  # (V,) int32; meaningless where there are no children
    num_children: np.ndarray  # (V,) int32
    infoset: np.ndarray  # (V,) int32: number among the deciding player's information sets, -1 elsewhere
    returns: np.ndarray  # (V, N) float64: zero but at leaves, where ``pays_on_the_way`` also at decisions
    level_start: np.ndarray  # (depth + 2,) int64: the nodes of depth d are level_start[d] ... level_start[d + 1] - 1
    keys: list[dict[str, int]]  # per player: number of an information set by its description
    observation: list[np.ndarray]  # per player (I, n) float32
    legal: list[np.ndarray]  # per player (I, A) bool
    pays_on_the_way: bool  # rewards come before the end, too
    skip: int  # entries at the head of the turn-based game's tensors that the game itself does not have

    @classmethod
    def expand(cls, game: pyspiel.Game, budget: int = BUDGET) -> GameTree | None:
        """Visit every history once.

        Args:
            game: any game; the deciding players' information states must be known as strings and as tensors.
            budget: the most histories a tree may have.

        Returns:
            None where the game is larger (or its tensors are, beyond 128 MB), does not describe its information
            states, draws chance in secret, or can end before anybody has decided anything.
        """
        skip = 0
        if game.get_type().dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS:
            if not _has_information_states(game):
                return None
            length = game.information_state_tensor_size()
            game = pyspiel.convert_to_turn_based(game)
            # In front of the tensor stand who moves and who looks, one-hot each: no more than the agent knows anyway.
            skip = 2 * game.num_players()
            if game.information_state_tensor_size() != length + skip:
                return None
        if not _has_information_states(game) or _surely_larger(game, budget):
            return None
        tree = _Expansion(game, budget, skip).run()
        if tree is None or np.any((tree.player == TERMINAL) & (tree.num_decisions() == 0)):
            return None
        return tree

    @property
    def num_players(self) -> int:
        """N."""
        return self.returns.shape[1]

    @property
    def num_nodes(self) -> int:
        """V, the number of histories."""
        return len(self.player)

    @property
    def num_actions(self) -> int:
        """A, the number of distinct actions."""
        return self.legal[0].shape[1]

    def levels(self) -> list[slice]:
        """The nodes below the root, one slice per depth, from the top to the bottom."""
        return [slice(*bounds) for bounds in zip(self.level_start[1:-1], self.level_start[2:], strict=True)]

    def num_decisions(self) -> np.ndarray:
        """How many decisions were made on the way to each node, (V,) int64."""
        count = np.zeros(self.num_nodes, np.int64)
        for level in self.levels():
            parent = self.parent[level]
            count[level] = count[parent] + (self.player[parent] >= 0)
        return count

    def state(self, node: int) -> pyspiel.State:
        """The node's state in OpenSpiel, played anew from the root."""
        actions = []
        while node > 0:
            actions.append(int(self.action[node]))
            node = int(self.parent[node])
        state = self.game.new_initial_state()
        for action in reversed(actions):
            state.apply_action(action)
        return state

    def tensor(self, state: pyspiel.State, player: int) -> list[float]:
        """What ``player`` knows in ``state``, as the game itself would give it."""
        return state.information_state_tensor(player)[self.skip :]


@functools.lru_cache(maxsize=8)
def expand_game(env_id: str, budget: int = BUDGET) -> GameTree | None:
    """:meth:`GameTree.expand` for a game's name, remembered: vectors, exact values and tests share one tree."""
    return GameTree.expand(load_game(env_id), budget)


def compiled_game(env_id: str, budget: int = BUDGET) -> GameTree:
    """The game's tree for somebody who insists on it.

    Raises:
        ConfigError: the game is over the budget or hides what a tree needs.
    """
    tree = expand_game(env_id, budget)
    if tree is None:
        raise ConfigError(
            f"'compiled' = True: '{env_id}' cannot be compiled; a game can be that has at most {budget:,} histories, "
            "shows its chance moves, and describes its players' information states by strings and tensors (of 128 MB)"
        )
    return tree


def _has_information_states(game: pyspiel.Game) -> bool:
    game_type = game.get_type()
    return (
        game_type.dynamics != pyspiel.GameType.Dynamics.MEAN_FIELD
        and game_type.chance_mode != pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC
        and game_type.provides_information_state_string
        and game_type.provides_information_state_tensor
        and game.information_state_tensor_size() > 0
    )


def _surely_larger(game: pyspiel.Game, budget: int, probes: int = 32, margin: int = 16) -> bool:
    """Whether random descents show the tree to be far over the budget, so that nobody tries to expand bridge.

    The product of the numbers of children along a uniformly random descent, summed over its depths, is an unbiased
    estimate of the tree's size (Knuth 1975, Estimating the efficiency of backtrack programs). By Markov's inequality
    a tree within the budget shows ``margin`` times the budget in one descent with probability 1 / margin at most;
    that half of 32 independent ones do so has one below 1e-10.
    """
    generator = np.random.default_rng(0)
    votes = {True: 0, False: 0}
    while 2 * max(votes.values()) < probes:
        state, width, size = game.new_initial_state(), 1, 1
        while size <= margin * budget and not state.is_terminal():
            actions = state.legal_actions()  # at chance nodes, the possible outcomes
            width *= len(actions)
            size += width
            state.apply_action(actions[generator.integers(len(actions))])
        votes[size > margin * budget] += 1
    return votes[True] > votes[False]


class _Expansion:
    """The lists that grow while a tree is visited, level by level."""

    def __init__(self, game: pyspiel.Game, budget: int, skip: int) -> None:
        self.game, self.budget, self.skip = game, budget, skip
        self.num_players = game.num_players()
        self.pays_on_the_way = game.get_type().reward_model == pyspiel.GameType.RewardModel.REWARDS
        self.player: list[int] = []
        self.action: list[int] = [-1]
        self.probability: list[float] = [1.0]
        self.num_children: list[int] = []
        self.infoset: list[int] = []
        self.paid: list[tuple[int, list[float]]] = []  # nodes with returns
        self.keys: list[dict[str, int]] = [{} for _ in range(self.num_players)]
        self.observation: list[list[np.ndarray]] = [[] for _ in range(self.num_players)]
        self.legal: list[list[list[int]]] = [[] for _ in range(self.num_players)]
        self.room = _TABLE_LIMIT  # for further tensors

    def run(self) -> GameTree | None:
        level, level_start = [self.game.new_initial_state()], [0, 1]
        while level:
            children: list[pyspiel.State] = []
            for state in level:
                actions = self._visit(state)
                children.extend(map(state.child, actions))
                if level_start[-1] + len(children) > self.budget or self.room < 0:
                    return None
            level = children
            level_start.append(level_start[-1] + len(level))
        return self._tree(level_start[:-1])

    def _visit(self, state: pyspiel.State) -> list[int]:
        """Book one history; returns what leads on from it."""
        player = state.current_player()
        infoset = -1
        actions: list[int] = []
        if player >= 0:
            actions = state.legal_actions()
            infoset = self._infoset(state, player, actions)
            self.probability.extend([1.0] * len(actions))
            if self.pays_on_the_way:
                self.paid.append((len(self.player), state.returns()))
        elif state.is_chance_node():
            player = CHANCE
            outcomes = state.chance_outcomes()
            actions = [action for action, _ in outcomes]
            self.probability.extend(probability for _, probability in outcomes)
        else:
            player = TERMINAL
            self.paid.append((len(self.player), state.returns()))
        self.player.append(player)
        self.infoset.append(infoset)
        self.num_children.append(len(actions))
        self.action.extend(actions)
        return actions

    def _infoset(self, state: pyspiel.State, player: int, actions: list[int]) -> int:
        keys = self.keys[player]
        number = keys.setdefault(state.information_state_string(player), len(keys))
        if number == len(self.legal[player]):
            tensor = np.array(state.information_state_tensor(player)[self.skip :], np.float32)
            self.observation[player].append(tensor)
            self.legal[player].append(actions)
            self.room -= len(tensor)
        return number

    def _tree(self, level_start: list[int]) -> GameTree:
        num_nodes, num_actions = len(self.player), self.game.num_distinct_actions()
        num_children = np.array(self.num_children, np.int32)
        first_child = np.concatenate([[1], 1 + np.cumsum(num_children)[:-1]]).astype(np.int32)
        parent = np.concatenate([[-1], np.repeat(np.arange(num_nodes), num_children)]).astype(np.int32)
        returns = np.zeros((num_nodes, self.num_players))
        returns[[node for node, _ in self.paid]] = [values for _, values in self.paid]
        length = self.game.information_state_tensor_size() - self.skip
        tree = GameTree(
            game=self.game,
            player=np.array(self.player, np.int16),
            parent=parent,
            action=np.array(self.action, np.int32),
            probability=np.array(self.probability),
            first_child=first_child,
            num_children=num_children,
            infoset=np.array(self.infoset, np.int32),
            returns=returns,
            level_start=np.array(level_start, np.int64),
            keys=self.keys,
            observation=[np.array(rows, np.float32).reshape(-1, length) for rows in self.observation],
            legal=[_legal_mask(rows, num_actions) for rows in self.legal],
            pays_on_the_way=self.pays_on_the_way,
            skip=self.skip,
        )
        _freeze(tree)
        return tree


def _legal_mask(rows: list[list[int]], num_actions: int) -> np.ndarray:
    """(I, A) bool from lists of legal actions."""
    mask = np.zeros((len(rows), num_actions), bool)
    for i, actions in enumerate(rows):
        mask[i, actions] = True
    return mask


def _freeze(tree: Any) -> None:
    for value in vars(tree).values():
        for array in value if isinstance(value, list) else [value]:
            if isinstance(array, np.ndarray):
                array.setflags(write=False)
