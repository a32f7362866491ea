"""The environment of matrix and Markov games: all players act at once, and are paid from a table."""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import AgentID, Environment, TimeStep, describe
from malib_lite.contracts.exact import ExactGame
from malib_lite.contracts.streams import RowStreams
from malib_lite.contracts.vector import VectorEnvironment
from malib_lite.envs.matrix.exact import OneRoundGame
from malib_lite.envs.matrix.games import GAMES
from malib_lite.envs.matrix.matrix_vector import Chance, MatrixVector, agents_of
from malib_lite.envs.matrix.observer import Observer
from malib_lite.envs.matrix.spec import KEYS, GameSpec, load_spec
from malib_lite.untrusted import MAX_JSON_BYTES, check_read, read_mapping

CUSTOM = "custom"
_DEFAULT = "rock_paper_scissors"


class MatrixGame(Environment):
    """A Markov game given by its payoffs: a matrix game, once or repeated, or one with several states.

    Agents are "player_0", "player_1", ...; each of them acts in every round, and sees what :class:`GameSpec` says of
    ``observe``, the same for all. :meth:`state` is what makes the game Markov, whatever the players see of it.

    Args:
        env_id: one of :func:`env_ids`; or "custom", with ``payoffs``; or the path of a YAML file (``.yaml`` or
            ``.yml``) with the keys of :class:`GameSpec`.
        game: keys of :class:`GameSpec`, instead of the named game's own (``rounds=10``); ``payoffs`` are custom.

    Raises:
        ConfigError: there is no such game, or something in it is wrong.
    """

    def __init__(self, env_id: str | None = None, **game: Any) -> None:
        super().__init__(**({} if env_id is None else {"env_id": env_id}), **game)
        self.spec = _find(env_id, game)
        tables = self.spec.tables
        self._tables = tables
        self._agents = agents_of(tables)
        self._action_spaces: dict[AgentID, spaces.Space] = {
            agent: spaces.Discrete(size) for agent, size in zip(self._agents, tables.num_actions, strict=True)
        }
        self._observer = Observer(tables, tables.observe)
        self._observation_space = spaces.Box(0.0, 1.0, (self._observer.length,), np.float32)
        self._state_observer = Observer(tables, tables.markov_parts)
        self._state_space = spaces.Box(0.0, 1.0, (self._state_observer.length,), np.float32)
        self._chance = Chance(tables)
        self._streams: RowStreams | None = None
        self._no_joint = int(np.prod(tables.num_actions))
        self._situation = (0, self._no_joint, 0)  # state, last joint action, rounds played

    @property
    def possible_agents(self) -> list[AgentID]:
        """One agent for each player."""
        return self._agents

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """Box of float32 zeros and ones, flat; the same for all agents."""
        return dict.fromkeys(self._agents, self._observation_space)

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """Discrete, with as many actions as the player has."""
        return self._action_spaces

    @property
    def state_space(self) -> spaces.Space:
        """Box of float32 zeros and ones, flat."""
        return self._state_space

    def state(self) -> np.ndarray:
        """The state, one-hot, and the round where their number is limited; see :attr:`GameTables.markov_parts`."""
        return self._look(self._state_observer)

    @classmethod
    def make_vector(cls, seeds: Sequence[int], max_step: int | None, **configs: Any) -> VectorEnvironment | None:
        """All rows as one array computation; the same episodes as this class plays one by one with these seeds."""
        if cls is not MatrixGame:
            return None  # a subclass may have changed the rules
        return MatrixVector(_find_from(**configs).tables, seeds, max_step)

    @classmethod
    def make_exact(cls, **configs: Any) -> ExactGame | None:
        """Exact values of games of one round; None for longer ones."""
        return OneRoundGame.build(_find_from(**configs).tables) if cls is MatrixGame else None

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Go to the first state."""
        if seed is not None or self._streams is None:
            self._streams = RowStreams([secrets.randbits(31) if seed is None else seed])
        chance = self._chance
        state = chance.only_start
        if state is None:
            state = bisect_right(chance.start[0], self._streams.uniform()[0])
        self._situation = (state, self._no_joint, 0)
        return TimeStep(dict.fromkeys(self._agents, self._look(self._observer)))

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Play one round.

        Raises:
            ValueError: a player does not have this action.
        """
        tables, chance = self._tables, self._chance
        joint, choice = 0, []
        for agent, size in zip(self._agents, tables.num_actions, strict=True):
            action = int(actions[agent])
            if not 0 <= action < size:
                raise ValueError(f"action {action} of {agent} is not below {size}")
            joint = joint * size + action
            choice.append(action)
        state, _, num_rounds = self._situation
        payoffs = tables.payoffs[(state, *choice)].tolist()
        entry = state * self._no_joint + joint
        if chance.only_next is not None:
            state = int(chance.only_next[entry])
        else:
            assert self._streams is not None
            state = bisect_right(chance.next[entry], self._streams.uniform()[0])
        self._situation = (state, joint, num_rounds + 1)
        over = state == tables.num_states or num_rounds + 1 == tables.rounds
        return TimeStep(
            dict.fromkeys(self._agents, self._look(self._observer)),
            dict(zip(self._agents, payoffs, strict=True)),
            dict.fromkeys(self._agents, over),
        )

    def state_dict(self) -> dict[str, Any]:
        """The state of the random stream, from which later episodes follow."""
        return {"stream": None if self._streams is None else self._streams.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a random stream that :meth:`state_dict` gave."""
        self._streams = None
        if state["stream"] is not None:
            self._streams = RowStreams([0])
            self._streams.load_state_dict(state["stream"])

    def _look(self, observer: Observer) -> np.ndarray:
        """(n,) float32, of the present situation; not to be written to."""
        return observer.observe(*(np.array([number]) for number in self._situation))[0]


def env_desc_gen(env_id: str | None = None, **config: Any) -> dict[str, Any]:
    """The ``env_description`` of a game; arguments and errors as of :class:`MatrixGame`."""
    return describe(MatrixGame, **({} if env_id is None else {"env_id": env_id}), **config)


def env_ids() -> list[str]:
    """The ids of the games that need no payoffs."""
    return sorted(GAMES)


def _find_from(env_id: str | None = None, **game: Any) -> GameSpec:
    """The game of a configuration in one."""
    return _find(env_id, game)


def _find(env_id: str | None, game: Mapping[str, Any]) -> GameSpec:
    """The game called ``env_id``, with the keys in ``game`` instead of its own."""
    for key in game:
        if key not in KEYS:
            raise ConfigError(f"unknown key '{key}': " + suggest(key, ["env_id", *KEYS]))
    if env_id is None:
        env_id = CUSTOM if "payoffs" in game else _DEFAULT
    if not isinstance(env_id, str):
        raise ConfigError(f"'env_id' = {env_id!r}: must be the name of a game or the path of a YAML file")
    if env_id == CUSTOM:
        return load_spec(game)
    if "payoffs" in game:
        raise ConfigError(f"'env_id' = {env_id!r} has payoffs: with 'payoffs' of your own, it is '{CUSTOM}'")
    if not env_id.endswith((".yaml", ".yml")):
        if env_id not in GAMES:
            raise ConfigError(f"'env_id' = {env_id!r}: there is no such game, {suggest(env_id, [*GAMES, CUSTOM])}")
        return load_spec({**GAMES[env_id], **game})
    check_read(env_id, (env_id, f"matrix/{env_id}"), "env_id")
    written = read_mapping(Path(env_id), follow_link=True, longest=MAX_JSON_BYTES)
    try:
        return load_spec({**written, **game})
    except ConfigError as error:
        raise ConfigError(f"the game of '{env_id}' cannot be used: {error}") from error
