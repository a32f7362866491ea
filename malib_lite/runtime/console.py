"""What the user sees: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Console:
    """Prints lines and, while something runs in a terminal, a bar below them."""

    def __init__(self, quiet: bool = False) -> None:
        output: Any = Output()
        self._rich = RichConsole(file=output, highlight=False, soft_wrap=True, quiet=quiet)

    def say(self, text: str) -> None:
        """Print a line."""
        self._rich.print(text, markup=False)

    def alarm(self, text: str) -> None:
        """Print a line among the errors, also where nothing else is to be shown."""
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr)

    @contextlib.contextmanager
    def bar(self, unit: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
        """Show a bar; yields a function that takes how much of ``total`` is done and a note beside it."""
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeElapsedColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        # Nothing refreshes by itself: a thread of its own would contend with the run.
        with Progress(*columns, console=self._rich, disable=not self._rich.is_terminal, auto_refresh=False) as progress:
            task = progress.add_task("", total=total, note="")

            def update(done: int, note: str) -> None:
                progress.update(task, completed=done, note=note, refresh=True)

            yield update


class Output:
    """Standard output, but that it ends no run: when it takes nothing more, that is said once among the errors."""

    def write(self, text: str) -> int:
        with _loss_told():
            _stdout().write(text)
        return len(text)

    def flush(self) -> None:
        with _loss_told():
            _stdout().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(_stdout(), name)


def _stdout() -> Any:
    """Standard output as it is now; nothing, where it was closed before the program began."""
    return io.StringIO() if sys.stdout is None else sys.stdout


@contextlib.contextmanager
def _loss_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # the disk is full to which it goes, or who read it has ended
        with contextlib.suppress(OSError):
            print(f"output is lost from here on: {error.strerror}", file=sys.stderr)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _stdout().fileno())  # what is buffered must not fail again when the process ends
        os.close(nowhere)
