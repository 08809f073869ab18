"""A non-blocking socket under asyncio: reading when somebody wants to, writing as fast as the peer takes it.

In place of asyncio's own streams, which pass no descriptors. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress

from nsfwd.client.sockets import CHUNK, Outgoing, has_ended, passes_descriptors


class AsyncStream:
    """One connection. To be made, used and closed inside one event loop."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._outgoing = Outgoing()
        self._written = asyncio.Event()
        self._written.set()
        self._readable = asyncio.Event()
        self._due = False

    @property
    def passes_descriptors(self) -> bool:
        """Whether descriptors can go along."""
        return passes_descriptors(self._sock)

    @property
    def ended(self) -> bool:
        """Whether the peer has closed it, as far as can be seen while nothing is due."""
        return has_ended(self._sock)

    async def receive(self, seconds: float) -> bytes:
        """Return what comes next, nothing at the end of the stream.

        Raises:
            TimeoutError: nothing came in time.
            OSError: the connection is lost.
        """
        self._readable.clear()
        self._loop.add_reader(self._sock, self._readable.set)
        try:
            async with asyncio.timeout(seconds):
                await self._readable.wait()
        finally:
            if not self._closed:
                self._loop.remove_reader(self._sock)
        try:
            return self._sock.recv(CHUNK)
        except BlockingIOError:
            raise TimeoutError from None

    @property
    def stuck(self) -> bool:
        """Whether the peer takes no more for now; ``drain`` waits for it."""
        return not self._written.is_set()

    def write(self, chunks: Iterable[bytes]) -> None:
        """Write this in the loop's next turn, with all that comes until then, or as soon as the peer takes it."""
        self._outgoing.add(chunks)
        if self._outgoing and not self._due and self._written.is_set():
            self._due = True
            self._loop.call_soon(self._send_due)

    def _send_due(self) -> None:
        self._due = False
        if self._outgoing and self._written.is_set() and not self._closed:
            self._send()

    async def drain(self) -> None:
        """Wait until everything is written, or never will be."""
        await self._written.wait()

    def close(self) -> None:
        """Close it; calls that wait in ``drain`` return. Idempotent."""
        if not self._closed:
            self._loop.remove_reader(self._sock)
            self._stop_writing()
            self._sock.close()

    @property
    def _closed(self) -> bool:
        return self._sock.fileno() < 0

    def _send(self) -> None:
        try:
            self._outgoing.send(self._sock)
        except OSError:
            self._stop_writing()
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # the reader sees the end, and looks for the daemon again
            return
        if not self._outgoing:
            self._stop_writing()
        elif self._written.is_set():
            self._written.clear()
            self._loop.add_writer(self._sock, self._send)

    def _stop_writing(self) -> None:
        self._outgoing.clear()
        if not self._written.is_set():
            self._loop.remove_writer(self._sock)
            self._written.set()
