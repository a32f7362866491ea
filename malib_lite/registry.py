"""Names: environments and algorithms announce themselves through entry points, ours as anybody else's.

Looking at names imports nothing; a family or an algorithm is imported when it is used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from malib_lite.config import ConfigError, suggest

ENVIRONMENTS = "malib_lite.envs"
ALGORITHMS = "malib_lite.algorithms"
ADAPTERS = "malib_lite.adapters"  # named after the package that the adapted classes come from


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
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "malib_lite":
            raise  # a mistake of ours, and nothing that could be installed
        raise ConfigError(
            f"{key} '{name}' needs a package that is not installed ({error}): pip install 'malib_lite[{name}]'"
        ) from None


def resolve(path: str) -> Any:
    """The object at ``package.module:name``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
