"""Recognizes peers that do not speak the line protocol: browsers and other HTTP clients, proxies, TLS.

A web page can make a browser send a request to a port of the local machine, with a body that the page chose. Were the
lines of that body executed, every page could scan local files. Judged are text lines that do not begin with ``/``: none
of them but a command word is a good request, so nothing that a client of this protocol sends is lost.
"""

from __future__ import annotations

import re

_BLANKS = bytes(range(0x21))

_VERSION = re.compile(rb"[!-~]+[ \t]+\S+[ \t]+[A-Z]+/\d(?:\.\d)?\s*", re.IGNORECASE)
"""``GET / HTTP/1.1``, and what is built alike: RTSP, SIP, and the preface of HTTP/2."""

_VERB = re.compile(
    rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE|CONNECT|PRI|M-SEARCH|NOTIFY|PROPFIND|PROXY)[ \t]", re.IGNORECASE
)
_CUT_OFF = re.compile(rb"[!-~]+[ \t]+\S|[!-~]+\Z")
"""First bytes of a line over the limit that may be such a line: its version is not among them."""

_HEADER = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Z-]+:(?:[ \t]|\Z)"
    rb"|(?:Host|Origin|Referer|Cookie|Connection|Upgrade|User-Agent|Accept[A-Z-]*|Content-[A-Z-]+|Sec-[A-Z-]+):",
    re.IGNORECASE,
)

_BINARY = frozenset(range(0x20)) - frozenset(b"\b\t\n\v\f\r\x1b")
"""First bytes of TLS (0x16), STUN (0x00), SOCKS (0x04, 0x05) and the like; not those that a terminal may send."""

_OLD_HELLO = re.compile(rb"[\x80-\xff].\x01\x03[\x00-\x04]", re.DOTALL)
"""A TLS greeting in the form of SSL 2, which older clients still send first."""

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


def is_foreign(line: bytes, *, first: bool, too_long: bool) -> bool:
    """Tell whether a text line is a request line or a header of HTTP, or the beginning of another protocol.

    Args:
        line: without its end; of a line ``too_long`` the first bytes.
        first: nothing but empty lines came before it.
        too_long: the line is over the limit, so that its end is not known.
    """
    if first and line and (line[0] in _BINARY or _OLD_HELLO.match(line)):
        return True
    word = line.lstrip(_BLANKS)
    if not word or word.startswith(b"/"):
        return False
    if too_long and _CUT_OFF.match(word):
        return True
    return bool(_VERB.match(word) or _HEADER.match(word) or _VERSION.fullmatch(word))
