"""Files that are there whole or not at all, whatever ends the process or the machine.

Every file of a run is written in one of two ways: at once (:func:`write_whole`), or record by record
(:class:`AppendedFile`). What fails raises :class:`UnwrittenFile`, whose message is a
sentence.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO


class UnwrittenFile(OSError):
    """A file could not be written: the disk is full, or the folder is gone or may not be written."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or str(error), str(path))

    def __str__(self) -> str:
        return f"'{self.filename}' cannot be written: {self.strerror}"


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once and durably: its content reaches the disk before its name does.

    A reader sees the old file or the new one, never a part; when this returns, the new one survives a power failure. If
    it fails, the old one is as it was and nothing is left beside it; a killed process may leave a ``.new`` file.

    Raises:
        UnwrittenFile: it cannot be written.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")  # two processes may write the same file at the same time
    with _failures_of(path):
        try:
            with _new_file(new) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        sync_folder(path.parent)  # the rename is an entry of the folder


def _new_file(path: Path) -> IO[bytes]:
    """A file that was not there. What a killed process with the same number has left makes room, and so does a link or
    a pipe that somebody has laid there: neither is opened."""
    try:
        return open(path, "xb")
    except FileExistsError:
        os.unlink(path)
        return open(path, "xb")


def write_text(path: Path, text: str) -> None:
    """The same for a text, in UTF-8."""
    write_whole(path, text.encode())


def make_folders(path: Path) -> None:
    """Make a folder and those around it, where there are none, durably.

    Raises:
        UnwrittenFile: it cannot be made, or something else has its name.
    """
    with _failures_of(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing or [path]):
            folder.mkdir(exist_ok=True)  # another process may be making it
            sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Bring to the disk which files and folders are in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folders: Iterable[Path]) -> None:
    """Remove what processes that were killed while they wrote have left in these folders."""
    for folder in folders:
        for path in folder.glob("*.new"):
            if re.search(r"\.\d+\.new$", path.name):
                path.unlink(missing_ok=True)


class AppendedFile:
    """A new file that grows by records. Each is in it whole, but for the last one if the process is killed then."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UnwrittenFile: it cannot be made, or is there already.
        """
        self._path = path
        with _failures_of(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o644)

    def write(self, record: bytes) -> None:
        """Add a record. If that fails, nothing of it is added.

        Raises:
            UnwrittenFile: it cannot be written.
        """
        rest = memoryview(record)
        with _failures_of(self._path):
            before = os.fstat(self._descriptor).st_size
            try:
                while rest:  # a disk that becomes full takes a part first
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, before)
                raise

    def close(self) -> None:
        """Close the file, whose records are then on the disk.

        Raises:
            UnwrittenFile: they are not.
        """
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        with _failures_of(self._path):
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def _failures_of(path: Path) -> Iterator[None]:
    """Turn into words why a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise UnwrittenFile(path, error) from None
