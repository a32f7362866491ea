"""Gymnasium's registered environments by their id, https://gymnasium.farama.org."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import describe
from malib_lite.contracts.vector import VectorEnvironment
from malib_lite.envs.gym.adapter import AGENT, GymAdapter
from malib_lite.envs.gym.cartpole import cartpole_vector
from malib_lite.envs.gym.gym_vector import gymnasium_vector
from malib_lite.untrusted import check_import

# Which of gymnasium's extras a family of environments needs, by the module that holds it.
_EXTRAS = {
    "gymnasium.envs.box2d": "box2d",
    "gymnasium.envs.classic_control": "classic-control",
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium.envs.phys2d": "jax",
    "gymnasium.envs.tabular": "jax",
    "gymnasium.envs.toy_text": "toy-text",
}


class GymEnv(GymAdapter):
    """A gymnasium environment that is registered.

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
        if not isinstance(env_id, str) or env_id.count(":") > 1:
            raise ConfigError(f"'env_id' = {env_id!r}: must be the id of a gymnasium environment, like 'CartPole-v1'")
        if scenario_configs is not None and not isinstance(scenario_configs, Mapping):
            raise ConfigError(f"'scenario_configs' = {scenario_configs!r}: must map names to values")
        scenario_configs = dict(scenario_configs or {})
        super().__init__(_make(env_id, scenario_configs), env_id=env_id, scenario_configs=scenario_configs)

    @classmethod
    def make_vector(cls, seeds: Sequence[int], max_step: int | None, **configs: Any) -> VectorEnvironment | None:
        """The vector form that the environment is registered with, where it can be held to the engine's contract.

        CartPole has one of ours. What others must be able to do, :class:`GymVector` says; None where they cannot.
        """
        if cls is not GymEnv:
            return None
        env_id, scenario_configs = configs.get("env_id", "CartPole-v1"), configs.get("scenario_configs") or {}
        try:
            spec = gymnasium.spec(env_id)
        except (gymnasium.error.Error, ImportError, TypeError, ValueError):
            return None  # the constructor says what is wrong
        if spec.vector_entry_point is None:
            return None
        single = cls(**configs)
        single.close()
        native = cartpole_vector(spec, AGENT, seeds, max_step, scenario_configs)
        if native is not None:
            return native
        spaces_of_one = single.observation_spaces[AGENT], single.action_spaces[AGENT]
        return gymnasium_vector(spec, AGENT, seeds, max_step, scenario_configs, spaces_of_one)


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
    for name in (env_id, scenario_configs.get("env_id")):  # the latter is that of gymnasium's adapter of the old gym
        if isinstance(name, str) and ":" in name:  # gymnasium imports what stands before the colon
            check_import(name, name.partition(":")[0], "env_id")
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
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        if not scenario_configs:
            raise
        reason, _, _ = str(error).partition(" was raised from the environment creator")  # gymnasium goes on and on
        match = re.search(r"unexpected keyword argument '(\w+)'", reason)
        if match is not None and match[1] in scenario_configs:
            hint = suggest(match[1], _keywords(env_id))
            raise ConfigError(f"unknown key 'scenario_configs.{match[1]}' for {env_id}: {hint}") from error
        raise ConfigError(f"'scenario_configs' = {dict(scenario_configs)!r}: {env_id} refuses it: {reason}") from error


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
