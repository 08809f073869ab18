"""How far a scan has come, on stderr, while it runs: files, rate, and the time that is left where that can be known.

Only where stderr is a terminal and stdout, which would get in its way, is none. Knows nothing of what is counted.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Counting = Callable[[Callable[[], bool]], "int | None"]
"""Finds the total in a thread of its own; is given a function that tells when nobody wants it any more."""


@contextmanager
def progress(count: Counting | None, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show progress; what is yielded is to be called once for each file.

    Args:
        count: finds the total; None where nobody can know it.
        quiet: show nothing.
    """
    if quiet or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class Rate(ProgressColumn):
        """Files a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} files/s" if task.speed else "")

    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), Rate(), Elapsed(), Remaining())
    over = threading.Event()
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("scan", total=None)

        def find_total() -> None:
            total = count(over.is_set) if count else None
            if total is not None:
                shown.update(task, total=total)

        threading.Thread(target=find_total, daemon=True).start()
        try:
            yield lambda: shown.advance(task)
        finally:
            over.set()
