"""SMAX as two compiled functions over E battles at once.

All of JAX is in this file, and imported when it is needed. The environment is JaxMARL's,
https://arxiv.org/abs/2311.10090. Its ``step`` restarts battles by itself; here its ``step_env`` is
called, which does not.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from malib_lite.config import ConfigError, suggest

SCENARIOS = (
    "3m",
    "2s3z",
    "25m",
    "3s5z",
    "8m",
    "5m_vs_6m",
    "10m_vs_11m",
    "27m_vs_30m",
    "3s5z_vs_3s6z",
    "3s_vs_5z",
    "6h_vs_8z",
    "smacv2_5_units",
    "smacv2_10_units",
    "smacv2_20_units",
)

# What the scenario settles, or this adapter.
_SETTLED = {
    "self",
    "env_kwargs",
    "scenario",
    "num_allies",
    "num_enemies",
    "smacv2_position_generation",
    "smacv2_unit_type_generation",
    "action_type",
}


class Outcome(NamedTuple):
    """What E battles show after a reset or a step, for N agents of one team or two (allies first)."""

    observation: np.ndarray  # (N, E, D) float32
    masks: tuple[np.ndarray, ...]  # for each team (n, E, A) bool
    reward: np.ndarray  # (N, E) float32, meaningless after a reset
    alive: np.ndarray  # (N, E) bool
    standing: np.ndarray  # (2, E) bool: whether any ally, any enemy is alive
    world_state: np.ndarray  # (E, S) float32


class Simulator:
    """E battles, as pure functions of their state. Made by :func:`simulator`, so that equal ones compile once.

    Chance is a function of (key of the row, number of its episode, step in the episode): no row's depends on another's,
    and a row that stands still draws nothing. Time limits are the caller's.
    """

    def __init__(self, env_id: str, self_play: bool, options: Mapping[str, Any]) -> None:
        self._jax = jax = _import_jax()
        smax = importlib.import_module("jaxmarl.environments.smax.smax_env")
        creator = _creator(self_play)
        try:
            self.env = creator(scenario=smax.map_name_to_scenario(env_id), **options)
        except ValueError as error:
            raise ConfigError(f"'scenario_configs': {error}") from error
        self.self_play = self_play
        self.agents: list[str] = list(self.env.agents)
        self.num_allies = int(self.env.num_allies)
        # how many agents and how many actions each team has
        self.teams = [(self.num_allies, int(self.env.num_ally_actions))]
        if self_play:
            self.teams.append((int(self.env.num_enemies), int(self.env.num_enemy_actions)))
        self.observation_size = int(self.env.obs_size)
        self.state_size = int(self.env.state_size)
        self._cpu = jax.devices("cpu")[0]
        self.reset = jax.jit(self._reset)
        self.step = jax.jit(self._step)

    def blank(self, num_envs: int) -> Any:
        """The state of ``num_envs`` battles that have not begun, on the CPU."""
        jax, keys, episodes = self._jax, np.zeros((num_envs, 2), np.uint32), np.zeros(num_envs, np.int32)
        shapes = jax.eval_shape(jax.vmap(self._first), keys, episodes)[1]
        return jax.device_put(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), self._cpu)

    def _reset(self, state: Any, keys: Any, episodes: Any, mask: Any) -> tuple[Any, Outcome]:
        """Begin the battles of ``mask`` (E,) bool, by the chance of ``keys`` (E, 2) uint32, ``episodes`` (E,) int32."""
        observations, first = self._jax.vmap(self._first)(keys, episodes)
        state = self._where(mask, first, state)
        return state, self._outcome(observations, state, None)

    def _step(self, state: Any, keys: Any, episodes: Any, actions: Any, mask: Any) -> tuple[Any, Outcome]:
        """Advance the battles of ``mask`` by ``actions`` (E, N) int32; the outcome of the others means nothing."""
        observations, then, rewards = self._jax.vmap(self._next)(state, keys, episodes, actions)
        state = self._where(mask, then, state)
        return state, self._outcome(observations, state, rewards)

    def _first(self, key: Any, episode: Any) -> tuple[Any, Any]:
        """One battle's beginning: step 0 of its episode."""
        return self.env.reset(self._key(key, episode, 0))

    def _next(self, state: Any, key: Any, episode: Any, actions: Any) -> tuple[Any, Any, Any]:
        """One battle's next step."""
        key = self._key(key, episode, self._battle(state).step + 1)
        orders = {agent: actions[n] for n, agent in enumerate(self.agents)}
        observations, state, rewards, _, _ = self.env.step_env(key, state, orders)
        return observations, state, rewards

    def _key(self, key: Any, episode: Any, step: Any) -> Any:
        random = self._jax.random
        return random.fold_in(random.fold_in(random.wrap_key_data(key, impl="threefry2x32"), episode), step)

    def _battle(self, state: Any) -> Any:
        """SMAX's own state, without the built-in enemy's memory."""
        return state if self.self_play else state.state

    def _where(self, mask: Any, new: Any, old: Any) -> Any:
        """``new`` in the rows of ``mask``, else ``old``, whose types are kept: with others it would compile again."""
        jnp = self._jax.numpy

        def choose(a: Any, b: Any) -> Any:
            return jnp.where(mask.reshape((-1,) + (1,) * (b.ndim - 1)), a.astype(b.dtype), b)

        return self._jax.tree.map(choose, new, old)

    def _outcome(self, observations: Any, state: Any, rewards: Any) -> Outcome:
        jnp = self._jax.numpy
        legal = self._jax.vmap(self.env.get_avail_actions)(state)
        masks, start = [], 0
        for size, _ in self.teams:
            masks.append(jnp.stack([legal[agent] for agent in self.agents[start : start + size]]).astype(bool))
            start += size
        alive = self._battle(state).unit_alive  # (E, all units)
        reward = jnp.zeros((len(self.agents), len(alive)), jnp.float32)
        if rewards is not None:
            reward = jnp.stack([rewards[agent] for agent in self.agents]).astype(jnp.float32)
        return Outcome(
            observation=jnp.stack([observations[agent] for agent in self.agents]),
            masks=tuple(masks),
            reward=reward,
            alive=alive.T[: len(self.agents)],
            standing=jnp.stack([alive[:, : self.num_allies].any(1), alive[:, self.num_allies :].any(1)]),
            world_state=observations["world_state"],
        )


def row_key(seed: int | None) -> np.ndarray:
    """The key (2,) uint32 of a row's random stream; None draws one."""
    return np.random.SeedSequence(seed).generate_state(2, np.uint32)


def simulator(
    env_id: Any = "3m", self_play: Any = False, scenario_configs: Any = None, **unknown: Any
) -> tuple[Simulator, int]:
    """The simulator of a scenario, one for all that ask with the same settings in this process, and the time limit.

    Raises:
        ConfigError: there is no such scenario, it refuses its settings, or jaxmarl is not installed.
    """
    for key in unknown:
        raise ConfigError(f"unknown key '{key}': " + suggest(key, ["env_id", "self_play", "scenario_configs"]))
    if not isinstance(env_id, str) or env_id not in SCENARIOS:
        raise ConfigError(f"'env_id' = {env_id!r}: SMAX has no such scenario, {suggest(str(env_id), SCENARIOS)}")
    if not isinstance(self_play, bool):
        raise ConfigError(f"'self_play' = {self_play!r}: must be true (both teams act) or false")
    if scenario_configs is not None and not isinstance(scenario_configs, Mapping):
        raise ConfigError(f"'scenario_configs' = {scenario_configs!r}: must map names to values")
    options = dict(scenario_configs or {})
    known = _options(self_play)
    for key, value in options.items():
        if key not in known:
            raise ConfigError(f"unknown key 'scenario_configs.{key}': {suggest(str(key), known)}")
        if type(value) is not type(known[key]) and not (type(known[key]) is float and type(value) is int):
            raise ConfigError(f"'scenario_configs.{key}' = {value!r}: must be like the default, {known[key]!r}")
    if options.get("attack_mode", "closest") not in ("closest", "random"):
        raise ConfigError(f"'scenario_configs.attack_mode' = {options['attack_mode']!r}: must be closest or random")
    limit = int(options.pop("max_steps", known["max_steps"]))
    if limit < 1:
        raise ConfigError(f"'scenario_configs.max_steps' = {limit}: must be at least 1")
    options.setdefault("use_self_play_reward", self_play)
    return _cached(env_id, self_play, tuple(sorted(options.items()))), limit


@functools.cache
def _cached(env_id: str, self_play: bool, options: tuple[tuple[str, Any], ...]) -> Simulator:
    return Simulator(env_id, self_play, dict(options))


@functools.cache
def _options(self_play: bool) -> dict[str, Any]:
    """What ``scenario_configs`` may set, with JaxMARL's defaults: its numbers, switches and names."""
    _import_jax()
    creators = [_creator(self_play), _creator(True)]
    parameters = [p for creator in creators for p in inspect.signature(creator.__init__).parameters.values()]
    return {
        p.name: p.default for p in parameters if p.name not in _SETTLED and type(p.default) in (bool, int, float, str)
    }


def _creator(self_play: bool) -> Any:
    """JaxMARL's class: with two teams that are played from outside, or with the built-in enemy."""
    module = importlib.import_module("jaxmarl.environments.smax")
    return module.SMAX if self_play else module.HeuristicEnemySMAX


def _import_jax() -> Any:
    """JAX, on the CPU unless the user chose otherwise: a GPU that is there is the learner's.

    Raises:
        ConfigError: jaxmarl is not installed.
    """
    try:
        jax = importlib.import_module("jax")
        if not jax.config.jax_platforms:
            jax.config.update("jax_platforms", "cpu")
        importlib.import_module("jaxmarl.environments.smax")
    except ImportError as error:
        raise ConfigError(
            f"SMAX needs a package that is not installed ({error}): pip install 'malib_lite[smax]'"
        ) from error
    return jax
