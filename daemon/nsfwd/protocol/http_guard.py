"""A peer that speaks HTTP to a line server is told so once, in its own language."""

from __future__ import annotations

import re

_REQUEST_LINE = re.compile(rb"[A-Z]{3,10} \S+ HTTP/\d(\.\d)?")

_TEXT = (
    b"This is nsfwd, which speaks a line protocol and not HTTP.\n"
    b"Try: printf '/path/of/image.jpg\\n' | nc -N HOST PORT\n"
)

ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
    % (
        len(_TEXT),
        _TEXT,
    )
)


def looks_like_http(line: bytes) -> bool:
    """Tell whether a first line is the request line of HTTP."""
    return _REQUEST_LINE.fullmatch(line) is not None
