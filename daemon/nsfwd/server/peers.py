"""Who is at the other end, and what that allows.

Over TCP nobody is known. Over a Unix socket the kernel tells uid and pid of the process that connected; root and the
daemon's own user may use the operations for admins. Knows no protocol beyond the names of operations.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

from nsfwd.protocol.messages import Lane
from nsfwd.protocol.wire import OPEN_OPERATIONS

_UCRED = struct.Struct("3i")
"""``struct ucred`` of Linux: pid, uid, gid (unix(7))."""

ADMIN_OPERATIONS: frozenset[str] = frozenset({"reload", "clear_poison"})
"""What only an admin may ask."""

_RANK = {lane: rank for rank, lane in enumerate(Lane)}


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a connection.

    Attributes:
        name: for the log: an address, or pid and uid.
        guard: whom a repeated complaint in the log is about: the host without its port, or the uid.
        admin: root or the daemon's own user, over the Unix socket.
        pid: of the process that connected over a Unix socket.
    """

    name: str
    guard: str
    admin: bool
    pid: int | None = None

    @property
    def circles(self) -> tuple[str, int] | tuple[str]:
        """Whom it belongs to, the widest first: users or hosts take turns, and processes, not their connections."""
        return (self.guard,) if self.pid is None else (self.guard, self.pid)

    @property
    def operations(self) -> frozenset[str]:
        """The operations open to this peer."""
        return OPEN_OPERATIONS | ADMIN_OPERATIONS if self.admin else OPEN_OPERATIONS


def identify(sock: socket.socket) -> Peer:
    """Find out who connected.

    Raises:
        OSError: the peer is gone already.
    """
    if sock.family == socket.AF_UNIX:
        pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Peer(f"unix pid {pid} uid {uid}", f"uid {uid}", uid in (0, os.geteuid()), pid)
    host, port = sock.getpeername()[:2]
    return Peer(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", host, admin=False)


def lower_lane(own: Lane, asked: Lane | None) -> Lane:
    """Return the lane of a request: what it asked for, but never better than its connection's."""
    return own if asked is None else max(own, asked, key=_RANK.__getitem__)
