"""Shared memory: one private folder per run, memory-mapped files in it, and a sweep for what dead runs left.

The folder lies in ``/dev/shm`` where there is one (a file there *is* shared memory) and in the temporary folder
elsewhere. Files instead of ``multiprocessing.shared_memory`` because nothing then depends on the resource tracker,
which unlinks segments under the feet of processes that only attached to them (cpython#82300). The run's sockets lie
in the same folder, mode 0700.

The main process creates every segment before a child starts, and alone removes the folder. Should it be killed, its
children remove the folder when they notice; should all be killed at once, the next run does (:func:`sweep`).
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path

PREFIX = "malib_lite"
_NAME = re.compile(rf"{PREFIX}-(\d+)-(\d+)-[0-9a-f]+$")


class SharedMemoryError(OSError):
    """There is not enough shared memory for the run."""


def _places() -> list[Path]:
    """Where run folders may lie, the best place first."""
    shm = Path("/dev/shm")
    temporary = Path(tempfile.gettempdir())
    return [shm, temporary] if shm.is_dir() and os.access(shm, os.W_OK) else [temporary]


def _start_time(pid: int) -> int:
    """When the process started (clock ticks since boot), 0 where that cannot be known, -1 where it is not alive.

    A process id alone does not name an owner: ids are reused.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat[stat.rindex(b")") + 2 :].split()[19])
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return -1
    except PermissionError:
        pass
    return -1 if Path("/proc/self/stat").exists() else 0


class SharedFolder:
    """The run's own folder of segments and sockets; a context manager that removes it."""

    def __init__(self, num_bytes: int = 0) -> None:
        """Make the folder where ``num_bytes`` of segments fit.

        Raises:
            SharedMemoryError: no place has that much room.
        """
        name = f"{PREFIX}-{os.getpid()}-{_start_time(os.getpid())}-{secrets.token_hex(4)}"
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
        return f"ipc://{self.path / name}"

    def remove(self) -> None:
        """Remove the folder and what is in it; mappings that are still open stay valid until they are closed."""
        shutil.rmtree(self.path, ignore_errors=True)

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
    """Remove the folders of this user's runs whose main process is dead; returns what was removed."""
    removed = []
    for place in _places():
        for path in place.glob(f"{PREFIX}-*"):
            match = _NAME.match(path.name)
            if match is None or path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            pid, started = int(match[1]), int(match[2])
            if _start_time(pid) != started:
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
    return removed
