"""What comes from files that others may have written: read within bounds, and nothing that they name is imported.

Two things stand here because every reader needs both: :func:`read_mapping`, which reads YAML and JSON, and
:func:`only_registered`, within which a name is imported only if the user gave it or an entry point registers it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from malib_lite.config import ConfigError

MAX_YAML_BYTES = 2**18  # also the characters that a file may have after its aliases are expanded
MAX_JSON_BYTES = 2**26  # the state of a large population names many members
MAX_DEPTH = 100

_source: str | None = None  # the file whose names are not imported; None: all names are the user's
_given: Collection[str] = ()


@contextlib.contextmanager
def only_registered(source: str | None, given: Collection[str] = ()) -> Iterator[None]:
    """Refuse to import what a file names, in this process, for as long as this lasts.

    The state is the process's, not a thread's: a thread that is started within is bound by it too.

    Args:
        source: the file or folder, for messages; None refuses nothing.
        given: names that stand on the command line itself, which are trusted.
    """
    global _source, _given
    before = _source, _given
    _source, _given = source, given
    try:
        yield
    finally:
        _source, _given = before


def check_import(name: str, module: str, key: str) -> None:
    """To be called before ``module`` is imported because a configuration says ``name`` under ``key``.

    Raises:
        ConfigError: the name comes from a file that is not trusted.
    """
    if _source is not None and name not in _given:
        raise ConfigError(
            f"'{key}' = '{name}' in '{_source}' would import the module '{module}' and run its code; from a file only "
            "registered names are used: give --trust if you trust the file and the module"
        )


def check_read(name: str, given_as: Collection[str], key: str) -> None:
    """To be called before a file is read because a configuration says ``name`` under ``key``.

    Args:
        given_as: what the user may have written who means this file.

    Raises:
        ConfigError: the name comes from a file that is not trusted.
    """
    if _source is not None and not any(each in _given for each in given_as):
        raise ConfigError(
            f"'{key}' = '{name}' in '{_source}' would read another file of this machine; a file may name none: give "
            "--trust if you trust it, or the name on the command line"
        )


def check_new_folder(path: Path, key: str) -> None:
    """Make sure that a folder to which a stranger's file has a run written is new, in the current folder.

    Raises:
        ConfigError: it lies elsewhere, or there is something already.
    """
    here = Path.cwd().resolve()
    resolved = (here / path).resolve()
    if here not in resolved.parents:
        where = "lies outside of the current folder"
    elif os.path.lexists(path):
        where = "is there already"
    else:
        return
    raise ConfigError(
        f"'{key}' = '{path}' {where}: a file may only name a new folder in the current one; give --logdir, or --trust"
    )


def read_mapping(path: Path, *, follow_link: bool, longest: int | None = None) -> dict[str, Any]:
    """The mapping that a file holds: JSON if its name ends in ``.json``, else YAML, both in UTF-8.

    Args:
        follow_link: whether a symbolic link is followed; those in a run folder are not.
        longest: bytes that it may have, and characters with its aliases expanded; None: as configurations and states.

    Raises:
        ConfigError: it is no regular file, cannot be read, is too long or too deep, says the same key twice, or holds
            no mapping of names.
    """
    is_json = path.suffix == ".json"
    longest = longest or (MAX_JSON_BYTES if is_json else MAX_YAML_BYTES)
    try:
        text = _read(path, longest, follow_link).decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_without_doubles) if is_json else _parse_yaml(text, longest)
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise ConfigError(f"'{path}' cannot be read: it is nested too deeply") from None
    except Exception as error:  # PyYAML's constructors raise whatever the value leads them to
        raise ConfigError(f"'{path}' cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"'{path}' must hold a mapping of names to values; it holds {found}")
    return value


def check_inside(folder: Path, *names: str) -> None:
    """Make sure that a stranger's folder holds each file or folder itself: no link, pipe or device, nothing elsewhere.

    Raises:
        ValueError: a name leads out of the folder, or stands for something else.
        OSError: it is not there.
    """
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{name!r} is not the name of a file in '{folder}'")
        mode = os.lstat(folder / name).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"'{folder / name}' is neither a regular file nor a folder")


def _read(path: Path, limit: int, follow_link: bool) -> bytes:
    """A regular file's content; a pipe is refused instead of waited for."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_link else os.O_NOFOLLOW)
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is longer than {limit:,} bytes")
    return content


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' is there twice")
    return mapping


def _parse_yaml(text: str, longest: int) -> Any:
    """YAML's value. Its events are counted first, for building it is recursive and expands every alias."""
    import yaml

    length = 0  # characters and nodes so far; what an alias stands for counts each time
    lengths: dict[str, int] = {}  # of what is anchored and complete
    unfinished: list[tuple[str | None, int]] = []  # anchors of the collections around, with the length before each
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        start = length
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in lengths:
                raise ValueError(f"the alias *{event.anchor} has no complete value before it")
            length += lengths[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            length += 1 + len(event.value)
            if event.anchor:
                lengths[event.anchor] = length - start
        elif isinstance(event, yaml.CollectionStartEvent):
            length += 1
            unfinished.append((event.anchor, start))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = unfinished.pop()
            if anchor:
                lengths[anchor] = length - start
        if len(unfinished) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if length > longest:
            raise ValueError(f"with its aliases expanded it is longer than {longest:,} characters")
    _check_keys(yaml.compose(text, Loader=yaml.SafeLoader), set())
    return yaml.safe_load(text)


def _check_keys(node: Any, seen: set[int]) -> None:
    """Raise ValueError where a mapping says the same key twice, of which YAML's constructor takes the last."""
    import yaml

    if id(node) in seen:  # an alias is the same node again
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, seen)
    elif isinstance(node, yaml.MappingNode):
        names = set()
        for key, item in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in names:
                    raise ValueError(f"the key '{key.value}' is there twice")
                names.add((key.tag, key.value))
            _check_keys(item, seen)
