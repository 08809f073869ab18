"""A server without signals: start, wait until it is ready, stop. The daemon and ``local.Scanner`` are two of these.

Holds what both need: the pipeline, the context of connections, and the acceptor. Knows no request, no image and no
service manager.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nsfwd.pipeline.pipeline import Pipeline
from nsfwd.server.acceptor import Acceptor
from nsfwd.server.context import ServerContext

if TYPE_CHECKING:
    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.config import Settings
    from nsfwd.server.listeners import Listener

FLUSH_TIMEOUT = 2.0
"""Seconds that peers have, at a stop, to take the replies that are already written."""


class EmbeddedServer:
    """A pipeline and the connections that it serves, on the running event loop.

    Args:
        settings: checked.
        bundles: opened.
        listeners: where peers connect; without any, connections come through ``acceptor.serve``.

    Attributes:
        pipeline: scores the images.
        context: is shared by all connections.
        acceptor: the connections.

    Raises:
        NsfwdError: the pipeline cannot be built from these settings and bundles.
    """

    def __init__(self, settings: Settings, bundles: Sequence[Bundle], listeners: Sequence[Listener] = ()) -> None:
        loop = asyncio.get_running_loop()
        self.pipeline = Pipeline(settings, bundles)
        self.context = ServerContext(loop, settings, self.pipeline, bundles, self.pipeline.admission.budget)
        self.acceptor = Acceptor(listeners, self.context)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def start(self) -> None:
        """Start child processes and accept connections; returns at once. ``until_ready`` follows."""
        self.pipeline.start()
        self.acceptor.start()

    async def until_ready(self) -> bool:
        """Wait until images are scored; return False when a stop was requested first.

        Raises:
            NsfwdError: they never will be; the message says why.
        """
        await self._either(self.pipeline.ready)
        return not self._stop.is_set()

    async def until_stop(self) -> None:
        """Wait until a stop is requested.

        Raises:
            NsfwdError: the pipeline had to give up first.
        """
        await self._either(self._stop)

    async def _either(self, event: asyncio.Event) -> None:
        failed: asyncio.Future[Any] = self.pipeline.failed
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self._stop)]
        try:
            await asyncio.wait({*waits, failed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if failed.done():
            failed.result()

    def request_stop(self) -> None:
        """Ask for an orderly stop; a second call ends its wait for the work in flight."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def stop(self, drain_timeout: float = 0.0) -> None:
        """Stop in the order that loses nothing: no reply means not done, and everything admitted gets one.

        Args:
            drain_timeout: seconds that the work in flight has; none after a failure.
        """
        self.acceptor.stop()
        self.context.draining = True
        self.pipeline.drain()
        if not self.pipeline.failed.done():
            await self._drain(drain_timeout)
        self.pipeline.expire_all()
        await self._flush()
        await self.pipeline.stop()

    async def _drain(self, timeout: float) -> None:
        waits = [asyncio.ensure_future(each) for each in (self.pipeline.drained(), self._hurry.wait())]
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _flush(self) -> None:
        """Let the peers take their replies; then close the connections that are left."""
        for connection in tuple(self.acceptor.connections):
            connection.drain()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self.acceptor.empty.wait()
        except TimeoutError:
            for connection in tuple(self.acceptor.connections):
                connection.close()
