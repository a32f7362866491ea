"""A made gymnasium environment, https://gymnasium.farama.org, as an environment with one agent, called "agent"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from malib_lite.config import ConfigError
from malib_lite.contracts.environment import AgentID, Environment, TimeStep

AGENT = "agent"


class GymAdapter(Environment):
    """A gymnasium environment that somebody made.

    Where ``info["action_mask"]`` stands beside Discrete actions, it is the action mask. Observations of environments
    whose metadata say that they compute with jax are handed on as numpy arrays.

    Gymnasium's own environments go on in their random stream from episode to episode. Of others it is not known where
    their chance comes from, so each of their episodes is begun with a seed, drawn from a stream of the adapter's: they
    repeat and resume as exactly as their ``reset(seed=...)`` makes them.

    Args:
        env: the environment; it belongs to the adapter from now on.
        configs: what is to stand in ``configs``.
    """

    def __init__(self, env: gymnasium.Env, **configs: Any) -> None:
        super().__init__(**configs)
        self._env = env
        self._is_jax = bool(env.metadata.get("jax", False))
        self._seeds = None if _draws_from_np_random(env) else np.random.default_rng()
        self._may_mask = isinstance(self._env.action_space, spaces.Discrete)

    @property
    def possible_agents(self) -> list[AgentID]:
        """The one agent."""
        return [AGENT]

    @property
    def observation_spaces(self) -> dict[AgentID, spaces.Space]:
        """Gymnasium's observation space, as it is."""
        return {AGENT: self._env.observation_space}

    @property
    def action_spaces(self) -> dict[AgentID, spaces.Space]:
        """Gymnasium's action space, as it is."""
        return {AGENT: self._env.action_space}

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Gymnasium's reset."""
        if self._seeds is not None:
            if seed is None:
                seed = int(self._seeds.integers(2**31))
            else:
                self._seeds = np.random.default_rng(seed)
        observation, info = self._env.reset(seed=seed)
        if self._is_jax:
            observation = _to_numpy(observation)
        return TimeStep({AGENT: observation}, infos={AGENT: info}, action_masks=self._mask(info))

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Gymnasium's step. An episode that ends in the very step of its time limit is terminated, not truncated."""
        observation, reward, terminated, truncated, info = self._env.step(actions[AGENT])
        if self._is_jax:
            observation = _to_numpy(observation)
        return TimeStep(
            {AGENT: observation},
            {AGENT: float(reward)},
            {AGENT: True} if terminated else {},
            {AGENT: True} if truncated and not terminated else {},
            {AGENT: info},
            self._mask(info),
        )

    def env_done_check(self, step: TimeStep) -> bool:
        """Whether the one agent was flagged."""
        return bool(step.terminated or step.truncated)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """What gymnasium's ``render_mode`` gives: an array for "rgb_array", None for "human".

        Raises:
            ConfigError: the environment was made without a render_mode.
        """
        if self._env.render_mode is None:
            name = self._env.spec.id if self._env.spec is not None else type(self._env.unwrapped).__name__
            modes = ", ".join(repr(mode) for mode in self._env.metadata.get("render_modes", ())) or "none, it cannot"
            raise ConfigError(f"'scenario_configs.render_mode' is not set; {name} offers {modes}")
        return self._env.render()

    def close(self) -> None:
        """Close the gymnasium environment; a second time does nothing."""
        self._env.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of the random generator from which later episodes follow."""
        if self._seeds is None:
            return {"np_random": self._env.unwrapped.np_random.bit_generator.state}
        return {"seeds": self._seeds.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a random generator's state that :meth:`state_dict` gave."""
        if self._seeds is None:
            self._env.unwrapped.np_random.bit_generator.state = state["np_random"]
        else:
            self._seeds.bit_generator.state = state["seeds"]

    def _mask(self, info: Mapping[str, Any]) -> dict[AgentID, np.ndarray]:
        if self._may_mask and "action_mask" in info:
            return {AGENT: np.asarray(info["action_mask"], bool)}
        return {}


def adapt(env: gymnasium.Env) -> GymAdapter:
    """An environment with one agent that plays the gymnasium environment ``env``.

    Raises:
        ConfigError: it is no gymnasium environment, but e.g. a vector of them.
    """
    if not isinstance(env, gymnasium.Env):
        raise ConfigError(f"{env!r} is no gymnasium.Env" + _hint(env))
    return GymAdapter(env)


def _hint(env: Any) -> str:
    if isinstance(env, gymnasium.vector.VectorEnv):
        return ": give a single environment, many of them are stepped all the same"
    if isinstance(env, type) and issubclass(env, gymnasium.Env):
        return f" but its class: give {env.__name__}(...)"
    return ""


def _to_numpy(observation: Any) -> Any:
    """The same observation with numpy's arrays for jax's."""
    if isinstance(observation, Mapping):
        return {key: _to_numpy(part) for key, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(_to_numpy(part) for part in observation)
    return np.asarray(observation)


def _draws_from_np_random(env: gymnasium.Env) -> bool:
    """Whether all chance comes from ``env.np_random``, as in gymnasium's own environments that are not jax's."""
    while isinstance(env, gymnasium.Wrapper):
        if not type(env).__module__.startswith("gymnasium."):
            return False
        env = env.env
    return type(env).__module__.startswith("gymnasium.envs.") and not env.metadata.get("jax", False)
