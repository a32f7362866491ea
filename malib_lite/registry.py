"""Names: environments and algorithms announce themselves through entry points, ours as anybody else's.

Looking at names imports nothing; a family or an algorithm is imported when it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from malib_lite.config import ConfigError, suggest

ENVIRONMENTS = "malib_lite.envs"
ALGORITHMS = "malib_lite.algorithms"


def names(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load(group: str, name: str, key: str) -> Any:
    """The object that ``name`` stands for; ``key`` is what the user set, for messages.

    Raises:
        ConfigError: there is no such name, or what it needs is not installed.
    """
    known = names(group)
    if name not in known:
        raise ConfigError(f"unknown {key} '{name}': {suggest(name, known)}")
    try:
        return known[name].load()
    except ImportError as error:
        raise ConfigError(
            f"{key} '{name}' needs a package that is not installed ({error}): pip install 'malib_lite[{name}]'"
        ) from None


def describe_environment(env: str, env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``env_description`` of ``FAMILY/NAME``.

    Raises:
        ConfigError: the family or the environment is not known, or it refuses its configuration.
    """
    family, slash, name = env.partition("/")
    known = names(ENVIRONMENTS)
    if not slash or family not in known:
        raise ConfigError(
            f"unknown environment '{env}': it is written FAMILY/NAME, "
            + (suggest(family, known) if family not in known else f"e.g. the ids that --list {family} shows")
        )
    return dict(load(ENVIRONMENTS, family, "environment family").env_desc_gen(env_id=name, **env_config))


def resolve(path: str) -> Any:
    """The object at ``package.module:name``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
