"""A bar on a terminal: how far a scan is, how quick, and how long it still takes.

On stderr, and where each reply is a line on the same terminal not at all: those show it as well. Knows no replies.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

Counting = Callable[[Callable[[], bool]], "int | None"]
"""Finds the total in a thread of its own; is given a function that tells when nobody wants it any more."""


class Bar(Protocol):
    """What shows progress."""

    def advance(self) -> None:
        """One file more is done."""

    def aside(self) -> AbstractContextManager[None]:
        """Keep out of the way of what is written meanwhile."""


class _NoBar:
    def advance(self) -> None:
        """Nothing is shown."""

    def aside(self) -> AbstractContextManager[None]:
        """Nothing is in the way."""
        return nullcontext()


@contextmanager
def progress(count: Counting | None, *, quiet: bool, filtered: bool = False) -> Iterator[Bar]:
    """Show progress until the end of the block.

    Args:
        count: finds the total; None where nobody can know it.
        quiet: show nothing.
        filtered: not every file is a line on stdout.
    """
    beside = sys.stdout.isatty()
    if quiet or not sys.stderr.isatty() or (beside and not filtered):
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class FileRate(ProgressColumn):
        """Files a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} files/s" if task.speed else "")

    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), FileRate())
    times = ("elapsed", Elapsed(), "left", Remaining())
    over = threading.Event()
    with Progress(*columns, *times, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("scan", total=None)

        def find_total() -> None:
            total = count(over.is_set) if count else None
            if total is not None:
                shown.update(task, total=total)

        class RichBar:
            """Both streams are the same terminal where lines are written beside the bar."""

            def advance(self) -> None:
                shown.advance(task)

            @contextmanager
            def aside(self) -> Iterator[None]:
                if beside:
                    shown.stop()
                yield
                if beside:
                    shown.start()

        threading.Thread(target=find_total, daemon=True).start()
        try:
            yield RichBar()
        finally:
            over.set()
