"""One accepted socket, read and written without blocking; TCP and Unix alike.

Knows bytes, and nothing of lines, requests or limits. Unix sockets are read with recvmsg, so that descriptors a peer
passes are received and never leak. OSError ends here: the owner of the stream learns only that the peer is lost.
"""

from __future__ import annotations

import array
import asyncio
import select
import socket
from collections.abc import Sequence
from typing import Protocol

from nsfwd.quantities import KIB

READ_SIZE = 64 * KIB
"""Bytes taken at a time: some hundred requests, and not so many that one peer keeps the others waiting."""

_DESCRIPTOR_SIZE = array.array("i").itemsize


class StreamOwner(Protocol):
    """The owner of a stream, which calls these methods when something happens."""

    def portion(self) -> int:
        """How many bytes to receive at most."""

    def wanted(self) -> int:
        """How many descriptors to receive at most; the kernel closes those beyond."""

    def passed(self, descriptors: Sequence[int]) -> None:
        """Take descriptors that came with the next bytes, and close them in the end."""

    def deprived(self) -> None:
        """Learn that there were more descriptors than wanted, or than this process may have open."""

    def received(self, data: bytes) -> None:
        """Take bytes of the peer."""

    def ended(self) -> None:
        """Learn that the peer sends no more; it may still read."""

    def relieved(self) -> None:
        """Learn that the peer took some of the bytes that were waiting for it."""

    def lost(self) -> None:
        """Learn that the peer is gone; nothing can be sent."""


class SocketStream:
    """The edge between a socket and its owner.

    Attributes:
        reading: whether bytes are taken from the kernel. Not reading is the back-pressure.
        progress: loop time of the last byte that the peer took, or of the moment since which bytes wait for it.
    """

    __slots__ = ("_buffer", "_fd", "_looked", "_loop", "_owner", "_receive", "_sock", "progress", "reading")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, owner: StreamOwner) -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            self._receive = self._receive_unix
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._receive = self._receive_tcp
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._owner = owner
        self._buffer = bytearray()
        self.reading = False
        self.progress = loop.time()
        self._looked = 0.0

    @property
    def pending(self) -> int:
        """Bytes that the peer has not taken yet."""
        return len(self._buffer)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._fd < 0

    def read(self, wanted: bool) -> None:
        """Start or stop taking bytes from the kernel."""
        if wanted is self.reading or self.closed:
            return
        self.reading = wanted
        if wanted:
            self._loop.add_reader(self._fd, self._readable)
        else:
            self._loop.remove_reader(self._fd)

    def write(self, data: bytes) -> None:
        """Send as much as the kernel takes now, and the rest later."""
        if self.closed:
            return
        if self._buffer:
            self._buffer += data
            return
        sent = self._send(data)
        if 0 <= sent < len(data):
            self._buffer += memoryview(data)[sent:]
            self.progress = self._loop.time()
            self._loop.add_writer(self._fd, self._writable)

    def finish(self) -> None:
        """Say that nothing more will be sent (FIN)."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer is gone already, which reading or closing will show

    def hung_up(self) -> bool:
        """Tell whether the peer closed both directions. Over TCP this shows only when something is sent to it."""
        return bool(self._poll(0) & (select.POLLHUP | select.POLLERR))

    def lost_unheard(self, since: float) -> bool:
        """Tell whether the peer hung up and no event will ever say so; the system is asked once for each ``since``.

        Where an error comes up on a socket (the peer had closed when a reply was sent) the event loop calls the reader
        one last time. This call gets the bytes that still waited, and no event reports the end behind them.
        """
        if self._looked == since:
            return False
        self._looked = since
        return self.hung_up()

    def readable(self) -> bool:
        """Tell whether bytes of the peer, or its end, wait in the kernel."""
        return bool(self._poll(select.POLLIN))

    def _poll(self, wanted: int) -> int:
        poll = select.poll()
        poll.register(self._fd, wanted)
        return sum(event for _, event in poll.poll(0))

    def close(self) -> None:
        """Drop the bytes that wait and close the socket. Idempotent."""
        if self.closed:
            return
        self.read(False)
        if self._buffer:
            self._loop.remove_writer(self._fd)
            self._buffer.clear()
        self._fd = -1
        self._sock.close()

    def _readable(self) -> None:
        try:
            data = self._receive()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._owner.lost()
            return
        if data:
            self._owner.received(data)
        else:
            self.read(False)  # an ended socket stays readable for ever
            self._owner.ended()

    def _receive_tcp(self) -> bytes:
        return self._sock.recv(self._owner.portion())

    def _receive_unix(self) -> bytes:
        owner = self._owner
        wanted = owner.wanted()
        room = socket.CMSG_LEN(wanted * _DESCRIPTOR_SIZE) if wanted else 0
        data, ancillary, flags, _ = self._sock.recvmsg(owner.portion(), room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                owner.passed(array.array("i", content[: len(content) // _DESCRIPTOR_SIZE * _DESCRIPTOR_SIZE]))
        if flags & socket.MSG_CTRUNC:
            owner.deprived()
        return data

    def _writable(self) -> None:
        sent = self._send(self._buffer)
        if sent <= 0:
            return
        del self._buffer[:sent]
        self.progress = self._loop.time()
        if not self._buffer:
            self._loop.remove_writer(self._fd)
        self._owner.relieved()

    def _send(self, data: bytes | bytearray) -> int:
        """Return how many bytes the kernel took; -1 when the peer is lost, which the owner knows by then."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._owner.lost()
            return -1
