"""Files that are there whole or not at all, whatever ends the process or the machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file at once and durably: its content reaches the disk before its name does.

    A reader sees the old file or the new one, never a part; when this returns, the new one survives a power failure. If
    it fails, the old one is as it was and nothing is left beside it; a killed process may leave a ``.new`` file.

    Args:
        write: writes the content to the path that it is given, in the same folder.

    Raises:
        OSError: the disk is full, the folder is gone or cannot be written.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")  # two processes may write the same file at the same time
    try:
        write(new)
        _sync(new)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync(path.parent)  # the rename is an entry of the folder


def write_text(path: Path, text: str) -> None:
    """The same for a text, in UTF-8."""
    write_whole(path, lambda new: new.write_text(text, encoding="utf-8"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
