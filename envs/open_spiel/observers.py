"""What a player of an OpenSpiel game sees, as an array."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyspiel

from malib_lite.config import ConfigError
from malib_lite.envs.open_spiel.games import load_game, reseeded

KINDS = ("information_state", "observation")

_PROBES, _PROBE_MOVES = 32, 1000  # random episodes that are looked at, and the most moves of each
_LONGEST = 4096  # bytes of a description


@dataclass(frozen=True)
class Observer:
    """Makes a player's view of a state a flat array.

    The information state remembers all that its player has seen and done; the observation is the present view. Most
    games give a tensor. Those that give none are described by the codes of the characters in OpenSpiel's string: its
    UTF-8 bytes divided by 255, then zeros. As no game says how long its strings can become, 32 random episodes are
    played once, always the same; arrays have room for half as much again as the longest string met there, rounded up
    to a multiple of 32 and at most 4096. Of a string that is longer still, only the end is seen: in a description
    that grows with the game, what is newest.
    """

    kind: str  # "information_state" or "observation"
    length: int  # n, of the arrays
    spelt: bool  # made from a string instead of a tensor

    def __call__(self, state: pyspiel.State, player: int) -> np.ndarray:
        """The array (n,) float32.

        Raises:
            pyspiel.SpielError: the game does not describe this state; some games refuse to describe their ends.
        """
        if not self.spelt:
            return np.array(getattr(state, f"{self.kind}_tensor")(player), np.float32)
        codes = np.frombuffer(_description(state, player, self.kind).encode()[-self.length :], np.uint8)
        array = np.zeros(self.length, np.float32)
        array[: len(codes)] = codes / np.float32(255)
        return array


def make_observer(game: pyspiel.Game, env_id: str, kind: str | None) -> Observer:
    """The observer of that kind; None: of the information state where the game has its tensor, else the next best.

    Raises:
        ConfigError: there is no such kind, or the game does not offer it.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"'observation' = {kind!r}: must be one of {', '.join(KINDS)}")
    offered = {name: length for name in KINDS if (length := _tensor_length(game, name))}
    spelt = not offered
    if spelt:
        offered = {name: 0 for name in KINDS if _has_description(game, name)}
        if not offered:
            raise ConfigError(f"'env_id' = '{env_id}': the game describes its states by neither tensors nor strings")
    if kind is None:
        kind = next(iter(offered))
    elif kind not in offered:
        raise ConfigError(f"'observation' = '{kind}': '{env_id}' does not offer it, only '{next(iter(offered))}'")
    return Observer(kind, _description_length(env_id, kind) if spelt else offered[kind], spelt)


def _tensor_length(game: pyspiel.Game, kind: str) -> int:
    """Numbers in the game's tensor of that kind; 0 where it has none."""
    if not getattr(game.get_type(), f"provides_{kind}_tensor"):
        return 0
    shape = getattr(game, f"{kind}_tensor_shape")()
    # A game that claims tensors and has none says so by an empty shape.
    return int(np.prod(shape)) if len(shape) > 0 else 0


def _has_description(game: pyspiel.Game, kind: str) -> bool:
    if getattr(game.get_type(), f"provides_{kind}_string"):
        return True
    return kind == "information_state" and hasattr(game, "make_py_observer")


def _description(state: pyspiel.State, player: int, kind: str) -> str:
    """OpenSpiel's own words; some games written in Python have them only from an observer of theirs."""
    game = state.get_game()
    if getattr(game.get_type(), f"provides_{kind}_string"):
        return str(getattr(state, f"{kind}_string")(player))
    private = pyspiel.PrivateInfoType.SINGLE_PLAYER
    sight = pyspiel.IIGObservationType(perfect_recall=True, public_info=True, private_info=private)
    return str(game.make_py_observer(sight, {}).string_from(state, player))


@functools.lru_cache(maxsize=64)
def _description_length(env_id: str, kind: str) -> int:
    """Bytes that are kept of the descriptions, see :class:`Observer`."""
    generator = np.random.default_rng(0)
    longest = 0
    for episode in range(_PROBES):
        # Loaded anew each time, so that games that draw in secret show the same in every process.
        game = reseeded(load_game(env_id), env_id, episode)
        state = game.new_initial_state()
        for _ in range(_PROBE_MOVES):
            if state.is_terminal():
                break
            if state.is_chance_node():
                outcomes, probabilities = zip(*state.chance_outcomes(), strict=True)
                state.apply_action(int(generator.choice(outcomes, p=np.array(probabilities) / sum(probabilities))))
                continue
            for player in range(game.num_players()):
                longest = max(longest, len(_description(state, player, kind).encode()))
            if state.is_simultaneous_node():
                legal = [state.legal_actions(player) for player in range(game.num_players())]
                state.apply_actions([int(generator.choice(actions)) if actions else 0 for actions in legal])
            else:
                state.apply_action(int(generator.choice(state.legal_actions())))
    return min(_LONGEST, 32 * -(-longest * 3 // (2 * 32)))
