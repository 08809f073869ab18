"""``Submitter``: keeps requests to the daemon in flight, sends refused ones again, and ends them in order.

The window of requests grows by one place for each window of replies and halves with a refusal, as TCP does. Knows no
index, no list and no file.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVarTuple

from nsfwd.backoff import TRANSIENT_ERROR
from nsfwd.errors import Status
from nsfwd.protocol.limits import WINDOW

if TYPE_CHECKING:
    from nsfwd.client.results import Reply
    from nsfwd.scanning.submission.reconnecting_client import ReconnectingClient

Arguments = TypeVarTuple("Arguments")

SOONEST = 0.05
"""Seconds before a refused request is sent again, however soon the daemon says."""

LOOK = 0.5
"""Seconds between looks whether the requests in flight can still end."""

PATIENCE = 5.0
"""Seconds that requests in flight may still take after ``stop``: a stalled daemon says nothing. Unanswered files are
left to the next run."""

PASSING = frozenset({"engine_failed", "cancelled"})
"""Errors of the daemon that pass soon: the file is asked about again a few times."""


class Submitter:
    """The requests of one run. For one event loop.

    Args:
        client: the daemon.
        rate: requests a second at most; unlimited when None.
    """

    def __init__(self, client: ReconnectingClient, *, rate: float | None = None) -> None:
        self._client = client
        self._window, self._rate = CongestionWindow(), RateLimit(rate)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._halt = asyncio.Event()

    @property
    def stopped(self) -> bool:
        """Whether no further work is started."""
        return self._halt.is_set()

    def stop(self) -> None:
        """Start no further work. Safe in a signal handler."""
        self._halt.set()

    async def until_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Await ``work``, or cancel it at ``stop``; return whether it came to its end."""
        working, halting = asyncio.create_task(work), asyncio.create_task(self._halt.wait())
        try:
            await asyncio.wait({working, halting}, return_when=asyncio.FIRST_COMPLETED)
            ended = working.done()
            if ended:
                working.result()
            return ended
        finally:
            await _cancel(working, halting)

    async def run(
        self, feeding: Coroutine[Any, Any, None], *, finish: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Await ``feeding``, which starts work, then all work that it started; soon after ``stop`` give up the rest.

        Args:
            finish: called once nothing is in flight, unless something failed.

        Raises:
            BaseException: the first failure of ``feeding``, of the work, or of a task that was given to ``supervise``.
        """
        try:
            await self.until_stopped(feeding)
            await self._drain()
            if self._failure is None and finish is not None:
                await finish()
        finally:
            await _cancel(*self._tasks)
            await asyncio.sleep(0)  # callbacks of tasks that have just ended
        if self._failure is not None:
            raise self._failure

    async def start(self, work: Callable[[*Arguments], Coroutine[Any, Any, None]], *arguments: *Arguments) -> None:
        """Start ``work`` in a task as soon as the rate and the window allow it."""
        await self._rate.wait()
        await self._window.acquire()
        task = asyncio.create_task(work(*arguments))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def supervise(self, task: asyncio.Task[None]) -> None:
        """Let the failure of a task end the run."""
        task.add_done_callback(self._note_failure)

    async def ask(self, request: Callable[[], Awaitable[Reply]]) -> Reply | None:
        """Send a request until it has an answer that stands; None when the run is stopped before.

        Raises:
            NsfwdError: as ``ReconnectingClient.scan``.
        """
        tries = 0
        while True:
            shrunk = self._window.shrunk
            reply = await request()
            if reply.status == Status.REFUSED:
                self._window.shrink(shrunk)
                pause = max(SOONEST, reply.retry_after or 0.0)
            elif reply.code in PASSING and tries < len(TRANSIENT_ERROR.seconds):
                pause = TRANSIENT_ERROR.delay(tries)
                tries += 1
            else:
                self._window.grow()
                return reply
            with suppress(TimeoutError):
                await asyncio.wait_for(self._halt.wait(), pause)
                return None

    async def _drain(self) -> None:
        """Wait for what is in flight; after ``stop`` neither for a daemon that is gone nor for long."""
        end = math.inf
        while self._tasks and self._failure is None and not (self.stopped and self._client.waiting):
            now = time.monotonic()
            end = min(end, now + PATIENCE) if self.stopped else math.inf
            if now >= end:
                break
            await asyncio.wait(self._tasks, timeout=LOOK)
        if self._failure is None:
            await _cancel(*self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._window.release()
        self._note_failure(task)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failure is None:
            self._failure = error
            self._halt.set()


class CongestionWindow:
    """Places for requests in flight.

    Args:
        most: places at the start, and the most there ever are: as many as the daemon takes from one connection.

    Attributes:
        shrunk: how often it shrank. Noted before a request, so that refusals of requests sent together count once.
    """

    def __init__(self, most: int = WINDOW) -> None:
        self._most = most
        self._limit = float(most)
        self.shrunk = 0
        self._taken = 0
        self._freed = asyncio.Event()

    @property
    def limit(self) -> int:
        """Places there are at present."""
        return int(self._limit)

    async def acquire(self) -> None:
        """Wait for a place. One task at a time waits here."""
        while self._taken >= self.limit:
            self._freed.clear()
            await self._freed.wait()
        self._taken += 1

    def release(self) -> None:
        """Give a place back."""
        self._taken -= 1
        self._freed.set()

    def grow(self) -> None:
        """Note a reply that was not refused."""
        if self._limit < self._most:
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def shrink(self, shrunk: int) -> None:
        """Note the refusal of a request that was sent when the window had shrunk so many times."""
        if shrunk == self.shrunk:
            self._limit = max(1.0, self._limit / 2)
            self.shrunk += 1


class RateLimit:
    """Spaces requests evenly, at most so many a second.

    Args:
        rate: unlimited when None.
    """

    def __init__(self, rate: float | None) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Wait until the next request may go out."""
        if not self._gap:
            return
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + self._gap


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
