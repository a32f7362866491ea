"""The run folder: where everything a run leaves behind lies."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from malib_lite import __version__
from malib_lite.config import ConfigError
from malib_lite.runtime.host import describe_host
from malib_lite.runtime.metrics import finite


class RunFolder:
    """``config.yaml, manifest.json, metrics.jsonl, summary.json, logs/, checkpoints/, plots/, tensorboard/``."""

    def __init__(self, path: Path | str) -> None:
        """Make the folder.

        Raises:
            ConfigError: it cannot be written, or holds another run already.
        """
        self.path = Path(path)
        for name in ("logs", "plots", "checkpoints/policies"):
            try:
                (self.path / name).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"'logdir' = '{self.path}': cannot be written ({error.strerror or error})") from None
        if not os.access(self.path, os.W_OK):
            raise ConfigError(f"'logdir' = '{self.path}': cannot be written (permission denied)")
        if (self.path / "summary.json").exists() or (self.path / "metrics.jsonl").exists():
            raise ConfigError(f"'logdir' = '{self.path}': holds a run already; give another folder or remove it")

    def write_config(self, settings: Mapping[str, Any]) -> None:
        """Keep the configuration, every value resolved."""
        (self.path / "config.yaml").write_text(yaml.safe_dump(_plain(settings), sort_keys=False))

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

    def write_json(self, name: str, content: Mapping[str, Any], indent: int | None = 1) -> None:
        """Replace a JSON file at once: a reader sees the old one or the new one, never a part."""
        path = self.path / name
        new = path.with_suffix(".new")
        with new.open("w") as file:
            file.write(json.dumps(finite(_plain(content)), indent=indent) + "\n")  # much faster without indentation
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a safetensors file; a reader sees all of it or none."""
        path = self.path / name
        new = path.with_suffix(".new")
        save_file({key: np.asarray(array, order="C") for key, array in arrays.items()}, new)
        new.replace(path)


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
