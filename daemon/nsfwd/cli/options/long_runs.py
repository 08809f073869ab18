"""Commands that run for long: their progress, and the signals that end them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

Show = Callable[[str], None]

Stop = Callable[[], object]


@contextmanager
def reporting(*, quiet: bool) -> Iterator[tuple[Show | None, Show | None]]:
    """Lend two functions: one shows a line of progress, the other reports to a service manager that the work has begun.

    The first writes to the status of a service or to a terminal; either is None where there is no reader.
    """
    if "NOTIFY_SOCKET" in os.environ:
        from nsfwd.systemd import Notifier

        notifier = Notifier(os.environ)
        yield notifier.status, notifier.ready
        notifier.stopping()
    elif sys.stderr.isatty() and not quiet:
        from rich.console import Console

        with Console(stderr=True).status("walking") as status:
            yield status.update, None
    else:
        yield None, None


def run_until_signal(work: Callable[[Callable[[Stop], None]], Coroutine[Any, Any, T]]) -> tuple[T | None, int]:
    """Run a coroutine in an event loop of its own until it ends, or SIGINT or SIGTERM stops it.

    Args:
        work: is called with a function that takes what stops it in order. Before that was called, and at a second
            signal, it is cancelled.

    Returns:
        Its result, None if it was cancelled; and the first signal, 0 if there was none.

    Raises:
        KeyboardInterrupt: it was cancelled, and not by SIGTERM.
    """
    import uvloop

    signals: list[int] = []

    async def run() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        stops: list[Stop] = [task.cancel]

        def stop(number: int) -> None:
            if signals:
                task.cancel()
            signals.append(number)
            stops[-1]()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        return await work(stops.append)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            result = runner.run(run())
        except asyncio.CancelledError:
            if signals[:1] != [signal.SIGTERM]:
                raise KeyboardInterrupt from None
            return None, signal.SIGTERM
    return result, signals[0] if signals else 0
