"""Addresses that the daemon listens on, as they are written in settings and flags.

Pure text: it opens nothing and knows no room of the house.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Listen:
    """One parsed address of a listener.

    Attributes:
        text: as it was written.
        family: ``tcp`` or ``unix``.
        host, port: of a TCP listener; port 0 lets the kernel choose.
        path: of a Unix listener.
        style: ``session``, ``plain`` or ``oneshot``.
        lane: the best lane its requests may use, and the one they use when they name none.
        mode: permission bits of the Unix socket; None leaves them to the umask.
        colour: colour the text session's replies.
    """

    text: str
    family: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""
    style: str = "session"
    lane: str = "interactive"
    mode: int | None = None
    colour: bool = False


_OPTIONS = {
    "style": ("session", "plain", "oneshot"),
    "lane": ("interactive", "normal", "background"),
    "color": ("yes", "no"),
}


def parse_listen(text: str) -> Listen:
    """Parse ``tcp:HOST:PORT`` or ``unix:/path`` with its options.

    A session is for people and so in the interactive lane unless it says otherwise; the other styles are in the
    normal one.

    Raises:
        ValueError: one sentence on what is wrong with it.
    """
    address, *options = text.split(",")
    family, _, place = address.partition(":")
    values = _options(options, family)
    style = values.get("style", "session" if family == "tcp" else "plain")
    lane = values.get("lane", "interactive" if style == "session" else "normal")
    mode = int(values["mode"], 8) if "mode" in values else None
    colour = values.get("color") == "yes"
    if family == "unix" and place.startswith("/"):
        return Listen(text, "unix", path=place, style=style, lane=lane, mode=mode, colour=colour)
    host, _, port = place.rpartition(":")
    if family == "tcp" and host and port.isascii() and port.isdigit() and int(port) < 65536:
        host = host.removeprefix("[").removesuffix("]")
        return Listen(text, "tcp", host=host, port=int(port), style=style, lane=lane, colour=colour)
    raise ValueError("expected tcp:HOST:PORT or unix:/absolute/path")


def _options(options: list[str], family: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition("=")
        name = "color" if name == "colour" else name
        if name == "mode" and family == "unix":
            if not re.fullmatch("0?[0-7]{3}", value):
                raise ValueError("mode must be octal permissions such as 0660")
        elif name not in _OPTIONS:
            known = [*_OPTIONS, "mode"] if family == "unix" else list(_OPTIONS)
            raise ValueError(f'unknown option "{name}"; known are {", ".join(known)}')
        elif value not in _OPTIONS[name]:
            raise ValueError(f"{name} must be one of {', '.join(_OPTIONS[name])}")
        values[name] = value
    return values
