"""Finding and loading OpenSpiel's games, https://github.com/google-deepmind/open_spiel, with errors that explain."""

from __future__ import annotations

import collections
import re
from typing import Any

import numpy as np
import pyspiel
from gymnasium import spaces

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import AgentID
from malib_lite.untrusted import check_read

# One instance of every game that cannot be loaded without parameters, but for those that read a file.
_EXAMPLES = {
    "add_noise": "add_noise(epsilon=0.1,game=kuhn_poker(),seed=1)",
    "cached_tree": "cached_tree(game=kuhn_poker())",
    "coop_to_1p": "coop_to_1p(game=tiny_hanabi())",
    "misere": "misere(game=tic_tac_toe())",
    "normal_form_extensive_game": "normal_form_extensive_game(game=kuhn_poker())",
    "repeated_game": "repeated_game(stage_game=matrix_rps(),num_repetitions=10)",
    "repeated_poker": "repeated_poker(max_num_hands=3,reset_stacks=False,universal_poker_game_string="
    "universal_poker(betting=nolimit,blind=1 2,firstPlayer=2 1,maxRaises=2 2,numBoardCards=0 1,numHoleCards=1,"
    "numRanks=4,numRounds=2,numSuits=2,stack=20 20))",
    "restricted_nash_response": "restricted_nash_response(fixed_player=0,game=kuhn_poker(),p=0.5)",
    "start_at": "start_at(game=tic_tac_toe(),history=4;0)",
    "turn_based_simultaneous_game": "turn_based_simultaneous_game(game=goofspiel(num_cards=3))",
    "zerosum": "zerosum(game=matrix_pd())",
}


def env_ids() -> list[str]:
    """Names of the games that can be played as they are: those with defaults for all parameters."""
    types = _game_types(with_python_games=True)
    return sorted(
        name for name, game_type in types.items() if game_type.default_loadable and not _unplayable(game_type)
    )


def survey_ids() -> list[str]:
    """One id for every game that OpenSpiel knows, whether it can be played here or not.

    A game that needs parameters stands with some, unless they would name a file: then with its name alone.
    """
    types = _game_types(with_python_games=True)
    return [name if types[name].default_loadable else _EXAMPLES.get(name, name) for name in sorted(types)]


def load_game(env_id: str) -> pyspiel.Game:
    """The game of that name, with parameters where the name has them: ``"leduc_poker(players=3)"``.

    Raises:
        ConfigError: there is no such game, it refuses its parameters, or it cannot be played here.
    """
    if not isinstance(env_id, str) or not env_id:
        raise ConfigError(f"'env_id' = {env_id!r}: must be the name of an OpenSpiel game, like 'kuhn_poker'")
    # OpenSpiel prints what it raises, and every game's name with it: what can be checked is checked beforehand.
    game_type = _game_type(env_id.split("(", 1)[0], env_id)
    if reason := _unplayable(game_type):
        raise ConfigError(f"'env_id' = '{env_id}': {reason}")
    _check_parameters(env_id, game_type)
    if re.search(r"(file|filename|_root)\s*=", env_id):  # parameters of those games that are read from files
        check_read(env_id, (env_id, f"open_spiel/{env_id}"), "env_id")
    try:
        game = pyspiel.load_game(env_id)
    except pyspiel.SpielError as error:
        raise ConfigError(f"'env_id' = '{env_id}': OpenSpiel refuses it: {_one_line(error)}") from None
    if reason := _unplayable(game.get_type()):  # a game made from another one shows its nature only now
        raise ConfigError(f"'env_id' = '{env_id}': {reason}")
    return game


def draws_in_secret(game: pyspiel.Game) -> bool:
    """Whether chance has a part in the game that it does not show as chance nodes."""
    return bool(game.get_type().chance_mode == pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC)


def draws_payoffs_late(env_id: str) -> bool:
    """Whether the game, or one that it is made from, draws the payoff of an end when it is first asked for it.

    ``add_noise`` does (seen in OpenSpiel 2.0.2): with one seed, what an end pays depends on how many were asked before.
    """

    def holds_noise(parameters: dict[str, Any]) -> bool:
        parts = (value for value in parameters.values() if isinstance(value, dict))
        return parameters.get("name") == "add_noise" or any(map(holds_noise, parts))

    return "add_noise(" in env_id and holds_noise(pyspiel.game_parameters_from_string(env_id))


def reseeded(game: pyspiel.Game, env_id: str, seed: int) -> pyspiel.Game:
    """The same game with its own random stream begun anew, where it draws in secret; else the game itself."""
    if not draws_in_secret(game):
        return game
    parameters = _with_seed(pyspiel.game_parameters_from_string(env_id), seed)
    return pyspiel.load_game(parameters.pop("name"), parameters)


def next_choices(state: pyspiel.State, player: int, most: int = 1000) -> list[int]:
    """What ``player``, who is not to act, may do when it is next to act, however the game goes on until then.

    Of positions that are many, ``most`` are looked at, and at most eight outcomes of each chance move.

    Returns:
        Actions in ascending order; none where it will not act again.
    """
    found: set[int] = set()
    waiting = collections.deque([state])
    for _ in range(most):
        if not waiting:
            break
        here = waiting.popleft()
        if here.is_terminal():
            continue
        if here.is_simultaneous_node():
            legal = [here.legal_actions(each) for each in range(here.num_players())]
            if legal[player]:
                found.update(legal[player])
                continue
            # Everybody's first choices, their second ones, and so on: all of each, though not all together.
            for rank in range(max(map(len, legal))):
                child = here.clone()
                child.apply_actions([actions[min(rank, len(actions) - 1)] if actions else 0 for actions in legal])
                waiting.append(child)
        elif here.current_player() == player:
            found.update(here.legal_actions())
        else:
            actions = here.legal_actions()
            if here.is_chance_node() and len(actions) > 8:
                actions = actions[:: -(-len(actions) // 8)]
            waiting.extend(map(here.child, actions))
    return sorted(found)


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


def _game_type(name: str, env_id: str) -> Any:
    """The type of the game ``name``, which is part of ``env_id``."""
    types = _game_types(with_python_games=False)
    if name not in types:
        types = _game_types(with_python_games=True)
    if name not in types:
        raise ConfigError(f"'env_id' = '{env_id}': OpenSpiel has no game '{name}': " + suggest(name, types))
    return types[name]


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
    if "(" not in env_id:
        if not game_type.default_loadable:
            names = ", ".join(game_type.parameter_specification)
            raise ConfigError(f"'env_id' = '{env_id}': the game needs parameters, '{env_id}(...)'; it knows: {names}")
        return
    if not env_id.endswith(")") or env_id.count("(") != env_id.count(")"):
        raise ConfigError(f"'env_id' = '{env_id}': the brackets do not match; write it like 'leduc_poker(players=3)'")
    try:
        given = pyspiel.game_parameters_from_string(env_id)
    except pyspiel.SpielError as error:
        raise ConfigError(f"'env_id' = '{env_id}': {_one_line(error)}") from None
    _check_given(env_id, given)


def _check_given(env_id: str, given: dict[str, Any]) -> None:
    """Check the names in a game's parameters, and in those of the games among them."""
    name = given.get("name", "")
    known = _game_type(name, env_id).parameter_specification
    for key, value in given.items():
        if key == "name":
            continue
        if key not in known:
            raise ConfigError(f"'env_id' = '{env_id}': '{name}' has no parameter '{key}': " + suggest(key, known))
        if isinstance(known[key], dict):
            if not isinstance(value, dict):
                raise ConfigError(f"'env_id' = '{env_id}': '{key}' must be a game; write '{key}={value}()'")
            _check_given(env_id, value)


def _with_seed(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """A game's parameters with ``seed`` in them, and in those of the games among them, wherever one is taken."""
    seeded = {key: _with_seed(value, seed) if isinstance(value, dict) else value for key, value in parameters.items()}
    if "rng_seed" in _game_type(parameters["name"], parameters["name"]).parameter_specification:
        seeded["rng_seed"] = seed
    return seeded


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
