"""Progress bar of a scan on a terminal: files done, rate and time left.

On stderr; not where each reply is a line on the same terminal, which shows the progress as well. Knows no replies.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

Counting = Callable[[Callable[[], bool]], "int | None"]
"""Returns the total, from a thread of its own; its argument returns true when the total is no longer needed."""


class Bar(Protocol):
    """A display of progress."""

    def advance(self) -> None:
        """Count one file as done."""

    def aside(self) -> AbstractContextManager[None]:
        """Hide the bar while a line is written."""


class _NoBar:
    def advance(self) -> None:
        """Show nothing."""

    def aside(self) -> AbstractContextManager[None]:
        """Hide nothing."""
        return nullcontext()


@contextmanager
def progress(count: Counting | None, *, quiet: bool, filtered: bool = False) -> Iterator[Bar]:
    """Show progress until the end of the block.

    Args:
        count: finds the total; None where it cannot be known.
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
        """Files per second."""

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
            """A bar that gives way to lines on the same terminal."""

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
