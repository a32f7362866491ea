"""Whatever stands for an environment: a name, a class, somebody else's object; all become an ``env_description``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from malib_lite import registry
from malib_lite.config import ConfigError, suggest
from malib_lite.contracts.environment import Environment, describe

_DESCRIBED = {"possible_agents", "action_spaces", "observation_spaces"}


def describe_environment(env: Any, env_config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The ``env_description`` of what the user calls an environment.

    Args:
        env: ``"FAMILY/NAME"``; ``"package.module:NAME"``, the place of one of the following; a subclass of
            :class:`Environment`; an environment of PettingZoo or Gymnasium, or a class, function or module that makes
            one; or an ``env_description``: what it lacks beside its ``creator`` is found out.
        env_config: keyword arguments of the environment.

    Raises:
        ConfigError: there is no such environment, or it refuses its configuration.
    """
    config = dict(env_config or {})
    if isinstance(env, Mapping):
        if config:
            raise ConfigError("an env_description has its configuration in itself, under 'config'")
        if "creator" not in env:
            raise ConfigError(
                f"an env_description needs a 'creator', this one has {', '.join(map(str, env)) or 'nothing'}"
            )
        config = dict(env.get("config") or {})
        if env.keys() >= _DESCRIBED:
            return {**env, "config": config}
        return {**env, **describe_environment(env["creator"], config)}
    if isinstance(env, str):
        families = registry.names(registry.ENVIRONMENTS)
        family, slash, name = env.partition("/")
        if slash and family in families:
            module = registry.load(registry.ENVIRONMENTS, family, "environment family")
            return dict(module.env_desc_gen(env_id=name, **config))
        if ":" not in env or "/" in env.partition(":")[0]:
            if not slash and (full := _full_names(env)):
                raise ConfigError(f"unknown environment '{env}': did you mean {' or '.join(full)}?")
            hint = f"--list {family} shows the names" if family in families else suggest(family, families)
            raise ConfigError(
                f"unknown environment '{env}': it is written FAMILY/NAME ({hint}), or package.module:NAME for one of "
                "your own"
            )
        env = registry.find(env, "env")
    creator = env if isinstance(env, type) and issubclass(env, Environment) else Creator(env)
    _check_keywords(creator, config)
    return describe(creator, **config)


def _full_names(name: str) -> list[str]:
    """Names of the installed families' environments that are called ``name`` behind the slash."""
    found = []
    for family in registry.names(registry.ENVIRONMENTS):
        try:
            ids = registry.load(registry.ENVIRONMENTS, family, "environment family").env_ids()
        except ConfigError:  # what the family needs is not installed
            continue
        if name in ids:
            found.append(f"'{family}/{name}'")
    return found


@dataclass(frozen=True)
class Creator:
    """Makes environments of ``source``: something that makes an environment of any kind, or one that is copied."""

    source: Any

    @property
    def make(self) -> Any:
        """What makes an environment, or is one: of a module, as PettingZoo has one for each game, its function."""
        if not isinstance(self.source, ModuleType):
            return self.source
        make = getattr(self.source, "parallel_env", None) or getattr(self.source, "env", None)
        if make is None:
            raise ConfigError(f"the module {self.source.__name__} has no 'parallel_env' and no 'env' that makes one")
        return make

    def __call__(self, **config: Any) -> Environment:
        """A new environment."""
        make = self.make
        env = make(**config) if callable(make) else _copy(make)
        if isinstance(env, Environment):
            return env
        adapters = registry.names(registry.ADAPTERS)
        for base in type(env).__mro__:
            package = base.__module__.partition(".")[0]
            if package in adapters:
                adapted = adapters[package].load()(env)
                assert isinstance(adapted, Environment)
                return adapted
        raise ConfigError(
            f"{self.source!r} gives a {type(env).__module__}.{type(env).__qualname__}, which is neither a "
            f"malib_lite.contracts.environment.Environment nor an environment of {' or '.join(adapters)}"
        )


def _copy(env: Any) -> Any:
    try:
        return copy.deepcopy(env)
    except Exception as error:
        raise ConfigError(
            f"a run needs many copies of its environment, and {env!r} cannot be copied ({error}): give the class or "
            "function that makes it"
        ) from error


def _check_keywords(creator: Callable[..., Any], config: Mapping[str, Any]) -> None:
    """Name what a constructor would not take before it says so in its own words."""
    make = creator.make if isinstance(creator, Creator) else creator
    if not callable(make):
        if config:
            raise ConfigError(
                f"'env_config' = {dict(config)!r}: the environment is made already and takes no arguments"
            )
        return
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        return
    parameters = signature.parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in config:
        if key not in known and not takes_all:
            raise ConfigError(f"unknown key 'env_config.{key}': {suggest(key, known)}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name in known and parameter.name not in config:
            raise ConfigError(f"'env_config.{parameter.name}' is missing: {make!r} needs it")
    try:
        signature.bind(**config)
    except TypeError as error:
        raise ConfigError(f"{make!r} makes no environment of 'env_config' = {dict(config)!r}: {error}") from None
