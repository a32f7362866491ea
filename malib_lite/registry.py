"""Names: environments and algorithms announce themselves through entry points, ours as anybody else's.

Looking at names imports nothing; a family or an algorithm is imported when it is used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from malib_lite.config import ConfigError, suggest, told
from malib_lite.untrusted import check_import

if TYPE_CHECKING:
    from gymnasium.spaces import Space

    from malib_lite.contracts.policy import Policy

ENVIRONMENTS = "malib_lite.envs"
ALGORITHMS = "malib_lite.algorithms"
IMITATORS = "malib_lite.imitators"  # learners of what others do: what nfsp makes average policies of
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
    return _load(known[name], key)


def fitting_algorithms(observation_space: Space, action_space: Space) -> list[str]:
    """The names of all algorithms that are installed and whose policies can act in these spaces."""
    fitting = []
    for name, point in names(ALGORITHMS).items():
        try:
            _load(point, "algorithm").policy.check_spaces(observation_space, action_space)
        except ConfigError:
            continue
        fitting.append(name)
    return fitting


def check_spaces(policy_class: type[Policy], observation_space: Space, action_space: Space) -> None:
    """Raise ConfigError where ``policy_class`` cannot act in these spaces; it names the algorithms that do fit."""
    try:
        policy_class.check_spaces(observation_space, action_space)
    except ConfigError as error:
        fitting = ", ".join(fitting_algorithms(observation_space, action_space))
        raise ConfigError(f"{error}; algorithms that fit: {fitting or 'none'}") from None


def find(path: str, key: str) -> Any:
    """What a user means by ``package.module:NAME``.

    Args:
        key: of the configuration, where it stands.

    Raises:
        ConfigError: there is no such module, or it has no such name, or a file that is not trusted names it.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(f"'{key}' = '{path}': '{module_name}' is not the name of a module")
    check_import(path, module_name, key)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"'{key}' = '{path}': cannot import '{module_name}': {error}") from error
    except Exception as error:  # a module of the user's own may raise anything
        raise ConfigError(f"'{key}' = '{path}': importing '{module_name}' leads to {told(error)}") from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [known for known in vars(found) if not known.startswith("_")]
            raise ConfigError(f"'{key}' = '{path}': there is no '{part}' in {module_name}: {suggest(part, known)}")
        found = getattr(found, part)
    return found


def _load(point: EntryPoint, key: str) -> Any:
    try:
        return point.load()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "malib_lite":
            raise  # a mistake of ours, and nothing that could be installed
        raise ConfigError(
            f"{key} '{point.name}' needs a package that is not installed ({error}){_how_to_install(point)}"
        ) from None


def _how_to_install(point: EntryPoint) -> str:
    """The end of an error message: the extra of the name's own package that is called like it, where there is one."""
    extras = (point.dist.metadata.get_all("Provides-Extra") or []) if point.dist else []
    return f": pip install '{point.dist.name}[{point.name}]'" if point.dist and point.name in extras else ""
