"""Files that a run writes to be read back: each says which format it has, and the checksum of its content.

Both stand in the file itself, under ``format`` and ``sha256``: in JSON beside the other keys, in safetensors among the
metadata. A checksum finds what a disk, a transfer or an editor has damaged; it is no signature. Files from before there
were formats have neither, and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from malib_lite.config import ConfigError
from malib_lite.runtime.arrays import digest_of
from malib_lite.runtime.files import write_whole

FORMAT = 1  # of states, payoffs and members; to be raised when an older reader would misunderstand them


class DamagedFile(ConfigError):
    """A file does not hold what was written into it, or has a format that is not known here."""


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content, of JSON's types, with its format and checksum."""
    return {"format": FORMAT, "sha256": _checksum(content), **content}


def unseal(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`seal` was given, from what a JSON file holds.

    Raises:
        DamagedFile: it is something else, or of another format.
    """
    rest = {key: value for key, value in content.items() if key not in ("format", "sha256")}
    if _is_sealed(path, content) and content["sha256"] != _checksum(rest):
        raise _damaged(path)
    return rest


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], digest: str | None = None) -> None:
    """Write a safetensors file, whole and durably.

    Args:
        digest: of the arrays, where that is known already.

    Raises:
        UnwrittenFile: it cannot be written.
    """
    # safetensors wants contiguous arrays; np.ascontiguousarray would make vectors of scalars
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_whole(path, save(whole, {"format": str(FORMAT), "sha256": digest or digest_of(whole)}))


def read_arrays(path: Path, digest: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file.

    Args:
        digest: of what it should hold, where that is known; else the file's own word counts.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it is no such file, holds something else, or has another format.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedFile(f"'{path}' is damaged: {error}") from None
    sealed = _is_sealed(path, metadata)
    expected = digest or (metadata["sha256"] if sealed else None)
    if expected is not None and digest_of(arrays) != expected:
        raise _damaged(path)
    return arrays


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's arrays by name, from its header alone; nothing as large as them is made.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it is no such file.
    """
    try:
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedFile(f"'{path}' is damaged: {error}") from None


def _is_sealed(path: Path, header: Mapping[str, Any]) -> bool:
    """Whether there is a checksum; there is none in files from before there were formats."""
    if "format" not in header and "sha256" not in header:
        return False
    if "sha256" not in header or "format" not in header:
        raise DamagedFile(f"'{path}' is damaged: its format or its checksum is missing")
    if str(header["format"]) != str(FORMAT):
        raise DamagedFile(
            f"'{path}' has the format {header['format']}, this version of malib_lite reads {FORMAT}: use the version "
            "that wrote it, which the run's manifest.json names"
        )
    return True


def _damaged(path: Path) -> DamagedFile:
    return DamagedFile(f"'{path}' is damaged: its content is not what its checksum says")


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content as JSON, in the order of its keys: lines and indentation do not count."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
