"""The table of peers: rows of users, groups and networks with their permissions. The first matching row wins.

Names of users and groups are looked up when the settings are loaded, so that a wrong one is an error at once. Knows no
socket.
"""

from __future__ import annotations

import grp
import ipaddress
import math
import os
import pwd
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec

OTHERS = "others"
"""Name of the row for all other peers; a row without limits ends the table where the operator wrote none."""

ROOTS_BYTES = 64 * 1024
"""Most bytes of all roots of the daemon, or of a row: they travel to child processes in one message."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _about(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class PeerRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One row ``[[peers]]``. A peer matches by any of ``uid``, ``gid``, ``address``. A missing limit is no limit."""

    name: Annotated[str, _about("Name of the row in log, stats and metrics.")]
    uid: Annotated[
        int | str | tuple[int | str, ...], _about("User, or list of users, on Unix sockets: names or numbers.")
    ] = ()
    gid: Annotated[
        int | str | tuple[int | str, ...],
        _about("Group, or list of groups, on Unix sockets: names or numbers; supplementary groups count."),
    ] = ()
    address: Annotated[
        str | tuple[str, ...], _about("Address or network, or list of them, over TCP, such as 192.0.2.0/24.")
    ] = ()
    lane: Annotated[
        Literal["interactive", "normal", "background"] | None,
        _about("Highest lane of their requests; the lower of this and the listener's lane applies."),
    ] = None
    roots: Annotated[
        tuple[str, ...], _about("Directories below which they may scan, each below one of the daemon's roots.")
    ] = ()
    in_flight: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        _about("Most images in flight; further requests stay unread."),
    ] = None
    rate: Annotated[
        Annotated[float, msgspec.Meta(gt=0)] | None,
        _about("Most images per second; beyond it a single image is refused as busy, and a series is slowed down."),
    ] = None
    connections: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        _about("Most open connections; further ones are refused. 0: no requests at all."),
    ] = None

    @property
    def for_all(self) -> bool:
        """Whether the row has no user, group or address, and so matches every peer."""
        return not (self.uid != () or self.gid != () or self.address)

    def uids(self) -> frozenset[int]:
        """The users by number.

        Raises:
            ValueError: this machine has no such user.
        """
        return _numbers(self.uid, "user", lambda name: pwd.getpwnam(name).pw_uid)

    def gids(self) -> frozenset[int]:
        """The groups by number.

        Raises:
            ValueError: this machine has no such group.
        """
        return _numbers(self.gid, "group", lambda name: grp.getgrnam(name).gr_gid)

    def networks(self) -> tuple[Network, ...]:
        """The networks; an address is a network of one.

        Raises:
            ValueError: it is neither, or has bits set beyond its length.
        """
        texts = (self.address,) if isinstance(self.address, str) else self.address
        return tuple(_network(text) for text in texts)


def read_peers(value: Any) -> tuple[PeerRow, ...]:
    """Read and check the whole table.

    Raises:
        ValueError: a row is invalid; the message names it.
    """
    if not isinstance(value, list | tuple):
        raise ValueError("expected rows: [[peers]]")
    rows = tuple(_read(number, one) for number, one in enumerate(value, 1))
    for number, row in enumerate(rows, 1):
        _check(f"row {number} ({row.name})", row, last=number == len(rows))
        if row.name in {other.name for other in rows[: number - 1]}:
            raise ValueError(f"row {number}: the name {row.name} is used twice")
    return rows


def check_roots(rows: Sequence[PeerRow], roots: Sequence[str]) -> None:
    """Refuse a row whose roots do not narrow the daemon's, and more roots than fit a message to a child process.

    Raises:
        ValueError: names the row.
    """
    for where, paths in (("roots", roots), *((f"row {row.name}: roots", row.roots) for row in rows)):
        if sum(len(os.fsencode(path)) for path in paths) > ROOTS_BYTES:
            raise ValueError(f"{where}: the paths have more than {ROOTS_BYTES // 1024} KiB together; name fewer")
    for row in rows:
        for root in row.roots:
            if not any(
                _below(root, other) or _below(os.path.realpath(root), os.path.realpath(other)) for other in roots
            ):
                raise ValueError(f"row {row.name}: {root} is below none of the daemon's roots ({', '.join(roots)})")


def _read(number: int, value: Any) -> PeerRow:
    try:
        return msgspec.convert(value, PeerRow)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`", "").replace(" - at $.", " at ")
        raise ValueError(f"row {number}: {reason[:1].lower()}{reason[1:]}") from None


def _check(where: str, row: PeerRow, *, last: bool) -> None:
    try:
        if not _NAME.fullmatch(row.name):
            raise ValueError("a name must be of letters, digits, dots, dashes and underscores")
        if row.for_all and row.name != OTHERS:
            raise ValueError("it needs a uid, gid or address; only the row others, for all other peers, has none")
        if row.name == OTHERS and not (row.for_all and last):
            raise ValueError("this row is for all other peers: it must be the last, without uid, gid and address")
        if row.rate is not None and not math.isfinite(row.rate):
            raise ValueError("the rate must be finite")
        for root in row.roots:
            if not root.startswith("/") or "\0" in root:
                raise ValueError(f"{root!r}: a root must be an absolute path")
        row.uids(), row.gids(), row.networks()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _numbers(words: int | str | tuple[int | str, ...], kind: str, find: Callable[[str], int]) -> frozenset[int]:
    return frozenset(_number(word, kind, find) for word in (words if isinstance(words, tuple) else (words,)))


def _number(word: int | str, kind: str, find: Callable[[str], int]) -> int:
    if isinstance(word, str) and word.isascii() and word.isdigit():
        word = int(word)
    if isinstance(word, int):
        if not 0 <= word < 2**32 - 1:
            raise ValueError(f"invalid number of a {kind}: {word}")
        return word
    try:
        return find(word)
    except KeyError:
        raise ValueError(f"unknown {kind} {word!r}") from None


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"address: {error}") from None


def _below(path: str, root: str) -> bool:
    path, root = os.path.normpath(path), os.path.normpath(root)
    return path == root or path.startswith(root.rstrip("/") + "/")
