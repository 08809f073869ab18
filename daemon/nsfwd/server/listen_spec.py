"""Parses ``--listen``: address, style, lane and mode of one listener.

Pure: opens nothing and resolves nothing; ``listeners`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from nsfwd.errors import ListenError
from nsfwd.protocol.messages import Lane, Style

UNIX_PATH_BYTES = 107
"""Longest path of a Unix socket: ``sun_path`` of 108 bytes less the closing NUL (unix(7))."""

UNIX_MODE = 0o660
"""Owner and group: a peer that may connect can have the daemon read any file below the roots."""


class Family(StrEnum):
    """The two kinds of address."""

    TCP = "tcp"
    UNIX = "unix"


_Word = TypeVar("_Word", Style, Lane)

_STYLES = {Family.TCP: Style.SESSION, Family.UNIX: Style.PLAIN}


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: ``host`` and ``port`` of tcp (an empty host is every interface), or ``path`` of unix."""

    family: Family
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.family is Family.UNIX:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ListenSpec:
    """One listener as the operator asked for it.

    Attributes:
        lane: the lane of its connections; a request may lower it, never raise it. People at a ``session`` come first.
        mode: permissions of a Unix socket.
        colour: text sessions start in colour.
        metrics: it serves metrics over HTTP, and no requests; style and lane mean nothing then.
    """

    address: ListenAddress
    style: Style
    lane: Lane
    mode: int = UNIX_MODE
    colour: bool = False
    metrics: bool = False


def parse(text: str) -> ListenSpec:
    """Read ``ADDR[,style=S][,lane=L][,mode=0660][,color=yes]``.

    Raises:
        ListenError: the text is wrong, by the operator's fault; the message names the part.
    """
    first, *rest = text.split(",")
    address = parse_address(first)
    options = dict(_option(text, part) for part in rest)
    style = _choose(Style, text, options.get("style", _STYLES[address.family]))
    lane = _choose(Lane, text, options.get("lane", default_lane(style)))
    if "mode" in options and address.family is not Family.UNIX:
        raise ListenError(f"{text}: mode is for unix addresses only")
    return ListenSpec(address, style, lane, _mode(text, options), _yes(text, options.get("color", "no")))


def parse_address(text: str) -> ListenAddress:
    """Read ``tcp:HOST:PORT``, ``tcp:[IPV6]:PORT`` or ``unix:PATH``.

    Raises:
        ListenError: it is none of these, or the path is too long for a Unix socket.
    """
    family, colon, rest = text.partition(":")
    if family == Family.UNIX and rest:
        if len(rest.encode("utf-8", "surrogateescape")) > UNIX_PATH_BYTES:
            raise ListenError(f"{text}: the path of a Unix socket has at most {UNIX_PATH_BYTES} bytes")
        if "\0" in rest or rest.startswith("@"):
            raise ListenError(f"{text}: a Unix socket needs a path of the file system")
        return ListenAddress(Family.UNIX, path=rest)
    host, second, port = rest.rpartition(":")
    if family != Family.TCP or not colon or not second:
        raise ListenError(f"{text}: write tcp:HOST:PORT or unix:/path")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ListenError(f"{text}: the port is a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ListenError(f"{text}: write an IPv6 address in brackets, as in tcp:[::1]:{port}")
    return ListenAddress(Family.TCP, host="" if host == "*" else host, port=int(port))


def by_name(name: str, address: ListenAddress) -> ListenSpec:
    """Derive style and lane of an inherited socket from its descriptor name.

    Args:
        name: such as ``oneshot``, ``plain-background`` or ``metrics``: words apart by ``-``, ``_``, ``.`` or ``:``.
            Other words, such as a unit's name, mean nothing.
    """
    words = set(name.lower().replace("_", "-").replace(".", "-").replace(":", "-").split("-"))
    style = next((style for style in Style if style in words), _STYLES[address.family])
    lane = next((lane for lane in Lane if lane in words), default_lane(style))
    return ListenSpec(address, style, lane, metrics="metrics" in words)


def default_lane(style: Style) -> Lane:
    """Return the lane of a style: a session has a person waiting at it."""
    return Lane.INTERACTIVE if style is Style.SESSION else Lane.NORMAL


_OPTIONS = {"style": "style", "lane": "lane", "mode": "mode", "color": "color", "colour": "color"}


def _option(text: str, part: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    if name not in _OPTIONS or not equals:
        raise ListenError(f"{text}: there is no option {part!r}; the options are style=, lane=, mode=, color=")
    return _OPTIONS[name], value


def _choose(kind: type[_Word], text: str, value: str) -> _Word:
    try:
        return kind(value)
    except ValueError:
        raise ListenError(f"{text}: {value!r} is not one of {', '.join(kind)}") from None


def _mode(text: str, options: dict[str, str]) -> int:
    value = options.get("mode")
    if value is None:
        return UNIX_MODE
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise ListenError(f"{text}: mode is an octal number such as 0660")
    return mode


def _yes(text: str, value: str) -> bool:
    if value not in ("yes", "no"):
        raise ListenError(f"{text}: color is yes or no")
    return value == "yes"
