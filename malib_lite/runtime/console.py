"""What the user sees: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Console:
    """Prints lines and, while something runs in a terminal, a bar below them."""

    def __init__(self, quiet: bool = False) -> None:
        self._rich = RichConsole(highlight=False, soft_wrap=True, quiet=quiet)

    def say(self, text: str) -> None:
        """Print a line."""
        self._rich.print(text, markup=False)

    def alarm(self, text: str) -> None:
        """Print a line among the errors, also where nothing else is to be shown."""
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
