"""Where the daemon may be, and opening a socket to it.

An address is ``tcp:HOST:PORT``, ``unix:/path``, or short ``HOST:PORT`` or ``/path``. Where none is given, the usual
places are tried in order; a failure names all that were tried and why each failed.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nsfwd.errors import AddressError, DaemonUnreachable
from nsfwd.protocol.limits import DEFAULT_PORT

VARIABLE = "NSFWD_CONNECT"
SYSTEM_SOCKET = "/run/nsfwd/nsfwd.sock"
RUN_SOCKET = Path(".run/nsfwd.sock")
CONNECT_SECONDS = 5.0
"""Enough for any machine that answers at all."""

_SEVERAL = re.compile(",(?=tcp:|unix:)")
"""A comma between two addresses; one inside the path of a socket is none."""


@dataclass(frozen=True, slots=True)
class Address:
    """One place to connect to: ``path`` of a Unix socket, or else ``host`` and ``port``."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


def parse(text: str) -> Address:
    """Read an address as a person writes it.

    Raises:
        AddressError: it is none; the caller's fault.
    """
    if text.startswith("unix:") and len(text) > len("unix:"):
        return Address(path=text.removeprefix("unix:"))
    if "/" in text:
        return Address(path=text)
    host, colon, port = text.removeprefix("tcp:").rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise AddressError(f"invalid address {text!r}; write tcp:HOST:PORT or unix:/path")
    return Address(host=host or "127.0.0.1", port=int(port))


def candidates(chosen: str | Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> list[Address]:
    """Return where to look for the daemon, best first.

    An address that is given (by argument or ``$NSFWD_CONNECT``) means that daemon and no other; several, in a sequence
    or apart by commas (``tcp:a:1235,tcp:b:1235``), are tried in their order. Else: the system's
    socket; the user's in ``$XDG_RUNTIME_DIR``; the one of ``make run`` in the working directory, if it belongs to this
    user or root (a stranger's directory must not bring its own verdicts); port 1235 of this machine.
    """
    environ = os.environ if environ is None else environ
    named = chosen or environ.get(VARIABLE)
    if named:
        names = _SEVERAL.split(named) if isinstance(named, str) else named
        return [parse(name) for name in names]
    found = [Address(path=SYSTEM_SOCKET)]
    if environ.get("XDG_RUNTIME_DIR"):
        found.append(Address(path=str(Path(environ["XDG_RUNTIME_DIR"]) / "nsfwd.sock")))
    if _is_ours(RUN_SOCKET):
        found.append(Address(path=str(RUN_SOCKET)))
    return [*found, Address(host="127.0.0.1", port=DEFAULT_PORT)]


def _is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid in (os.geteuid(), 0)
    except OSError:
        return False


def connect(addresses: Iterable[Address]) -> tuple[socket.socket, Address]:
    """Open the first that answers.

    Raises:
        DaemonUnreachable: none did; the message names each and its reason. A retry helps once a daemon runs.
    """
    tried: list[str] = []
    for address in addresses:
        try:
            return open_socket(address), address
        except OSError as error:
            reason = error.strerror or str(error)
            tried.append(f"{address} ({reason})")
    raise DaemonUnreachable(f"no daemon answered; tried {', '.join(tried)}")


def open_socket(address: Address) -> socket.socket:
    """Return a connected socket that notices when the other machine is gone.

    Raises:
        OSError: it cannot be connected.
    """
    if not address.path:
        sock = socket.create_connection((address.host, address.port), CONNECT_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT_SECONDS)
        sock.connect(address.path)
    except BaseException:
        sock.close()
        raise
    return sock
