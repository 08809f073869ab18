"""The link: one message a packet, with descriptors, between the server process and one child.

An AF_UNIX SOCK_SEQPACKET pair: the kernel keeps message borders, so there is no framing to get wrong, and end of file
says that the other process is gone, however it went. This module knows packets; what is in them is
``child_messages``'s.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

KIB = 1024

MAX_PACKET = 192 * KIB
"""Longest packet: fits the default socket buffer of any Linux (208 KiB), and holds 40 of the longest paths."""

MAX_DESCRIPTORS = 64
"""Most descriptors a packet; the kernel's own limit is 253."""

_BUFFER = 1024 * KIB
"""Asked of the kernel for each direction, so that senders seldom wait; it gives less without complaint."""

_ANCILLARY = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


class Link:
    """One end of a link, blocking unless told otherwise.

    Args:
        end: the socket; the link owns it from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = bytearray(MAX_PACKET)
        self._view = memoryview(self._buffer)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, _BUFFER)

    @classmethod
    def from_descriptor(cls, fd: int) -> Link:
        """Take over an inherited descriptor; it will not be inherited any further."""
        os.set_inheritable(fd, False)
        return cls(socket.socket(fileno=fd))

    @classmethod
    def pair(cls) -> tuple[Link, Link]:
        """Make both ends of a new link."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        """Give the descriptor, -1 once closed."""
        return self._socket.fileno()

    def set_blocking(self, blocking: bool) -> None:
        """Choose whether ``send`` and ``receive`` wait or raise BlockingIOError."""
        self._socket.setblocking(blocking)

    def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one message; the descriptors are copied to the peer, the caller keeps its own.

        Raises:
            ValueError: the packet is empty or too long, or has too many descriptors; a defect of the caller.
            BlockingIOError: the link is full (only when not blocking); try again when it is writable.
            EOFError: the peer is gone.
        """
        if not 0 < len(packet) <= MAX_PACKET:
            raise ValueError(f"a packet of {len(packet)} bytes; 1 to {MAX_PACKET} can be sent")
        if len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"{len(descriptors)} descriptors in a packet; {MAX_DESCRIPTORS} at most")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        while True:
            try:
                # Always sendmsg: a sealed decoder may make no other call that sends.
                self._socket.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
                return
            except ConnectionResetError:
                continue  # told once, see receive; the next call tells whether the peer is really gone
            except ConnectionError:
                raise EOFError("the other process is gone") from None

    def receive(self) -> tuple[bytes, list[int]]:
        """Receive one message and the descriptors that came with it, which the caller closes.

        Where this process may not have as many it gets the first of them.

        Raises:
            BlockingIOError: nothing is there (only when not blocking).
            EOFError: the peer is gone, or sends no more; everything it sent has been received.
        """
        while True:
            try:
                size, ancillary, flags, _ = self._socket.recvmsg_into(
                    [self._buffer], _ANCILLARY, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                # A peer that ended with unread packets is reported once, ahead of what it sent: that is still there.
                continue
            descriptors = _descriptors(ancillary)
            if flags & socket.MSG_TRUNC:
                for fd in descriptors:
                    os.close(fd)
                raise EOFError("the other process broke the link's rules")
            if size == 0:
                raise EOFError("the other process is gone")
            return bytes(self._view[:size]), descriptors

    def receive_packet(self) -> bytes:
        """Receive one message from a peer that has no descriptors to give; the kernel drops any that it passes.

        Raises:
            BlockingIOError, EOFError: as ``receive``.
        """
        while True:
            try:
                size = self._socket.recv_into(self._buffer, 0, socket.MSG_TRUNC)
            except ConnectionResetError:
                continue  # told once, see receive
            if not 0 < size <= MAX_PACKET:
                raise EOFError("the other process is gone, or broke the link's rules")
            return bytes(self._view[:size])

    def end(self) -> None:
        """Send no more: the peer meets end of file behind the last packet, and may still answer."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed or gone already: the peer has met end of file

    def peer_pid(self) -> int:
        """Tell which process made the link: for a child, the server's."""
        credentials = array.array("i")
        credentials.frombytes(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 3 * credentials.itemsize))
        return credentials[0]

    def close(self) -> None:
        """Close this end and let its buffer go, whoever still knows the link; idempotent."""
        self._socket.close()
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()
