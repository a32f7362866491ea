"""Shared memory: one private folder per run, memory-mapped files in it, and a sweep for what dead runs left.

The folder lies in ``/dev/shm`` where there is one (a file there *is* shared memory) and in the temporary folder
elsewhere. Files instead of ``multiprocessing.shared_memory`` because nothing then depends on the resource tracker,
which unlinks segments under the feet of processes that only attached to them (cpython#82300). The run's sockets lie
in the same folder, mode 0700.

The main process creates every segment before a child starts, and alone removes the folder. Should it be killed, its
children remove the folder when they notice; should all be killed at once, the next run does (:func:`sweep`).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "malib_lite"
_LOCK = "owner"  # held by the main process as long as it lives, however it ends
_GRACE_S = 60.0  # a folder this young may still be about to be locked


class SharedMemoryError(OSError):
    """There is not enough shared memory for the run."""


def _places() -> list[Path]:
    """Where run folders may lie, the best place first."""
    shm = Path("/dev/shm")
    temporary = Path(tempfile.gettempdir())
    return [shm, temporary] if shm.is_dir() and os.access(shm, os.W_OK) else [temporary]


class SharedFolder:
    """The run's own folder of segments and sockets; a context manager that removes it."""

    def __init__(self, num_bytes: int = 0) -> None:
        """Make the folder where ``num_bytes`` of segments fit.

        Raises:
            SharedMemoryError: no place has that much room.
        """
        name = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(4)}"
        for place in _places():
            room = os.statvfs(place)
            if room.f_bavail * room.f_frsize > num_bytes:
                self.path = place / name
                break
        else:
            raise SharedMemoryError(
                f"the run needs {num_bytes / 2**20:.0f} MiB of shared memory and finds no place for it in "
                f"{' or '.join(map(str, _places()))}; in a container, start it with a larger --shm-size, "
                "or lower rollout.fragment_length"
            )
        self.path.mkdir(mode=0o700)
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)  # not inherited by children
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def allocate(self, name: str, num_bytes: int) -> Path:
        """Create a segment of zeros. Its pages are reserved now: running out later would be a SIGBUS, not an error."""
        path = self.path / name
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, num_bytes)
            else:
                os.ftruncate(descriptor, num_bytes)
        except OSError as error:
            raise SharedMemoryError(f"cannot reserve {num_bytes} bytes in {path}: {error.strerror}") from None
        finally:
            os.close(descriptor)
        return path

    def endpoint(self, name: str) -> str:
        """A ZeroMQ address in the folder; other users cannot reach it."""
        path = str(self.path / name)
        if len(path.encode()) > 100:  # the kernels' limits are 104 and 108 bytes
            raise SharedMemoryError(f"the path of a socket is too long: {path}; set TMPDIR to a shorter folder")
        return f"ipc://{path}"

    def remove(self) -> None:
        """Remove the folder and what is in it; mappings that are still open stay valid until they are closed."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> SharedFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def attach(path: Path) -> mmap.mmap:
    """Map a segment that :meth:`SharedFolder.allocate` made. Nothing is registered anywhere."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)


def sweep() -> list[Path]:
    """Remove the folders of this user's runs whose main process is dead; returns what was removed.

    Whether it is dead, its lock tells: process ids are reused, and mean nothing in another container.
    """
    removed = []
    for place in _places():
        for path in place.glob(f"{PREFIX}-*"):
            with contextlib.suppress(FileNotFoundError):  # its owner may just be removing it
                if not path.is_symlink() and path.stat().st_uid == os.getuid() and _is_abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)
                    removed.append(path)
    return removed


def _is_abandoned(path: Path) -> bool:
    lock = path / _LOCK
    if not lock.exists():
        return time.time() - path.stat().st_mtime > _GRACE_S
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
