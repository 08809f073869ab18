"""Opens the sockets to listen on as configured, or takes those inherited from systemd, and merges both.

Every failure is a ``ListenError`` of one clear line. Knows no protocol and accepts nothing.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nsfwd.errors import ListenError
from nsfwd.server.listen_spec import Family, ListenAddress, ListenSpec, by_name, parse

BACKLOG = 1024
"""Connections the kernel holds for us; it lowers this to net.core.somaxconn."""

FIRST_INHERITED = 3
"""First inherited descriptor (sd_listen_fds(3))."""


@dataclass(slots=True)
class Listener:
    """One open socket and how its connections are treated.

    Attributes:
        spec: with the address really bound (a port of 0 is replaced by the one the kernel chose).
        inherited: opened by systemd, which also removes it.
        inode: device and inode of the Unix socket's file that this process made; None when there is none.
    """

    sock: socket.socket
    spec: ListenSpec
    inherited: bool = False
    inode: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.spec.metrics:
            return f"{self.spec.address} (metrics)"
        return f"{self.spec.address} (style {self.spec.style}, lane {self.spec.lane})"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.sock.family == socket.AF_UNIX:
            return True
        address = ipaddress.ip_address(self.sock.getsockname()[0].partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback

    def close(self) -> None:
        """Stop listening; remove the socket's file if it is still ours. Idempotent."""
        self.sock.close()
        if self.inode is not None and _inode(self.spec.address.path) == self.inode:
            Path(self.spec.address.path).unlink(missing_ok=True)
        self.inode = None


def open_listeners(
    texts: Sequence[str], inherited: Sequence[Listener], default: str, *, roots: bool, metrics: Sequence[str] = ()
) -> list[Listener]:
    """Merge inherited sockets with configured ones and open those that are missing.

    Args:
        texts: addresses of the configuration or of flags; their options win over a descriptor's name.
        inherited: sockets passed by the service manager.
        default: where to listen when there is neither.
        roots: whether directories that may be read were named; without them only this machine may ask.
        metrics: where to serve metrics; numbers may be had from other machines in any case.

    Raises:
        ListenError: nothing stays open then.
    """
    served = any(not listener.spec.metrics for listener in inherited)
    specs = [
        *map(parse, texts or ([] if served else [default])),
        *(replace(parse(text), metrics=True) for text in metrics),
    ]
    wanted = {spec.address: spec for spec in specs}
    listeners = [_with_options(listener, wanted) for listener in inherited]
    try:
        for spec in wanted.values():
            listeners.extend(_open(spec))
        for listener in listeners:
            if not roots and not listener.loopback and not listener.spec.metrics:
                raise ListenError(
                    f"{listener.spec.address} is reachable from other machines and no root is set, so that they could "
                    "have any file read; name the allowed directories with --root, or listen on 127.0.0.1"
                )
    except ListenError:
        close_all(listeners)
        raise
    return listeners


def close_all(listeners: Iterable[Listener]) -> None:
    """Close every listener."""
    for listener in listeners:
        listener.close()


def inherited_listeners(environment: MutableMapping[str, str]) -> list[Listener]:
    """Take the sockets that the service manager passed (sd_listen_fds(3)); the variables are removed.

    Raises:
        ListenError: one of them is not a listening stream socket of TCP or Unix; it and those before it are closed.
    """
    count, names = _announced(environment)
    listeners: list[Listener] = []
    try:
        listeners.extend(_inherit(FIRST_INHERITED + index, names[index]) for index in range(count))
    except ListenError:
        close_all(listeners)
        raise
    return listeners


def _announced(environment: MutableMapping[str, str]) -> tuple[int, list[str]]:
    pid, count, names = (environment.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return 0, []
    number = int(count)
    return number, (names.split(":") + [""] * number)[:number]


def _inherit(descriptor: int, name: str) -> Listener:
    what = f"inherited descriptor {descriptor} ({name})"
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(f"{what}: {error.strerror}") from None
    try:
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ListenError(f"{what}: not a listening stream socket (Accept=no)")
        sock.setblocking(False)
        return Listener(sock, by_name(name, _bound(sock)), inherited=True)
    except OSError as error:
        sock.close()
        raise ListenError(f"{what}: {error.strerror}") from None
    except ListenError:
        sock.close()
        raise


def _with_options(listener: Listener, wanted: dict[ListenAddress, ListenSpec]) -> Listener:
    spec = wanted.pop(listener.spec.address, None)
    return listener if spec is None else replace(listener, spec=spec)


def _bound(sock: socket.socket) -> ListenAddress:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return ListenAddress(Family.UNIX, path=os.fsdecode(name))
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return ListenAddress(Family.TCP, host=name[0], port=name[1])
    raise ListenError(f"descriptor {sock.fileno()}: neither TCP nor Unix")


def _open(spec: ListenSpec) -> list[Listener]:
    if spec.address.family is Family.UNIX:
        return [_open_unix(spec)]
    opened: list[Listener] = []
    missing: ListenError | None = None
    for family, host in _resolve(spec.address):
        try:
            opened.append(_open_tcp(spec, family, host))
        except _NoSuchFamily as error:
            # localhost, or every interface, on a machine without IPv6: one of the two addresses is enough.
            missing = error
        except ListenError:
            close_all(opened)
            raise
    if missing and not opened:
        raise missing
    return opened


class _NoSuchFamily(ListenError):
    """The machine does not speak this kind of IP."""


def _resolve(address: ListenAddress) -> list[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"{address}: {error.strerror}") from None
    return list(dict.fromkeys((int(family), str(name[0])) for family, _, _, _, name in found))


def _open_tcp(spec: ListenSpec, family: int, host: str) -> Listener:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _refusal(spec.address, error) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, spec.address.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _refusal(spec.address, error) from None
    sock.setblocking(False)
    return Listener(sock, replace(spec, address=_bound(sock)))


def _open_unix(spec: ListenSpec) -> Listener:
    path = spec.address.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(spec.address)
        # Nobody may connect between bind and chmod, whatever the umask of the caller.
        umask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(umask)
        try:
            Path(path).chmod(spec.mode)
            sock.listen(BACKLOG)
        except OSError:
            Path(path).unlink(missing_ok=True)
            raise
    except OSError as error:
        sock.close()
        raise _refusal(spec.address, error) from None
    except ListenError:
        sock.close()
        raise
    sock.setblocking(False)
    return Listener(sock, spec, inode=_inode(path))


def _remove_stale(address: ListenAddress) -> None:
    """Remove the socket that a daemon which is no more left behind; never one that is answered, nor another file."""
    path = Path(address.path)
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenError(f"{address}: the file there is not a socket; choose another path")
    if os.geteuid() not in (0, status.st_uid):
        raise ListenError(f"{address}: the socket there belongs to another user; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(address.path)
    if answer != errno.ECONNREFUSED:
        raise ListenError(f"{address}: in use by another daemon; stop it or choose another path")
    if _inode(address.path) == (status.st_dev, status.st_ino):
        path.unlink()


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


_REASONS: Mapping[int, str] = {
    errno.EADDRINUSE: "in use by another program; stop it or choose another address with --listen",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EACCES: "not permitted; choose a port above 1023, or a directory this user may write to",
    errno.EPERM: "not permitted",
    errno.ENOENT: "the directory does not exist",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.EROFS: "the file system is read-only",
}


def _refusal(address: ListenAddress, error: OSError) -> ListenError:
    kind = _NoSuchFamily if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) else ListenError
    return kind(f"cannot listen on {address}: {_REASONS.get(error.errno or 0, error.strerror)}")
