"""Faults at every operation by which a run changes its folder, one after the other.

:class:`Faults` counts them in this process and lets one fail. As a script it forks a process for each position, which
may be killed there: ``faults.py ROOT MODE[,MODE...] ARGUMENTS`` trains into ``ROOT/MODE-POSITION/run`` and prints the
exit codes as JSON, beside the operations and states of a run without faults, which is in ``ROOT/whole/run``.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# full: the disk is full from there on; once: there is no space just then; kill: SIGKILL, a write has got half way;
# end: the same without a process of its own, nothing is changed any more
MODES = ("full", "once", "kill", "end")
FREEING = ("unlink", "ftruncate")  # which a full disk does not refuse


class Ended(BaseException):
    """The process has "ended"."""


class Faults:
    """Counts what changes files within a folder, and makes one such operation fail."""

    def __init__(self, root: Path, mode: str = "", position: int = -1) -> None:
        self._root = f"{root}{os.sep}"
        self._mode = mode
        self._position = position
        self.trace: list[tuple[str, str]] = []  # operations and paths below the root
        self.states: list[str] = []  # what state.json has held

    @contextlib.contextmanager
    def active(self) -> Iterator[Faults]:
        """Within, the process's files are watched."""
        real = {
            name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "mkdir", "unlink", "ftruncate")
        }
        real_open = builtins.open

        def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not (set(mode) & set("wax+") and self._watches(path)):
                return real_open(path, mode, *args, **kwargs)
            assert mode == "xb" and not args and not kwargs, "another way to write than is known here"
            self._reach("open", path)
            return io.BufferedWriter(_File(self, path))

        def open_(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and self._watches(path):
                self._reach("open", path)
            return real["open"](path, flags, *args, **kwargs)

        def write(fd: int, data: Any) -> int:
            if self._watches(path := os.readlink(f"/proc/self/fd/{fd}")):
                return self.write(path, data, lambda part: real["write"](fd, part))
            return real["write"](fd, data)

        def on_descriptor(name: str) -> Callable[..., Any]:
            def act(fd: int, *args: Any) -> Any:
                if self._watches(path := os.readlink(f"/proc/self/fd/{fd}")):
                    self._reach(name, path)
                return real[name](fd, *args)

            return act

        def on_path(name: str) -> Callable[..., Any]:
            def act(path: Any, *args: Any, **kwargs: Any) -> Any:
                if not self._watches(path):
                    return real[name](path, *args, **kwargs)
                target = str(args[0] if name == "replace" else path)
                self._reach(name, target)
                result = real[name](path, *args, **kwargs)
                if name == "replace" and target.endswith("state.json"):
                    self.states.append(Path(target).read_text())
                return result

            return act

        patches = {"open": open_, "write": write, "replace": on_path("replace"), "mkdir": on_path("mkdir")}
        patches |= {"unlink": on_path("unlink")} | {name: on_descriptor(name) for name in ("fsync", "ftruncate")}
        builtins.open = io.open = opened  # type: ignore[assignment]
        for name, patch in patches.items():
            setattr(os, name, patch)
        try:
            yield self
        finally:
            builtins.open = io.open = real_open
            for name, function in real.items():
                setattr(os, name, function)

    def write(self, path: Any, data: Any, write: Callable[[Any], int]) -> int:
        """Write all of it, or half of it before the fault."""
        view = memoryview(data).cast("B")
        self._reach("write", path, lambda: write(view[: len(view) // 2]))
        return write(view)

    def _watches(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self._root)

    def _reach(self, what: str, path: Any, half: Callable[[], object] = lambda: None) -> None:
        """Before an operation: whether it comes to that."""
        here = len(self.trace)
        self.trace.append((what, os.fspath(path).removeprefix(self._root)))
        if self._mode == "kill" and here == self._position:
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        if self._mode == "end" and here >= self._position:
            if here == self._position:
                half()
            raise Ended
        full = self._mode == "full" and here >= self._position and what not in FREEING
        if full or (self._mode == "once" and here == self._position):
            if here == self._position:
                half()
            raise OSError(errno.ENOSPC, "No space left on device")


class _File(io.FileIO):
    def __init__(self, faults: Faults, path: Any) -> None:
        super().__init__(path, "xb")
        self._faults = faults

    def write(self, data: Any) -> int:
        return self._faults.write(self.name, data, super().write)


def train(root: Path, arguments: list[str], mode: str = "", position: int = -1) -> tuple[int | None, Faults]:
    """Train into ``root/run`` with a fault; returns the exit code, None where it "ended", and what was done."""
    from malib_lite.train import main

    faults = Faults(root, mode, position)
    with faults.active():
        try:
            return main([*arguments, "--logdir", str(root / "run")]), faults
        except Ended:
            return None, faults


def _main(root: Path, modes: list[str], arguments: list[str]) -> None:
    """Count, then let each operation fail in each of the modes; print how each process ended."""
    import matplotlib.figure

    for name in ("malib_lite.runner", "malib_lite.runtime.plots"):
        importlib.import_module(name)  # once, and not in every process

    # drawing would take longer than all the rest
    matplotlib.figure.Figure.savefig = lambda figure, file, **options: file.write(b"\x89PNG" * 5000)  # type: ignore[method-assign]
    assert _fork(root / "whole", arguments) == 0
    told = json.loads((root / "whole" / "told.json").read_text())
    for mode in modes:
        for position in range(len(told["trace"])):
            told[f"{mode}-{position}"] = _fork(root / f"{mode}-{position}", arguments, mode, position)
    print(json.dumps(told))


def _fork(root: Path, arguments: list[str], mode: str = "", position: int = -1) -> int:
    """Train in a process of its own; returns its exit code. What it says is in ``root/output.txt``."""
    root.mkdir(parents=True)
    if (child := os.fork()) == 0:
        descriptor = os.open(root / "output.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code, faults = train(root, arguments, mode, position)
        (root / "told.json").write_text(json.dumps({"trace": faults.trace, "states": faults.states}))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])
