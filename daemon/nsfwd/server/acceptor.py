"""Takes connections from the listeners and keeps their number within the limit. Knows no request."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import Sequence
from functools import partial
from math import inf
from operator import itemgetter
from typing import Any

from nsfwd import logs
from nsfwd.budgets import own_descriptors
from nsfwd.errors import CODES, ListenError
from nsfwd.protocol.jsonio import dumps
from nsfwd.server.connection import Connection
from nsfwd.server.context import ServerContext
from nsfwd.server.listen_spec import ListenSpec
from nsfwd.server.listeners import Listener, close_all
from nsfwd.server.peer_credentials import Peer, identify
from nsfwd.server.quotas import NOT_WELCOME, QuotaGroup

BURST = 64
"""Connections taken from one listener before others get their turn."""

RETRY = 1.0
"""Seconds to leave a listener alone when this process has no descriptor or memory for another connection."""

IDLE = 1.0
"""Seconds without anything under way after which a connection may be closed to make room for another peer."""

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

    def __init__(self, listeners: Sequence[Listener], service: ServerContext) -> None:
        self._listeners = list(listeners)
        self._service = service
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
        try:
            peer = identify(sock)
        except OSError:
            sock.close()
            return
        if not self._has_room(peer):
            self._refuse(sock)
            return
        group = self._service.quotas.find(peer)
        if group.full_for(peer):
            self._deny(sock, peer, group, listener)
            return
        self.serve(sock, listener.spec, peer)

    def serve(self, sock: socket.socket, spec: ListenSpec, peer: Peer) -> None:
        """Serve a peer that may connect; its socket is closed in the end."""
        connection = Connection(sock, spec, peer, self._service, on_closed=partial(self._closed, spec))
        self.connections.add(connection)
        self.empty.clear()
        row, about = self._row(connection.quota.group), _about(peer, connection.quota.group, spec)
        _log.log(self._level, "%s connected to %s%s", peer.name, spec.address, row, extra=about)
        connection.step()

    def _has_room(self, peer: Peer) -> bool:
        """Tell whether there is a place for this peer, or make one at the cost of the peer that has most."""
        budget = self._service.budgets.connections
        if budget.used < budget.limit + (budget.reserve if peer.admin else 0):
            return True
        largest = budget.largest()
        if not peer.admin and budget.held(peer.guard) + 1 >= budget.held(largest):
            return False
        idle = [
            (since, connection)
            for connection in self.connections
            if connection.peer.guard == largest and (since := connection.idle_since()) is not None
        ]
        since, longest = min(idle, key=itemgetter(0), default=(inf, None))
        if longest is None or self._service.loop.time() - since < IDLE:
            return False
        self._service.metrics.connections_idle_total += 1
        longest.close("idle, and another peer needed its place")
        return True

    def _closed(self, spec: ListenSpec, connection: Connection) -> None:
        peer, quota = connection.peer, connection.quota
        counts: dict[str, Any] = {
            "seconds": round(self._service.loop.time() - connection.born, 3),
            "requests": quota.requests,
            "limited": quota.limited,
            "bytes_in": connection.bytes_in,
            "bytes_out": connection.bytes_out,
        }
        _log.log(
            self._level,
            "%s left %s%s: %s; %s",
            *(peer.name, spec.address, self._row(quota.group), connection.why),
            ", ".join(f"{name} {count}" for name, count in counts.items()),
            extra=_about(peer, quota.group, spec, reason=connection.why, **counts),
        )
        self.connections.discard(connection)
        if not self.connections:
            self.empty.set()

    @property
    def _level(self) -> int:
        """Log level of connections: info where there is a table of peers; else health checks would fill the log."""
        return logging.INFO if self._service.settings.peers else logging.DEBUG

    def _row(self, group: QuotaGroup) -> str:
        return f", peers {group.name}" if self._service.settings.peers else ""

    def _deny(self, sock: socket.socket, peer: Peer, group: QuotaGroup, listener: Listener) -> None:
        """Close a connection that its row of the table of peers does not allow."""
        self._service.metrics.connections_denied_total += 1
        group.counts.denied += 1
        most = group.row.connections
        why = f"more than {most} connections of its peers" if most else NOT_WELCOME
        _log.warning(
            "%s refused at %s%s: %s",
            *(peer.name, listener.spec.address, self._row(group), why),
            extra=_about(peer, group, listener.spec, burst=1, reason=why),
        )
        _say_last(sock, _line("busy", why, retry_after=1.0) if most else _line("not_permitted", why))

    def _refuse(self, sock: socket.socket) -> None:
        self._service.metrics.connections_refused_total += 1
        self._service.budgets.connections.refused += 1
        full = "%d connections are open, the most allowed; further ones are refused"
        _log.warning(full, len(self.connections), extra=logs.fields(burst=1))
        _say_last(sock, BUSY_LINE)


def _say_last(sock: socket.socket, line: bytes) -> None:
    with sock:
        sock.setblocking(False)
        try:
            sock.send(line)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it would not have listened


def _line(code: str, message: str, retry_after: float | None = None) -> bytes:
    """Return the last line of a connection that is closed at once: JSON in every style, for nothing was asked yet."""
    row = CODES[code]
    error = {"code": code, "message": message, "retry": row.retry}
    reply = {"status": row.status.value, "error": error}
    return dumps(reply if retry_after is None else {**reply, "retry_after": retry_after}) + b"\n"


BUSY_LINE = _line("busy", "too many connections", retry_after=1.0)
"""Last line of a connection over ``max_connections``."""


def _about(
    peer: Peer, group: QuotaGroup, spec: ListenSpec, burst: int = logs.BURST, **more: object
) -> dict[str, object]:
    """The fields of an event about a peer."""
    return logs.fields(
        kind=group.name,
        burst=burst,
        peer_uid=peer.uid,
        peer_pid=peer.pid,
        peer_address=peer.address,
        peers=group.name,
        listener=spec.address,
        **more,
    )


def check_descriptors(decoders: int) -> None:
    """See that this process may open enough files, and raise its limit as far as it may be.

    Args:
        decoders: how many there are going to be.

    Raises:
        ListenError: there are too few descriptors for the daemon itself.
    """
    allowed, own = raise_descriptor_limit(), own_descriptors(decoders)
    if allowed <= own:
        raise ListenError(
            f"this process may open {allowed} files at once, and may need {own} besides its connections; "
            "raise the limit (LimitNOFILE= of the unit, ulimit -n)"
        )


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open files to the hard one (systemd's default leaves 1024) and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
