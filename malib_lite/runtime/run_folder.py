"""The run folder: where everything a run leaves behind lies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import itertools
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import yaml

from malib_lite import __version__
from malib_lite.config import ConfigError
from malib_lite.runtime.files import UnwrittenFile, make_folders, remove_unfinished, sync_folder, write_text
from malib_lite.runtime.host import describe_host
from malib_lite.runtime.metrics import finite
from malib_lite.runtime.sealed import seal, write_arrays


class RunFolder:
    """``config.yaml, manifest.json, metrics.jsonl, summary.json, logs/, checkpoints/, plots/, tensorboard/``.

    It belongs to one run: ``run.lock`` in it is locked until ``close``, or until the process ends in whatever way, for
    the kernel releases the lock then. Child processes do not inherit it.
    """

    def __init__(self, path: Path | str) -> None:
        """Take the folder, made if there is none, and only then write into it.

        Raises:
            ConfigError: it cannot be written, another run is in it, or it holds a finished one; nothing was changed.
        """
        self.path = Path(path)
        begun = (self.path / "run.lock").exists()
        if not begun:
            self._refuse_finished()  # before anything is added to it
        self._lock = self._take()
        try:
            self._refuse_finished()
            try:
                for name in ("logs", "plots", "checkpoints/policies"):
                    make_folders(self.path / name)
                if begun:  # by a run that was killed before it had any result
                    remove_unfinished(self.path / name for name in ("", "plots", "checkpoints", "checkpoints/policies"))
            except OSError as error:
                raise self._unusable(error) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder. The empty ``run.lock`` stays: removing it would let two runs lock different files."""
        self._lock.close()

    def _take(self) -> IO[bytes]:
        """The lock file, locked."""
        try:
            make_folders(self.path)
            descriptor = os.open(self.path / "run.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unusable(error) from None
        file = os.fdopen(descriptor, "rb", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if isinstance(error, BlockingIOError):
                raise ConfigError(
                    f"'logdir' = '{self.path}': another run is in it and has not ended; give another folder"
                ) from None
            raise self._unusable(error) from None
        return file

    def _refuse_finished(self) -> None:
        if any(os.path.exists(self.path / name) for name in ("summary.json", "metrics.jsonl")):
            raise ConfigError(f"'logdir' = '{self.path}': holds a run already; give another folder or remove it")

    def _unusable(self, error: OSError) -> ConfigError:
        return ConfigError(f"'logdir' = '{self.path}': cannot be written ({error.strerror or error})")

    def write_config(self, settings: Mapping[str, Any]) -> None:
        """Keep the configuration, every value resolved."""
        write_text(self.path / "config.yaml", yaml.safe_dump(_plain(settings), sort_keys=False))

    def write_manifest(self, seed: int) -> None:
        """Keep what a repetition has to know beside the configuration."""
        versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
        self.write_json(
            "manifest.json",
            {
                "malib_lite": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "host": describe_host(),
                "packages": dict(sorted(versions.items())),
                "seed": seed,
                "command": sys.argv,
            },
        )

    def write_json(self, name: str, content: Mapping[str, Any], indent: int | None = 1, sealed: bool = False) -> None:
        """Replace a JSON file at once: a reader sees the old one or the new one, never a part.

        Args:
            indent: None writes one line, which is much faster.
            sealed: whether it gets a format and a checksum, for readers of this package.
        """
        write_text(self.path / name, to_json(content, indent, sealed) + "\n")

    def check(self) -> None:
        """Make sure that the folder and its results are still there.

        Raises:
            UnwrittenFile: they were removed, or others are in their place.
        """
        for name in ("run.lock", "metrics.jsonl", "summary.json"):
            try:
                file = os.stat(self.path / name)
                there = name != "run.lock" or os.path.samestat(file, os.fstat(self._lock.fileno()))
            except OSError:
                there = False
            if not there:
                gone = FileNotFoundError(errno.ENOENT, "it was removed while the run was in it")
                raise UnwrittenFile(self.path if name == "run.lock" else self.path / name, gone)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a safetensors file, with a format and a checksum; a reader sees all of it or none."""
        write_arrays(self.path / name, arrays)


def to_json(content: Mapping[str, Any], indent: int | None = None, sealed: bool = False) -> str:
    """The content as JSON, whatever is in it; what has no finite value is null."""
    plain = finite(_plain(content))
    return json.dumps(seal(plain) if sealed else plain, indent=indent)


def make_folder(path: Path | str) -> Path:
    """Make a folder that nothing else has: ``path``, or the first free one of ``path-2``, ``path-3``, ...

    Raises:
        ConfigError: it cannot be made.
    """
    path = Path(path)
    try:
        make_folders(path.parent)
        for number in itertools.count(1):
            candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
            with contextlib.suppress(FileExistsError):  # mkdir is atomic: of several processes one makes the folder
                candidate.mkdir()
                sync_folder(candidate.parent)
                break
    except OSError as error:
        raise ConfigError(f"'logdir' = '{path}': cannot be made ({error.strerror or error})") from None
    return candidate


def _plain(value: Any) -> Any:
    """The value in YAML's and JSON's types; classes, functions and modules by their full names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, ModuleType):
        return value.__name__
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else repr(value)
