"""Making an environment from a module of PettingZoo's kind, with errors that say what to do."""

from __future__ import annotations

import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from gymnasium.error import DependencyNotInstalled
from pettingzoo import AECEnv, ParallelEnv

from malib_lite.config import ConfigError, suggest

PARALLEL = "parallel_simulate"


class NoSuchModule(Exception):
    """The package is there, but the module is not in it."""


def check_arguments(
    env_id: Any, scenario_configs: Any, unknown: Iterable[str], example: str
) -> tuple[str, dict[str, Any]]:
    """The two arguments that all these families take, found to be in order.

    Raises:
        ConfigError: an argument is of the wrong type, or there are others.
    """
    for key in unknown:
        raise ConfigError(f"unknown key '{key}': " + suggest(key, ["env_id", "scenario_configs"]))
    if not isinstance(env_id, str):
        raise ConfigError(f"'env_id' = {env_id!r}: must be the id of an environment, like '{example}'")
    if scenario_configs is not None and not isinstance(scenario_configs, Mapping):
        raise ConfigError(f"'scenario_configs' = {scenario_configs!r}: must map names to values")
    return env_id, dict(scenario_configs or {})


def make(
    module_name: str, env_id: str, scenario_configs: Mapping[str, Any], known: Iterable[str], family: str
) -> ParallelEnv | AECEnv:
    """Make the environment of a module that offers ``parallel_env`` (not all do) and ``env``.

    Args:
        module_name: its full name, e.g. "pettingzoo.classic.connect_four_v3".
        env_id: what the user calls it, for messages.
        scenario_configs: ``parallel_simulate``, True for ``parallel_env``, False for ``env``, by default the first
            of them that there is; everything else goes to that function.
        known: further keys that ``scenario_configs`` may have, for messages.
        family: the extra of malib_lite that installs what is missing.

    Raises:
        NoSuchModule: there is no such module.
        ConfigError: a package is missing, or ``scenario_configs`` is refused.
    """
    _without_display()
    keywords = dict(scenario_configs)
    parallel = keywords.pop(PARALLEL, None)
    if parallel not in (None, True, False):
        raise ConfigError(f"'scenario_configs.{PARALLEL}' = {parallel!r}: must be true or false")
    try:
        module = _import(module_name)
        if parallel is None:
            parallel = hasattr(module, "parallel_env")
        elif parallel and not hasattr(module, "parallel_env"):
            raise ConfigError(f"'scenario_configs.{PARALLEL}' = {parallel!r}: in {env_id} agents can only move in turn")
        return _construct(module.parallel_env if parallel else module.env, env_id, keywords, known)
    except (ImportError, DependencyNotInstalled) as error:
        raise ConfigError(
            f"'env_id' = {env_id!r} cannot be made: {error}\nInstall what it needs: pip install 'malib_lite[{family}]'"
        ) from error


def _construct(constructor: Any, env_id: str, keywords: Mapping[str, Any], known: Iterable[str]) -> Any:
    try:
        return constructor(**keywords)
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if match is not None and match[1] in keywords:
            hint = suggest(match[1], {*known, PARALLEL, "render_mode"} - {match[1]})
            raise ConfigError(f"unknown key 'scenario_configs.{match[1]}' for {env_id}: {hint}") from error
        raise ConfigError(f"'scenario_configs' = {dict(keywords)!r}: {env_id} refuses it: {error}") from error


def _import(module_name: str) -> Any:
    try:
        with warnings.catch_warnings():
            # PettingZoo's own registry, which its modules point to, knows neither MPE nor the other packages
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name:
            raise NoSuchModule(module_name) from error
        raise


def _without_display() -> None:
    """Let SDL, which draws many of these games, do without a screen where there is none; a user's choice stands."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not screen:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
