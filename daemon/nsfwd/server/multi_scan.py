"""Scans the images of one request for many: a directory, a tree, a list of paths. Entries go out as they finish.

Holds a bounded number of images in flight and stops naming files while the peer does not read, so that memory does not
grow with the directory. Knows no socket and no dialect.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from nsfwd.errors import CodedError
from nsfwd.logs import paths
from nsfwd.pipeline.queueing.scored import Directory
from nsfwd.protocol.limits import WINDOW
from nsfwd.protocol.messages import Image, Outcome, Scan, Timing
from nsfwd.quantities import KIB

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nsfwd.server.context import RequestClaim, ServerContext
    from nsfwd.server.quotas import ConnectionQuota

SERIES_MARK = 256 * KIB
"""Unread bytes above which a series starts no further image: enough to keep the peer busy while it catches up."""

IMAGES = 1024
"""Images that all such requests of one peer have in flight, but at least one each: more would only take memory."""

HELD_MARK = 64 * KIB
"""The same for entries that wait behind the reply of an earlier text request."""

_log = logging.getLogger("nsfwd.server")


class MultiScan:
    """The images of one request, scored with a window.

    Args:
        service: whose pipeline scores.
        scan: the request.
        claim: on whose behalf.
        send: takes each outcome, in the order in which they come.
        clogged: whether the peer has too much to read already.
        quota: limits of the peer on images in flight and images a second.
    """

    def __init__(
        self,
        service: ServerContext,
        scan: Scan,
        claim: RequestClaim,
        *,
        send: Callable[[Outcome], None],
        clogged: Callable[[], bool],
        quota: ConnectionQuota,
    ) -> None:
        self._service = service
        self._scan = scan
        self._claim = claim
        self._send = send
        self._clogged = clogged
        self._quota = quota
        self._tasks: set[asyncio.Task[None]] = set()
        self._directories: deque[bytes] = deque()
        self._change: asyncio.Future[None] | None = None

    async def run(self, *, directory: bytes | None = None) -> None:
        """Score everything.

        Args:
            directory: a path already known to be one, instead of the request's images.

        Raises:
            CodedError: the series was cut short; entries sent before stand.
        """
        if directory is not None:
            self._directories.append(directory)
        counts, peer = self._service.multi_scans, self._quota.peer.guard
        counts[peer] += 1
        try:
            if directory is None:
                for image in self._scan.images:
                    await self._start(image)
                await self._until(lambda: not self._tasks)
            while self._directories:
                await self._walk(self._directories.popleft())
        finally:
            # Whatever was started is answered before the series ends.
            await self._until(lambda: not self._tasks)
            self._quota.give_up(self.wake)
            counts[peer] -= 1
            if not counts[peer]:
                del counts[peer]

    def wake(self) -> None:
        """Something changed that the series may be waiting for."""
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    async def _walk(self, directory: bytes) -> None:
        files = self._service.pipeline.listing(directory, self._claim, recursive=self._scan.recursive)
        async with aclosing(cast("AsyncGenerator[bytes, None]", files)):
            async for file in files:
                await self._start(Image(file), listed=True)

    async def _start(self, image: Image, *, listed: bool = False) -> None:
        await self._until(self._may_start)
        while not self._over() and (seconds := self._quota.try_acquire()):
            await self._rest(seconds)
        if self._claim.error is not None:
            raise self._claim.error
        if self._service.draining:
            raise CodedError("draining", retry_after=1.0)
        self._quota.begin()
        self._service.queue.coming += 1
        task = self._service.loop.create_task(self._score(image, listed))
        self._tasks.add(task)

    def _over(self) -> bool:
        return self._claim.error is not None or self._service.draining

    def _may_start(self) -> bool:
        if self._over():
            return True
        if len(self._tasks) < self._window() and not self._clogged():
            return self._quota.may_begin(self.wake)
        self._quota.pass_on()
        return False

    def _window(self) -> int:
        """Return how many images may be in flight for this request."""
        together = self._service.multi_scans[self._quota.peer.guard]
        return min(self._service.queue.window(WINDOW), max(1, IMAGES // together))

    async def _rest(self, seconds: float) -> None:
        """Wait for the peer's rate; a cancel or a drain ends it."""
        rested = self._service.loop.create_future()
        timer = self._service.loop.call_later(seconds, rested.set_result, None)
        rested.add_done_callback(lambda _: self.wake())
        try:
            await self._until(lambda: rested.done() or self._over())
        finally:
            timer.cancel()

    async def _score(self, image: Image, listed: bool) -> None:
        self._service.queue.coming -= 1
        try:
            outcome = await self._service.pipeline.scan(image, self._claim)
            if not isinstance(outcome, Directory):
                self._send(outcome)
            elif listed or image.path is None:
                # It was a file when it was listed.
                error = CodedError("unreadable", "it was replaced by a directory")
                self._send(Outcome.failed(image.path, error, outcome.time))
            else:
                self._directories.append(image.path)
        except Exception:
            _log.exception("a defect while scanning %s", paths.show(image.path))
            self._send(Outcome.failed(image.path, CodedError("internal"), Timing()))
        finally:
            self._quota.end()
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            self.wake()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._change = self._service.loop.create_future()
            await self._change
        self._change = None
