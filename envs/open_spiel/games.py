"""Finding and loading OpenSpiel's games, https://github.com/google-deepmind/open_spiel, with errors that explain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyspiel
from gymnasium import spaces

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import AgentID


def env_ids() -> list[str]:
    """Names of the games that can be played as they are: those with defaults for all parameters and with tensors."""
    return sorted(
        game_type.short_name
        for game_type in _game_types(with_python_games=True).values()
        if game_type.default_loadable and not _unplayable(game_type) and _gives_tensors(game_type)
    )


def load_game(env_id: str) -> pyspiel.Game:
    """The game of that name, with parameters where the name has them: ``"leduc_poker(players=3)"``.

    Raises:
        ConfigError: there is no such game, it refuses its parameters, or it cannot be played here.
    """
    if not isinstance(env_id, str) or not env_id:
        raise ConfigError(f"'env_id' = {env_id!r}: must be the name of an OpenSpiel game, like 'kuhn_poker'")
    name = env_id.split("(", 1)[0]
    # OpenSpiel prints what it raises, and every game's name with it: what can be checked is checked beforehand.
    types = _game_types(with_python_games=False)
    if name not in types:
        types = _game_types(with_python_games=True)
    if name not in types:
        raise ConfigError(f"'env_id' = '{env_id}': OpenSpiel has no game '{name}': " + suggest(name, types))
    game_type = types[name]
    if reason := _unplayable(game_type):
        raise ConfigError(f"'env_id' = '{env_id}': {reason}")
    _check_parameters(env_id, game_type)
    try:
        game = pyspiel.load_game(env_id)
    except pyspiel.SpielError as error:
        raise ConfigError(f"'env_id' = '{env_id}': OpenSpiel refuses it: {_one_line(error)}") from None
    if reason := _unplayable(game.get_type()):  # a game made from another one shows its nature only now
        raise ConfigError(f"'env_id' = '{env_id}': {reason}")
    return game


def reseeded(game: pyspiel.Game, seed: int) -> pyspiel.Game:
    """The same game with its own random stream begun anew, where it has one; else the game itself.

    A few games draw inside their rules instead of showing chance nodes.
    """
    sampled = game.get_type().chance_mode == pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC
    if not sampled or "rng_seed" not in game.get_type().parameter_specification:
        return game
    return pyspiel.load_game(game.get_type().short_name, {**game.get_parameters(), "rng_seed": seed})


def tensor_of(game: pyspiel.Game, env_id: str) -> tuple[str, int]:
    """Which method of a state gives a player's observation, and its length.

    The information state remembers all that its player has seen and done; the observation is the present view, for
    games that offer nothing better.

    Raises:
        ConfigError: the game has neither.
    """
    game_type = game.get_type()
    for kind in ("information_state", "observation"):
        if getattr(game_type, f"provides_{kind}_tensor"):
            shape = getattr(game, f"{kind}_tensor_shape")()
            # A game that claims tensors and has none says so by an empty shape.
            if len(shape) > 0 and int(np.prod(shape)) > 0:
                return f"{kind}_tensor", int(np.prod(shape))
    raise ConfigError(f"'env_id' = '{env_id}': the game describes its states by no tensor, which policies need")


def agents_of(game: pyspiel.Game) -> list[AgentID]:
    """Agent ids in the order of OpenSpiel's players."""
    return [f"player_{player}" for player in range(game.num_players())]


def observation_space(length: int) -> spaces.Box:
    """The space of flat tensors, float32 of shape (length,)."""
    return spaces.Box(-np.inf, np.inf, (length,), np.float32)


def action_space(num_actions: int) -> spaces.Discrete:
    """The space of actions, counted from 0."""
    return spaces.Discrete(num_actions)


def _game_types(with_python_games: bool) -> dict[str, Any]:
    """All registered games' types by name. Games written in Python register themselves when they are imported."""
    if with_python_games:
        import open_spiel.python.games  # noqa: F401
    return {game_type.short_name: game_type for game_type in pyspiel.registered_games()}


def _gives_tensors(game_type: Any) -> bool:
    return game_type.provides_information_state_tensor or game_type.provides_observation_tensor


def _unplayable(game_type: Any) -> str:
    """Why games of this type cannot be played here, or nothing."""
    if game_type.dynamics == pyspiel.GameType.Dynamics.MEAN_FIELD:
        return "mean-field games have no single agents to play them"
    if game_type.action_structs_only:
        return "the game's actions are structures, not numbers"
    if game_type.short_name == "chat_game":
        return "the game has more actions than it declares"
    return ""


def _check_parameters(env_id: str, game_type: Any) -> None:
    known = game_type.parameter_specification
    if "(" not in env_id:
        if not game_type.default_loadable:
            names = ", ".join(known)
            raise ConfigError(f"'env_id' = '{env_id}': the game needs parameters, '{env_id}(...)'; it knows: {names}")
        return
    if not env_id.endswith(")") or env_id.count("(") != env_id.count(")"):
        raise ConfigError(f"'env_id' = '{env_id}': the brackets do not match; write it like 'leduc_poker(players=3)'")
    try:
        given = pyspiel.game_parameters_from_string(env_id)
    except pyspiel.SpielError as error:
        raise ConfigError(f"'env_id' = '{env_id}': {_one_line(error)}") from None
    for key in given:
        if key != "name" and key not in known:
            raise ConfigError(f"'env_id' = '{env_id}': the game has no parameter '{key}': " + suggest(key, known))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
