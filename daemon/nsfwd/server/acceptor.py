"""Takes connections from the listeners and keeps their number within the limit. Knows no request."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import Sequence
from functools import partial

from nsfwd.server.connection import Connection
from nsfwd.server.listeners import Listener, close_all
from nsfwd.server.peers import identify
from nsfwd.server.service import Service

BURST = 64
"""Connections taken from one listener before others get their turn."""

RETRY = 1.0
"""Seconds to leave a listener alone when this process has no descriptor or memory for another connection."""

SPARE_DESCRIPTORS = 256
"""Descriptors kept back for listeners, children and bodies."""

BUSY_LINE = (
    b'{"status": "refused", "error": {"code": "busy", "message": "too many connections", "retry": true},'
    b' "retry_after": 1.0}\n'
)
"""Said to a connection over the limit: JSON in every style, for nothing is known of the peer yet."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = logging.getLogger("nsfwd.server")


class Acceptor:
    """The open listeners and the connections that came through them.

    Args:
        listeners: closed here.
        service: what all connections share.

    Attributes:
        connections: those that are open.
        empty: set while there are none.
    """

    def __init__(self, listeners: Sequence[Listener], service: Service) -> None:
        self._listeners = list(listeners)
        self._service = service
        room = max(1, raise_descriptor_limit() - SPARE_DESCRIPTORS)
        self._room = room
        self.connections: set[Connection] = set()
        self.empty = asyncio.Event()
        self.empty.set()

    def start(self) -> None:
        """Accept connections on every listener."""
        for listener in self._listeners:
            self._listen(listener)

    def stop(self) -> None:
        """Close the listeners; connections live on. Idempotent."""
        for listener in self._listeners:
            if listener.sock.fileno() >= 0:
                self._service.loop.remove_reader(listener.sock.fileno())
        close_all(self._listeners)

    def _listen(self, listener: Listener) -> None:
        if listener.sock.fileno() >= 0:
            self._service.loop.add_reader(listener.sock.fileno(), partial(self._accept, listener))

    def _accept(self, listener: Listener) -> None:
        for _ in range(BURST):
            try:
                sock, _address = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    _log.error("cannot accept connections: %s; trying again in %g s", error.strerror, RETRY)
                    self._service.loop.remove_reader(listener.sock.fileno())
                    self._service.loop.call_later(RETRY, self._listen, listener)
                    return
                continue  # that one peer went away before it was accepted
            self._welcome(sock, listener)

    def _welcome(self, sock: socket.socket, listener: Listener) -> None:
        if len(self.connections) >= min(self._service.settings.max_connections, self._room):
            self._refuse(sock)
            return
        try:
            peer = identify(sock)
        except OSError:
            sock.close()
            return
        connection = Connection(sock, listener.spec, peer, self._service, on_closed=self._closed)
        self.connections.add(connection)
        self.empty.clear()
        connection.start()

    def _closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self.empty.set()

    def _refuse(self, sock: socket.socket) -> None:
        metrics = self._service.metrics
        metrics.connections_refused_total += 1
        if self._service.complain_once("max_connections"):
            _log.warning("%d connections are open, the most allowed; further ones are refused", len(self.connections))
        with sock:
            sock.setblocking(False)
            try:
                sock.send(BUSY_LINE)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it would not have listened


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open files to the hard one (systemd's default leaves 1024) and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
