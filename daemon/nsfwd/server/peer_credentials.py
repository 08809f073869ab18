"""Identifies the peer of a connection, and its operations.

Over TCP a peer is known by its address alone. Over a Unix socket the kernel reports the process that connected, its
user and groups; root and the daemon's own user may use the operations for admins. Knows no protocol beyond the names
of operations.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from dataclasses import dataclass

from nsfwd.protocol.messages import Lane
from nsfwd.protocol.wire import OPEN_OPERATIONS

_UCRED = struct.Struct("i2I")
"""``struct ucred`` of Linux: pid, uid, gid (unix(7)); user ids of directory services may need all 32 bits."""

_SO_PEERGROUPS = 59
"""Socket option: supplementary groups of the peer (Linux 4.13), for which Python has no name."""

HOST_NETWORK = 64
"""Bits that addresses of IPv6 have in common where one host may have all of them (RFC 4291)."""

_GROUPS_BYTES = 1024
"""Room for 256 groups; of users in more groups only the primary one counts."""

ADMIN_OPERATIONS: frozenset[str] = frozenset({"reload", "clear_poison"})
"""Operations open to admins only."""

_RANK = {lane: rank for rank, lane in enumerate(Lane)}


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a connection.

    Attributes:
        name: for the log: an address, or pid and uid.
        guard: the owner of its shares, and the subject of warnings in the log: the uid, or the host without its
            port. Of IPv6 it is the network of 64 bits, for a single host may take any address of it.
        admin: root or the daemon's own user, over the Unix socket.
        pid, uid, gids: of the process that connected over a Unix socket.
        address: where it connected from over TCP.
    """

    name: str
    guard: str
    admin: bool
    pid: int | None = None
    uid: int | None = None
    gids: frozenset[int] = frozenset()
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None

    @property
    def flow(self) -> tuple[str, int] | tuple[str]:
        """Whom it belongs to, the widest first: users or hosts take turns, and processes, not their connections."""
        return (self.guard,) if self.pid is None else (self.guard, self.pid)

    @property
    def operations(self) -> frozenset[str]:
        """The operations open to this peer."""
        return OPEN_OPERATIONS | ADMIN_OPERATIONS if self.admin else OPEN_OPERATIONS


def identify(sock: socket.socket) -> Peer:
    """Identify the peer of an accepted socket.

    Raises:
        OSError: the peer is gone already.
    """
    if sock.family == socket.AF_UNIX:
        pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        name, admin = f"unix pid {pid} uid {uid}", uid in (0, os.geteuid())
        return Peer(name, f"uid {uid}", admin, pid=pid, uid=uid, gids=_groups(sock) | {gid})
    host, port = sock.getpeername()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:  # it came by IPv4, to a listener for both kinds
        address, host = mapped, str(mapped)
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Peer(name, host if address.version == 4 else str(_network(address)), admin=False, address=address)


def _network(address: ipaddress.IPv6Address) -> ipaddress.IPv6Network:
    return ipaddress.IPv6Network((int(address), HOST_NETWORK), strict=False)


def _groups(sock: socket.socket) -> frozenset[int]:
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return frozenset()
    return frozenset(group for (group,) in struct.iter_unpack("I", found))


def lower_lane(own: Lane, asked: Lane | None) -> Lane:
    """Return the lower of a lane and another that is asked for or allowed, which may be none."""
    return own if asked is None else max(own, asked, key=_RANK.__getitem__)
