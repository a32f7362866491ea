"""What a Markov game is made of: the form in which users write it, and its arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from malib_lite.config import ConfigError, suggest

FORMS = ("joint", "zero_sum", "identical", "per_player")
PARTS = ("state", "last_actions", "round")  # what may be observed, in this order
END = "end"
_LARGEST = 1e30  # rewards are recorded as float32, which ends at 3e38, and are added up


class GameTables(NamedTuple):
    """A checked Markov game of n players as arrays, over S states and A_1, ..., A_n actions."""

    payoffs: np.ndarray  # (S, A_1, ..., A_n, n) float64
    transitions: np.ndarray  # (S, A_1, ..., A_n, S + 1) float64: probabilities of the next state; the last is the end
    start: np.ndarray  # (S,) float64: probabilities of the first state
    rounds: int | None  # the game is over after so many; None: only when a transition ends it
    observe: tuple[str, ...]  # some of PARTS

    @property
    def num_players(self) -> int:
        """n."""
        return self.payoffs.shape[-1]

    @property
    def num_states(self) -> int:
        """S."""
        return len(self.payoffs)

    @property
    def num_actions(self) -> tuple[int, ...]:
        """(A_1, ..., A_n)."""
        return self.payoffs.shape[1:-1]

    @property
    def markov_parts(self) -> tuple[str, ...]:
        """The fewest observations that make the game Markov: the state, and the round where its number is limited."""
        limited = self.rounds is not None and self.rounds > 1
        state = ("state",) if self.num_states > 1 or not limited else ()
        return (*state, "round") if limited else state


@dataclass(frozen=True)
class GameSpec:
    """A matrix or Markov game as its user writes it; checked when it is made. In YAML::

        payoffs: [[[3, 3], [0, 4]], [[4, 0], [1, 1]]]    # by player_0's action, then player_1's: what each of them gets
        rounds: 10
        observe: [last_actions, round]

    Args:
        payoffs: nested lists or an array, read as ``form`` says. With ``transitions`` there is one more axis in front,
            over the S states.
        form: "joint": (A_1, ..., A_n, n), every entry lists the payoffs of all players, as in the tables of textbooks;
            "zero_sum": (A_1, A_2), what player_0 gets from player_1;
            "identical": (A_1, ..., A_n), what every player gets;
            "per_player": a list of one array (A_1, ..., A_n) for each player.
        transitions: what follows a joint action in a state, (S, A_1, ..., A_n) of: the number of the next state,
            ``end``, weights like ``{0: 1, end: 2}`` that need not add up to one, or S + 1 probabilities of which the
            last is the end's. One of the first three in the place of a list holds for all that it would list:
            ``[[1, 2], end, end]`` goes from state 0 to 1 or 2 as player_0 chooses, and ends with the second round.
            None: there is one state, and the same game is played in every round.
        start: the number of the first state, or weights.
        rounds: so many rounds are played at the most, and then the game *terminates*; infinity: without limit (the
            rollout's ``max_step`` may truncate). None: one round, or with ``transitions`` no limit.
        observe: what all players see, of "state" (one-hot), "last_actions" (one-hot for each player, zeros before the
            first round) and "round" (one-hot). None: the least that makes the game Markov, which is the state where
            there are several, and the round where a limited number greater than one is played.

    Raises:
        ConfigError: something is missing, unknown or contradictory; the message names the entry.
    """

    payoffs: Any
    form: str = "joint"
    transitions: Any = None
    start: Any = 0
    rounds: float | None = None
    observe: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.tables  # noqa: B018  compiled now, so that mistakes show where the specification is made

    @cached_property
    def tables(self) -> GameTables:
        """The specification as arrays, which cannot be written to."""
        payoffs = _payoffs(self.payoffs, self.form, self.transitions is not None)
        shape, num_states = payoffs.shape[:-1], len(payoffs)
        transitions = np.zeros((*shape, num_states + 1))
        if self.transitions is None:
            transitions[..., 0] = 1.0
        else:
            _fill(transitions, self.transitions, "transitions")
        start = _distribution(self.start, "start", num_states, ends=False)
        rounds = _rounds(self.rounds, 1 if self.transitions is None else math.inf)
        if self.rounds is None and rounds is None:
            _check_that_it_ends(transitions, start)
        tables = GameTables(payoffs, transitions, start, rounds, ())
        tables = tables._replace(observe=_observed(self.observe, tables))
        for array in tables[:3]:
            array.setflags(write=False)
        return tables


KEYS = tuple(field.name for field in dataclasses.fields(GameSpec))


def load_spec(source: Any) -> GameSpec:
    """A game from a mapping with the fields of :class:`GameSpec`.

    Raises:
        ConfigError: the specification is wrong.
    """
    if not isinstance(source, Mapping):
        raise ConfigError(f"a game must be a mapping with the key 'payoffs', not {source!r}")
    for key in source:
        if key not in KEYS:
            raise ConfigError(f"unknown key '{key}': {suggest(str(key), KEYS)}")
    if "payoffs" not in source:
        raise ConfigError("'payoffs' is missing: nested lists of what the players get for every joint action")
    return GameSpec(**source)


# -- payoffs ----------------------------------------------------------------------------------------------------------


def _payoffs(value: Any, form: str, has_states: bool) -> np.ndarray:
    """(S, A_1, ..., A_n, n) float64, from the user's form."""
    if form not in FORMS:
        raise ConfigError(f"'form' = {form!r}: {suggest(str(form), FORMS)}")
    given = _array(value, "payoffs")
    if given.ndim == 0:
        raise ConfigError(f"'payoffs' = {value!r}: must be nested lists, or an array")
    shape = given.shape
    if form == "per_player":
        given = np.moveaxis(given, 0, -1)
    elif form == "zero_sum":
        given = np.stack([given, -given], axis=-1)
    elif form == "identical":
        given = np.repeat(given[..., None], max(given.ndim - has_states, 1), axis=-1)
    payoffs = given if has_states else given[None]
    num_players = payoffs.shape[-1]
    if payoffs.ndim != num_players + 2:
        states = "states, " if has_states else ""
        wants = {
            "joint": f"({states}actions of each player, players), here {num_players} payoffs in every entry; a matrix "
            "of single payoffs needs form 'zero_sum' or 'identical'",
            "zero_sum": f"({states}actions of player_0, actions of player_1)",
            "identical": f"({states}actions of each player)",
            "per_player": f"one array ({states}actions of each player) for every player",
        }
        raise ConfigError(f"'payoffs' has shape {shape}; form '{form}' wants {wants[form]}")
    return np.array(payoffs)


def _array(value: Any, key: str) -> np.ndarray:
    """Nested lists of finite numbers as float64."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size and (np.abs(value) <= _LARGEST).all():
        return value.astype(np.float64)
    if not _is_list(value):
        return np.asarray(_number(value, key))
    if len(value) == 0:
        raise ConfigError(f"'{key}' is empty")
    parts = [_array(part, f"{key}[{i}]") for i, part in enumerate(value)]
    for i, part in enumerate(parts):
        if part.shape != parts[0].shape:
            raise ConfigError(f"'{key}[{i}]' has shape {part.shape}, but '{key}[0]' has {parts[0].shape}")
    return np.stack(parts)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _number(value: Any, key: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not abs(number) <= _LARGEST:  # so written that NaN fails, too
        raise ConfigError(f"'{key}' = {value!r}: must be a finite number, of at most {_LARGEST:.0e}")
    return number


# -- transitions ------------------------------------------------------------------------------------------------------


def _fill(target: np.ndarray, value: Any, key: str) -> None:
    """Write what ``value`` says into ``target`` (..., S + 1), whose leading axes its lists follow."""
    if target.ndim == 1 or not _is_list(value):
        target[...] = _distribution(value, key, target.shape[-1] - 1, ends=True)
        return
    if len(value) != len(target):
        raise ConfigError(f"'{key}' has {len(value)} entries, but the payoffs have {len(target)} there")
    for i, part in enumerate(value):
        _fill(target[i], part, f"{key}[{i}]")


def _distribution(value: Any, key: str, num_states: int, ends: bool) -> np.ndarray:
    """Probabilities (S,) of states, with ``ends`` (S + 1,), of one state, weights, or a list of probabilities."""
    size = num_states + ends
    if _is_list(value):
        probs = _array(value, key)
        if probs.shape != (size,) or probs.min() < 0.0 or abs(probs.sum() - 1.0) > 1e-6:
            last = ", the last of them the end's" if ends else ""
            raise ConfigError(f"'{key}' = {value!r}: must be {size} probabilities that add up to one{last}")
        return probs / probs.sum()
    weights = list(value.items()) if isinstance(value, Mapping) else [(value, 1.0)]
    probs = np.zeros(size)
    for state, weight in weights:
        is_state = isinstance(state, (int, np.integer)) and not isinstance(state, bool) and 0 <= state < num_states
        if not (is_state or (ends and state == END)):
            known = f"a state from 0 to {num_states - 1}" + (f", or '{END}'" if ends else "")
            raise ConfigError(f"'{key}' = {value!r}: {state!r} is not {known}")
        if _number(weight, f"{key}.{state}") <= 0.0:
            raise ConfigError(f"'{key}.{state}' = {weight!r}: a weight must be positive")
        probs[num_states if state == END else int(state)] += float(weight)
    if not weights:
        raise ConfigError(f"'{key}' is empty: it needs at least one state with its weight")
    return probs / probs.sum()


def _check_that_it_ends(transitions: np.ndarray, start: np.ndarray) -> None:
    """Without a limit of rounds, the end must be possible wherever play can lead."""
    num_states = len(transitions)
    leads = transitions.reshape(num_states, -1, num_states + 1).max(axis=1) > 0.0  # (S, S + 1)
    visited, ends = start > 0.0, leads[:, -1].copy()
    for _ in range(num_states):
        visited |= leads[visited, :-1].any(axis=0)
        ends |= leads[:, :-1][:, ends].any(axis=1)
    stuck = np.flatnonzero(visited & ~ends)
    if len(stuck):
        raise ConfigError(
            f"'transitions': from state {stuck[0]} the game never ends: let it, or set 'rounds' (.inf for no limit "
            "beside the rollout's max_step)"
        )


# -- rounds and observations ------------------------------------------------------------------------------------------


def _rounds(value: Any, default: float) -> int | None:
    rounds = default if value is None else value
    is_number = isinstance(rounds, (int, float, np.integer)) and not isinstance(rounds, bool)
    if not is_number or not rounds >= 1 or (rounds != math.inf and rounds != int(rounds)):
        raise ConfigError(f"'rounds' = {value!r}: must be a positive integer, or .inf for no limit")
    return None if rounds == math.inf else int(rounds)


def _observed(value: Any, tables: GameTables) -> tuple[str, ...]:
    if value is None:
        return tables.markov_parts
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or not parts:
        raise ConfigError(f"'observe' = {value!r}: must list some of {', '.join(PARTS)}")
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"'observe' = {value!r}: there is no {part!r}, {suggest(str(part), PARTS)}")
    if "round" in parts and tables.rounds is None:
        raise ConfigError("'observe': there is no 'round' to see while 'rounds' sets no limit")
    return tuple(part for part in PARTS if part in parts)
