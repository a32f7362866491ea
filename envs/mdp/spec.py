"""What a Markov decision process is made of: the form in which users write it, and its arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from malib_lite.config import ConfigError, suggest
from malib_lite.untrusted import MAX_JSON_BYTES, check_read, read_mapping


class MDPTables(NamedTuple):
    """A checked MDP as arrays over S states and A actions, in the order in which the specification names them."""

    states: tuple[str, ...]
    actions: tuple[str, ...]
    start: np.ndarray  # (S,) float64: probabilities of the first state
    legal: np.ndarray  # (S, A) bool; a state without a legal action ends the episode
    transition: np.ndarray  # (S, A, S) float64: probabilities of the next state; zero where not legal
    reward_values: np.ndarray  # (S, A, K) float64: the rewards that may come
    reward_probs: np.ndarray  # (S, A, K) float64: their probabilities; zero where there are fewer than K
    discount: float

    @property
    def absorbing(self) -> np.ndarray:
        """(S,) bool: the states that end the episode."""
        return np.logical_not(self.legal.any(axis=1))

    @property
    def mean_reward(self) -> np.ndarray:
        """(S, A) float64: expected rewards."""
        return (self.reward_values * self.reward_probs).sum(axis=2)


@dataclass(frozen=True)
class MDPSpec:
    """An MDP as its user writes it; checked when it is made.

    In YAML, with every kind of entry::

        states:
          start:
            work: {reward: 5, next: {start: 1, end: 2}}    # next state: start once, end twice in three times
            rest: {reward: {0: 2, 9: 1}, next: end}        # reward: 0 twice, 9 once in three times
          end:                                             # no actions: the episode is over here
        start: start            # or weights; by default the first state
        discount: 0.5           # by default 1

    Weights need not add up to one. Reward and next state are drawn independently of each other. The states of an MDP
    need not all have the same actions: where some are missing, the environment gives action masks.

    Raises:
        ConfigError: something is missing, unknown or contradictory; the message names its key.
    """

    states: Mapping[str, Mapping[str, Mapping[str, Any]] | None]
    start: str | Mapping[str, float] | None = None
    discount: float = 1.0

    def __post_init__(self) -> None:
        self.tables  # noqa: B018  compiled now, so that mistakes show where the specification is made

    @cached_property
    def tables(self) -> MDPTables:
        """The specification as arrays."""
        return _compile(self)


def load_spec(source: MDPSpec | Mapping[str, Any] | str | Path) -> MDPSpec:
    """An MDP from a mapping with the fields of :class:`MDPSpec`, or from a YAML file of such a mapping.

    Raises:
        ConfigError: the file cannot be read, or the specification is wrong.
    """
    if isinstance(source, MDPSpec):
        return source
    if isinstance(source, (str, Path)):
        check_read(str(source), (str(source), f"mdp/{source}"), "env_id")
        try:
            return load_spec(read_mapping(Path(source), follow_link=True, longest=MAX_JSON_BYTES))
        except ConfigError as error:
            raise ConfigError(f"the MDP of '{source}' cannot be used: {error}") from error
    if not isinstance(source, Mapping):
        raise ConfigError(f"'spec' must be a mapping with the key 'states', not {source!r}")
    names = [field.name for field in dataclasses.fields(MDPSpec)]
    for key in source:
        if key not in names:
            raise ConfigError(f"unknown key 'spec.{key}': {suggest(str(key), names)}")
    if "states" not in source:
        raise ConfigError("'spec.states' is missing: it maps each state to its actions")
    return MDPSpec(**source)


def _compile(spec: MDPSpec) -> MDPTables:
    """Check every entry of ``spec`` and gather them into arrays."""
    if not isinstance(spec.states, Mapping) or not spec.states:
        raise ConfigError(f"'spec.states' = {spec.states!r}: must map each state to its actions")
    table: dict[str, Mapping[Any, Any]] = {}
    for state, entry in spec.states.items():
        if not isinstance(entry, Mapping) and entry is not None:
            raise ConfigError(f"'spec.states.{state}' = {entry!r}: must map each action to its outcomes")
        table[str(state)] = entry or {}
    states = tuple(table)
    actions = tuple(dict.fromkeys(str(action) for entry in table.values() for action in entry))
    if not actions:
        raise ConfigError("'spec.states': no state has an action")

    outcomes = {}  # (state index, action index) -> probabilities of next states (S,), rewards, their probabilities
    for s, (state, entry) in enumerate(table.items()):
        for action, outcome in entry.items():
            outcomes[s, actions.index(str(action))] = _outcome(outcome, f"spec.states.{state}.{action}", states)

    num_rewards = max(len(rewards) for _, rewards, _ in outcomes.values())
    shape = (len(states), len(actions))
    tables = MDPTables(
        states=states,
        actions=actions,
        start=_state_probs(states[0] if spec.start is None else spec.start, "spec.start", states),
        legal=np.zeros(shape, dtype=bool),
        transition=np.zeros((*shape, len(states))),
        reward_values=np.zeros((*shape, num_rewards)),
        reward_probs=np.zeros((*shape, num_rewards)),
        discount=_number(spec.discount, "spec.discount", "between 0 and 1", lambda x: 0.0 <= x <= 1.0),
    )
    for index, (next_probs, rewards, reward_probs) in outcomes.items():
        tables.legal[index] = True
        tables.transition[index] = next_probs
        tables.reward_values[index][: len(rewards)] = rewards
        tables.reward_probs[index][: len(rewards)] = reward_probs
    for s in np.flatnonzero(tables.absorbing & (tables.start > 0)).tolist():
        raise ConfigError(f"'spec.start' = {spec.start!r}: the episode is over in '{states[s]}', which has no actions")
    for array in tables[2:-1]:
        array.setflags(write=False)
    return tables


def _outcome(outcome: Any, key: str, states: Sequence[str]) -> tuple[np.ndarray, list[float], np.ndarray]:
    """What one action brings: probabilities of next states (S,), the rewards, and their probabilities (K,)."""
    if not isinstance(outcome, Mapping):
        raise ConfigError(f"'{key}' = {outcome!r}: must be a mapping with the keys 'next' and 'reward'")
    for name in outcome:
        if name not in ("next", "reward"):
            raise ConfigError(f"unknown key '{key}.{name}': {suggest(str(name), ['next', 'reward'])}")
    if "next" not in outcome:
        raise ConfigError(f"'{key}.next' is missing: the next state, or weights of states")
    rewards, reward_probs = _weigh(outcome.get("reward", 0.0), f"{key}.reward")
    numbers = [_number(reward, f"{key}.reward", "finite", math.isfinite) for reward in rewards]
    return _state_probs(outcome["next"], f"{key}.next", states), numbers, reward_probs


def _state_probs(choice: Any, key: str, states: Sequence[str]) -> np.ndarray:
    """The distribution (S,) that a state's name, or a mapping of names to weights, stands for."""
    probs = np.zeros(len(states))
    for state, prob in zip(*_weigh(choice, key), strict=True):
        if str(state) not in states:
            raise ConfigError(f"'{key}': there is no state '{state}', {suggest(str(state), states)}")
        probs[states.index(str(state))] += prob
    return probs


def _weigh(choice: Any, key: str) -> tuple[list[Any], np.ndarray]:
    """The outcomes that ``choice`` names, with their probabilities: keys with weights, or itself for certain."""
    if not isinstance(choice, Mapping):
        return [choice], np.ones(1)
    if not choice:
        raise ConfigError(f"'{key}' is empty: it needs at least one entry with its weight")
    weights = [
        _number(weight, f"{key}.{name}", "a positive weight", lambda x: 0.0 < x < math.inf)
        for name, weight in choice.items()
    ]
    return list(choice), np.asarray(weights) / math.fsum(weights)


def _number(value: Any, key: str, kind: str, holds: Callable[[float], bool]) -> float:
    """``value`` as a float for which ``holds`` is true, or a ConfigError that asks for ``kind``."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not holds(number):
        raise ConfigError(f"'{key}' = {value!r}: must be a number, {kind}")
    return number
