"""A game's whole tree as arrays: what stepping by table look-up and exact values are made from."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyspiel

from malib_lite.config import ConfigError
from malib_lite.envs.open_spiel.games import draws_in_secret, draws_payoffs_late, load_game
from malib_lite.envs.open_spiel.observers import Observer, make_observer

CHANCE = -1  # entries of GameTree.player beside the players' numbers
TERMINAL = -2

BUDGET = 500_000  # histories of the largest game that is expanded

_TABLE_LIMIT = 2**25  # numbers in all information sets' tensors together: 128 MB


@dataclass(frozen=True)
class GameTree:
    """All V histories of a game, numbered breadth first from the root, 0; the children of a node follow each other.

    The arrays are read-only: one tree serves everybody who asks for the game. Where several players act at once, they
    move one after the other in the tree, in the order of their numbers and unseen by each other; the nodes between
    such moves are called inner nodes here, and only with the last of the moves a step is done.
    """

    game: pyspiel.Game
    observer: Observer
    player: np.ndarray  # (V,) int16: whose decision it is, or CHANCE or TERMINAL
    inner: np.ndarray  # (V,) bool: some of the players who act at once have moved, others have not
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

    @classmethod
    def expand(cls, game: pyspiel.Game, observer: Observer, budget: int = BUDGET) -> GameTree | None:
        """Visit every history once.

        Args:
            game: any game; the deciding players' information states must be known as strings.
            observer: makes the arrays of ``observation``.
            budget: the most histories a tree may have.

        Returns:
            None where the game is larger (or the observations are, beyond 128 MB), does not describe its information
            states, shows different views in one of them, draws chance in secret, cannot copy its states, or can end
            before anybody has decided anything.
        """
        if draws_in_secret(game) or not game.get_type().provides_information_state_string or not _can_be_cloned(game):
            return None
        tree = _Expansion(game, observer, budget).run()
        if tree is None or np.any((tree.player == TERMINAL) & (tree.num_steps() == 0)):
            return None
        return tree if tree._shows_what_states_show() else None

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

    def num_steps(self) -> np.ndarray:
        """How many steps were done on the way to each node, (V,) int64; moves at once are one step."""
        count = np.zeros(self.num_nodes, np.int64)
        for level in self.levels():
            parent = self.parent[level]
            count[level] = count[parent] + ((self.player[parent] >= 0) & ~self.inner[level])
        return count

    def state(self, node: int) -> pyspiel.State:
        """The node's state in OpenSpiel, played anew from the root; of an inner node, that before the moves at once."""
        path = []
        while node > 0:
            path.append(node)
            node = int(self.parent[node])
        state = self.game.new_initial_state()
        moves: list[int] = []
        for node in reversed(path):
            moves.append(int(self.action[node]))
            if not self.inner[node]:
                _move(state, moves)
                moves = []
        return state

    def _shows_what_states_show(self, sample: int = 256) -> bool:
        """Whether some states, played anew, are seen as in the tree.

        A present view may show what the information state leaves out, and there is a game (python_dynamic_routing)
        whose views still show something of the states that were looked at before.
        """
        decisions = np.flatnonzero(self.player >= 0)
        if len(decisions) > sample:
            decisions = np.random.default_rng(0).choice(decisions, sample, replace=False)
        for node in decisions.tolist():
            player = int(self.player[node])
            if not np.array_equal(
                self.observer(self.state(node), player), self.observation[player][self.infoset[node]]
            ):
                return False
        return True


@functools.lru_cache(maxsize=8)
def _expand(env_id: str, kind: str, budget: int) -> GameTree | None:
    game = load_game(env_id)
    return GameTree.expand(game, make_observer(game, env_id, kind), budget)


def expand_game(env_id: str, observation: str | None = None, budget: int = BUDGET) -> GameTree | None:
    """:meth:`GameTree.expand` for a game's name, remembered: vectors, exact values and tests share one tree.

    Args:
        observation: see :func:`~malib_lite.envs.open_spiel.observers.make_observer`.
    """
    return _expand(env_id, make_observer(load_game(env_id), env_id, observation).kind, budget)


def drawn_game(env_id: str, observation: str | None = None) -> pyspiel.Game:
    """The game to play: one whose payoffs are the same in every process and copy.

    Raises:
        ConfigError: it draws payoffs only when they are asked for, and has too many ends to ask for all beforehand.
    """
    game = load_game(env_id)
    if not draws_payoffs_late(env_id):
        return game
    tree = expand_game(env_id, observation)  # which asks for all of them, always in the same order
    if tree is None:
        raise ConfigError(
            f"'env_id' = '{env_id}': add_noise draws a payoff when an end of the game is first reached, so that every "
            f"process would play another game; only games of at most {BUDGET:,} histories can be drawn beforehand"
        )
    return tree.game


def compiled_game(env_id: str, observation: str | None = None) -> GameTree:
    """The game's tree for somebody who insists on it.

    Raises:
        ConfigError: the game is over the budget or hides what a tree needs.
    """
    tree = expand_game(env_id, observation)
    if tree is None:
        raise ConfigError(
            f"'compiled' = True: '{env_id}' cannot be compiled; a game can be that has at most {BUDGET:,} histories, "
            "shows its chance moves, and describes its players' information states by strings and by one view for each "
            "(128 MB in all)"
        )
    return tree


def _movers(state: pyspiel.State) -> list[int]:
    """The players who decide now, in the order of their numbers."""
    if not state.is_simultaneous_node():
        return [state.current_player()]
    return [player for player in range(state.num_players()) if state.legal_actions(player)]


def _move(state: pyspiel.State, moves: Sequence[int]) -> None:
    """Apply the actions of all who decide now, or the one outcome of chance."""
    if not state.is_simultaneous_node():
        (action,) = moves
        state.apply_action(action)
        return
    # OpenSpiel wants an entry for those who have nothing to choose, too.
    actions = [0] * state.num_players()
    for player, action in zip(_movers(state), moves, strict=True):
        actions[player] = action
    state.apply_actions(actions)


# A state, or a state with some of the moves that are made at once there.
_Entry: TypeAlias = pyspiel.State | tuple[pyspiel.State, tuple[int, ...]]


def _can_be_cloned(game: pyspiel.Game) -> bool:
    """Whether a copy of a state goes on by itself; python_hangman's (seen in OpenSpiel 2.0.2) miss their game."""
    try:
        state = game.new_initial_state().clone()
        return bool(state.legal_actions()) if state.is_chance_node() else True
    except AttributeError:
        return False


class _Expansion:
    """The lists that grow while a tree is visited, level by level."""

    def __init__(self, game: pyspiel.Game, observer: Observer, budget: int) -> None:
        self.game, self.observer, self.budget = game, observer, budget
        self.num_players = game.num_players()
        self.simultaneous = game.get_type().dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS
        self.pays_on_the_way = game.get_type().reward_model == pyspiel.GameType.RewardModel.REWARDS
        self.player: list[int] = []
        self.inner: list[bool] = []
        self.action: list[int] = [-1]
        self.probability: list[float] = [1.0]
        self.num_children: list[int] = []
        self.infoset: list[int] = []
        self.paid: list[tuple[int, list[float]]] = []  # nodes with returns
        self.keys: list[dict[str, int]] = [{} for _ in range(self.num_players)]
        self.observation: list[list[np.ndarray]] = [[] for _ in range(self.num_players)]
        self.legal: list[list[list[int]]] = [[] for _ in range(self.num_players)]
        self.room = _TABLE_LIMIT  # for further observations

    def run(self) -> GameTree | None:
        level: list[_Entry] = [self.game.new_initial_state()]
        level_start = [0, 1]
        probed = 0  # the size of the tree when it was last probed
        while level:
            known = level_start[-1]
            if not probed or known > max(1.5 * probed, self.budget / 20):
                if self._must_become_too_large(known, level):
                    return None
                probed = known
            children: list[_Entry] = []
            for entry in level:
                children.extend(self._visit(entry))
                if level_start[-1] + len(children) > self.budget or self.room < 0:
                    return None
            level = children
            level_start.append(level_start[-1] + len(level))
        return self._tree(level_start[:-1])

    def _must_become_too_large(self, known: int, level: list[_Entry], max_moves: int = 30_000) -> bool:
        """Whether random descents from the deepest ``level`` show the tree to be over the budget.

        The product of the numbers of children along a uniformly random descent, summed over its depths, is an unbiased
        estimate of what lies below its start (Knuth 1975, Estimating the efficiency of backtrack programs), and so are
        the nodes ``known`` and the level's size times that estimate, from a random start, of the tree. Cutting it off
        at 16 times the budget errs to the low side only, and keeps descents of large games short. A tree is given up
        when the mean of at least 32 descents lies more than five of its standard errors above the budget. Descents
        that are rare and count for much may let one pass that should not: it is probed again when more is known of it.
        """
        most, generator = 16.0 * self.budget, np.random.default_rng(0)
        count, mean, squares, num_moves = 0, 0.0, 0.0, 0  # squares: summed, of the deviations from the mean
        while num_moves < max_moves:
            entry = level[generator.integers(len(level))]
            state, made = entry if isinstance(entry, tuple) else (entry, ())
            state, moves = state.clone(), list(made)
            width, size = len(level), known
            while size <= most and not state.is_terminal():
                for player in _movers(state)[len(moves) :]:
                    # Chance has no number to ask with.
                    actions = state.legal_actions(player) if player >= 0 else state.legal_actions()
                    width *= len(actions)
                    size += width
                    moves.append(actions[generator.integers(len(actions))])
                _move(state, moves)
                moves = []
                num_moves += 1
            estimate = min(size, most)
            count += 1
            change = estimate - mean
            mean += change / count
            squares += change * (estimate - mean)
            if count >= 32:
                error: float = (squares / (count - 1) / count) ** 0.5
                if abs(mean - self.budget) > 5 * error:
                    return mean > self.budget
            num_moves += 1
        return False

    def _visit(self, entry: _Entry) -> Iterable[_Entry]:
        """Book one history; returns its children."""
        state, moves = entry if isinstance(entry, tuple) else (entry, ())
        player, infoset = state.current_player(), -1
        actions: list[int] = []
        at_once = self.simultaneous and state.is_simultaneous_node()
        if at_once:
            movers = _movers(state)
            player = movers[len(moves)]
        if player >= 0:
            actions = state.legal_actions(player)
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
        self.inner.append(bool(moves))
        self.infoset.append(infoset)
        self.num_children.append(len(actions))
        self.action.extend(actions)
        if not at_once:
            return map(state.child, actions)
        if len(moves) + 1 < len(movers):
            return [(state, (*moves, action)) for action in actions]
        children = [state.clone() for _ in actions]
        for child, action in zip(children, actions, strict=True):
            _move(child, (*moves, action))
        return children

    def _infoset(self, state: pyspiel.State, player: int, actions: list[int]) -> int:
        keys = self.keys[player]
        number = keys.setdefault(state.information_state_string(player), len(keys))
        if number == len(self.legal[player]):
            self.observation[player].append(self.observer(state, player))
            self.legal[player].append(actions)
            self.room -= self.observer.length
        return number

    def _tree(self, level_start: list[int]) -> GameTree:
        num_nodes, num_actions = len(self.player), self.game.num_distinct_actions()
        num_children = np.array(self.num_children, np.int32)
        first_child = np.concatenate([[1], 1 + np.cumsum(num_children)[:-1]]).astype(np.int32)
        parent = np.concatenate([[-1], np.repeat(np.arange(num_nodes), num_children)]).astype(np.int32)
        returns = np.zeros((num_nodes, self.num_players))
        returns[[node for node, _ in self.paid]] = [values for _, values in self.paid]
        length = self.observer.length
        tree = GameTree(
            game=self.game,
            observer=self.observer,
            player=np.array(self.player, np.int16),
            inner=np.array(self.inner, bool),
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
