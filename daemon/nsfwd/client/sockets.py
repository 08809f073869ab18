"""What both clients do with a socket: write what is due, descriptors with their lines, and see whether it has ended.

Moves bytes without waiting; knows nothing of what they mean, and not who waits or how.
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import Iterable
from itertools import islice

from nsfwd.client.scan_inputs import Passing

CHUNK = 256 * 1024
"""Most bytes received at once."""

_MANY_BUFFERS = 64


class Outgoing:
    """Bytes on their way out of a non-blocking socket."""

    def __init__(self) -> None:
        self._views: deque[memoryview] = deque()

    def __bool__(self) -> bool:
        return bool(self._views)

    def add(self, chunks: Iterable[bytes]) -> None:
        """Append what is to be written."""
        self._views.extend(memoryview(chunk) for chunk in chunks)

    def clear(self) -> None:
        """Forget what the old connection did not take."""
        self._views.clear()

    def send(self, sock: socket.socket) -> None:
        """Write as much as one call takes, nothing if the socket is full.

        Raises:
            OSError: the connection is lost.
        """
        buffers: list[memoryview] = []
        rights: list[tuple[int, int, bytes]] = []
        for view in islice(self._views, _MANY_BUFFERS):
            whole = view.obj
            if isinstance(whole, Passing) and len(view) == len(whole):  # no byte of it has gone out
                if buffers:
                    break
                rights.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, whole.descriptor.to_bytes(4, sys.byteorder)))
            buffers.append(view)
        try:
            sent = sock.sendmsg(buffers, rights)
        except BlockingIOError:
            return
        while self._views and sent >= len(self._views[0]):
            sent -= len(self._views.popleft())
        if sent:
            self._views[0] = self._views[0][sent:]


def passes_descriptors(sock: socket.socket) -> bool:
    """Tell whether descriptors can go along."""
    return sock.family == socket.AF_UNIX


def has_ended(sock: socket.socket) -> bool:
    """Tell whether the daemon has closed an idle connection."""
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
