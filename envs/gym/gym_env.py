"""The adapter for gymnasium, https://gymnasium.farama.org: one agent, called "agent"."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import AgentID, Environment, TimeStep, describe
from malib_lite.contracts.vector import VectorEnvironment
from malib_lite.envs.gym.gym_vector import cartpole_vector

AGENT = "agent"

# Which of gymnasium's extras a family of environments needs, by the module that holds it.
_EXTRAS = {
    "gymnasium.envs.box2d": "box2d",
    "gymnasium.envs.classic_control": "classic-control",
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium.envs.phys2d": "jax",
    "gymnasium.envs.tabular": "jax",
    "gymnasium.envs.toy_text": "toy-text",
}


class GymEnv(Environment):
    """A gymnasium environment.

    Args:
        env_id: a registered id (:func:`env_ids`), or ``"module:id"`` where importing ``module`` registers it.
        scenario_configs: keyword arguments of ``gymnasium.make``, e.g. ``{"render_mode": "rgb_array"}``.

    Raises:
        ConfigError: there is no such environment, it lacks a dependency, or it refuses ``scenario_configs``.
    """

    def __init__(
        self, env_id: str = "CartPole-v1", scenario_configs: Mapping[str, Any] | None = None, **unknown: Any
    ) -> None:
        for key in unknown:
            raise ConfigError(f"unknown key '{key}': " + suggest(key, ["env_id", "scenario_configs"]))
        if not isinstance(env_id, str):
            raise ConfigError(f"'env_id' = {env_id!r}: must be the id of a gymnasium environment, like 'CartPole-v1'")
        if scenario_configs is not None and not isinstance(scenario_configs, Mapping):
            raise ConfigError(f"'scenario_configs' = {scenario_configs!r}: must map names to values")
        super().__init__(env_id=env_id, scenario_configs=dict(scenario_configs or {}))
        self._env = _make(env_id, self.configs["scenario_configs"])

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

    @classmethod
    def make_vector(cls, seeds: Sequence[int], max_step: int | None, **configs: Any) -> VectorEnvironment | None:
        """CartPole as one array computation; other environments have no vector form that can reset single rows."""
        env_id, scenario_configs = configs.pop("env_id", "CartPole-v1"), configs.pop("scenario_configs", None) or {}
        spec = gymnasium.registry.get(env_id) if isinstance(env_id, str) else None
        if cls is not GymEnv or configs or spec is None or not isinstance(scenario_configs, Mapping):
            return None  # the constructor says what is wrong
        return cartpole_vector(spec, AGENT, seeds, max_step, scenario_configs)

    def reset_episode(self, seed: int | None) -> TimeStep:
        """Gymnasium's reset."""
        observation, info = self._env.reset(seed=seed)
        return TimeStep({AGENT: observation}, infos={AGENT: info})

    def time_step(self, actions: Mapping[AgentID, Any]) -> TimeStep:
        """Gymnasium's step. An episode that ends in the very step of its time limit is terminated, not truncated."""
        observation, reward, terminated, truncated, info = self._env.step(actions[AGENT])
        return TimeStep(
            {AGENT: observation},
            {AGENT: float(reward)},
            {AGENT: True} if terminated else {},
            {AGENT: True} if truncated and not terminated else {},
            {AGENT: info},
        )

    def env_done_check(self, step: TimeStep) -> bool:
        """Whether the one agent was flagged."""
        return bool(step.terminated or step.truncated)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """What gymnasium's ``render_mode`` gives: an array for "rgb_array", None for "human".

        Raises:
            ConfigError: ``scenario_configs`` has no render_mode.
        """
        if self._env.render_mode is None:
            modes = ", ".join(repr(mode) for mode in self._env.metadata.get("render_modes", ())) or "none, it cannot"
            raise ConfigError(f"'scenario_configs.render_mode' is not set; {self.configs['env_id']} offers {modes}")
        return self._env.render()

    def close(self) -> None:
        """Close the gymnasium environment; a second time does nothing."""
        self._env.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of gymnasium's random generator, from which later episodes follow."""
        return {"np_random": self._env.unwrapped.np_random.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a random generator's state that :meth:`state_dict` gave."""
        self._env.unwrapped.np_random.bit_generator.state = state["np_random"]


def env_desc_gen(
    env_id: str = "CartPole-v1", scenario_configs: Mapping[str, Any] | None = None, **unknown: Any
) -> dict[str, Any]:
    """The ``env_description`` of a gymnasium environment; arguments and errors as of :class:`GymEnv`."""
    return describe(
        GymEnv, env_id=env_id, scenario_configs={} if scenario_configs is None else scenario_configs, **unknown
    )


def env_ids() -> list[str]:
    """All ids registered with gymnasium; some need one of its extras."""
    return sorted(gymnasium.registry)


def _make(env_id: str, scenario_configs: Mapping[str, Any]) -> gymnasium.Env:
    """``gymnasium.make`` with its errors made the user's: what is wrong, and what to do."""
    try:
        # the checker would complain of environments that return one array again and again, which does no harm here
        return gymnasium.make(env_id, **{"disable_env_checker": True, **scenario_configs})
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise ConfigError(f"'env_id' = {env_id!r} cannot be made: {error}{_remedy(env_id)}") from error
    except (gymnasium.error.NameNotFound, gymnasium.error.VersionNotFound) as error:
        hint = suggest(env_id.split(":")[-1], env_ids())
        raise ConfigError(f"'env_id' = {env_id!r}: gymnasium knows no such environment, {hint}") from error
    except gymnasium.error.NamespaceNotFound as error:
        raise ConfigError(f"'env_id' = {env_id!r}: {error} Write 'module:id' to import what registers it.") from error
    except (gymnasium.error.Error, ImportError) as error:  # deprecated, malformed, moved to another package
        raise ConfigError(f"'env_id' = {env_id!r}: {error}") from error
    except TypeError as error:
        match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if match is None or match[1] not in scenario_configs:
            raise
        hint = suggest(match[1], _keywords(env_id))
        raise ConfigError(f"unknown key 'scenario_configs.{match[1]}' for {env_id}: {hint}") from error


def _remedy(env_id: str) -> str:
    """The pip line that installs what a known family of environments needs."""
    spec = gymnasium.registry.get(env_id)
    entry = str(spec.entry_point) if spec is not None else ""
    extra = next((extra for module, extra in _EXTRAS.items() if entry.startswith(module)), None)
    return "" if extra is None else f'\nInstall what it needs: pip install "gymnasium[{extra}]"'


def _keywords(env_id: str) -> list[str]:
    """What ``scenario_configs`` may hold, as far as the environment's constructor says so."""
    spec = gymnasium.registry.get(env_id.split(":")[-1])
    entry = spec.entry_point if spec is not None else None
    creator = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    named = inspect.signature(creator).parameters.values() if creator is not None else []
    return ["max_episode_steps", *(p.name for p in named if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))]
