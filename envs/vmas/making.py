"""Making VMAS's own environments: settings checked, spaces in gymnasium's terms; vmas is imported when it is needed."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from malib_lite.config import ConfigError, suggest

# Scenarios whose worlds can share a batch: with its own seed and actions, a world plays the same alone as among others,
# up to rounding: PyTorch rounds the last few rows of a batch in another way, and a touch may make much of it.
# Of the rest, some draw random numbers in their steps, for all worlds at once (football); some draw what all worlds
# share, such as the goal (simple_adversary); bodies with joints move otherwise in company (buzz_wire).
BATCHED = frozenset(
    (
        "balance",
        "ball_passage",
        "diff_drive",
        "dispersion",
        "drone",
        "dropout",
        "flocking",
        "give_way",
        "goal",
        "kinematic_bicycle",
        "multi_give_way",
        "navigation",
        "passage",
        "pollock",
        "reverse_transport",
        "sampling",
        "simple",
        "simple_spread",
        "simple_tag",
        "simple_world_comm",
        "transport",
        "vel_control",
        "wheel",
        "wind_flocking",
    )
)

# Settings of scenarios that make their steps draw random numbers, if they are not zero or false.
_DRAWING = ("noise", "respawn")

_KEYS = ("env_id", "continuous_actions", "multidiscrete_actions", "max_steps", "scenario_configs")


class Settings:
    """What a user asks for, checked.

    Raises:
        ConfigError: a setting is wrong, or vmas is not installed.
    """

    def __init__(
        self,
        env_id: str = "balance",
        continuous_actions: bool = True,
        multidiscrete_actions: bool = False,
        max_steps: int | None = 100,
        scenario_configs: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        for key in unknown:
            raise ConfigError(f"unknown key '{key}': " + suggest(key, _KEYS))
        known = scenario_names()
        if env_id not in known:
            raise ConfigError(f"'env_id' = {env_id!r}: VMAS has no such scenario, {suggest(str(env_id), known)}")
        for key, flag in (("continuous_actions", continuous_actions), ("multidiscrete_actions", multidiscrete_actions)):
            if not isinstance(flag, bool):
                raise ConfigError(f"'{key}' = {flag!r}: must be true or false")
        if continuous_actions and multidiscrete_actions:
            raise ConfigError("'multidiscrete_actions' = True needs 'continuous_actions' = False")
        if max_steps is not None and (type(max_steps) is not int or max_steps < 1):
            raise ConfigError(f"'max_steps' = {max_steps!r}: must be a positive integer, or null for no limit")
        if scenario_configs is not None and not isinstance(scenario_configs, Mapping):
            raise ConfigError(f"'scenario_configs' = {scenario_configs!r}: must map names to values")
        options = _options(env_id)
        for key in scenario_configs or {}:
            if key not in options:
                raise ConfigError(f"unknown key 'scenario_configs.{key}' for {env_id}: {suggest(str(key), options)}")
        self.env_id = env_id
        self.continuous_actions = continuous_actions
        self.multidiscrete_actions = multidiscrete_actions
        self.max_steps = max_steps
        self.scenario_configs = dict(scenario_configs or {})

    @property
    def batched(self) -> bool:
        """Whether worlds can share a batch, because only the beginnings of episodes are drawn, and each by itself."""
        drawing = any(value and any(word in key for word in _DRAWING) for key, value in self.scenario_configs.items())
        return self.env_id in BATCHED and not drawing

    def make(self, num_envs: int, max_steps: int | None) -> Any:
        """``num_envs`` worlds on the CPU, truncated after ``max_steps`` steps.

        Raises:
            ConfigError: the scenario refuses ``scenario_configs``.
        """
        try:
            return _import("vmas").make_env(
                self.env_id,
                num_envs=num_envs,
                device="cpu",
                seed=0,  # of the worlds before the first episodes
                continuous_actions=self.continuous_actions,
                multidiscrete_actions=self.multidiscrete_actions,
                max_steps=max_steps,
                dict_spaces=True,
                clamp_actions=True,
                terminated_truncated=True,
                **self.scenario_configs,
            )
        except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if not self.scenario_configs:
                raise
            raise ConfigError(
                f"'scenario_configs' = {self.scenario_configs!r}: {self.env_id} refuses it: "
                + (str(error) or f"{type(error).__name__}, and no word why")
            ) from error


def spaces_of(world: Any) -> tuple[dict[str, spaces.Space], dict[str, spaces.Space]]:
    """The observation and action spaces of the agents of VMAS's environment, in gymnasium's terms."""
    sees = {name: _convert(space) for name, space in world.observation_space.spaces.items()}
    does = {name: _convert(space) for name, space in world.action_space.spaces.items()}
    return sees, does


def scenario_names() -> list[str]:
    """VMAS's scenarios, those of MPE and those for debugging included."""
    vmas = _import("vmas")
    return sorted([*vmas.scenarios, *vmas.debug_scenarios, *vmas.mpe_scenarios])


def _convert(space: Any) -> spaces.Space:
    """A space of the old gym as gymnasium's."""
    kind = type(space).__name__
    if kind == "Dict":
        return spaces.Dict({name: _convert(part) for name, part in space.spaces.items()})
    if kind == "Box":
        return spaces.Box(space.low, space.high, space.shape, np.float32)
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.asarray(space.nvec))
    return spaces.Discrete(int(space.n))


@functools.cache
def _options(env_id: str) -> frozenset[str]:
    """The settings a scenario takes: it fetches them by name from its keyword arguments, nothing declares them."""
    module = _import("vmas.scenarios").load(f"{env_id}.py")
    return frozenset(re.findall(r"kwargs\.(?:pop|get)\(\s*[\"'](\w+)[\"']", Path(module.__file__).read_text()))


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"VMAS needs a package that is not installed ({error}): pip install 'malib_lite[vmas]'"
        ) from error
