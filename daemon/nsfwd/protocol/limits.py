"""The numbers of the protocol that no setting changes. Seconds as float, bytes as int.

The limits that an operator may change are settings (``nsfwd.config``); ``protocol.md`` lists both in one table and a
test compares them.
"""

from __future__ import annotations

from nsfwd.quantities import KIB, MIB

PROTOCOL = 1
"""Version of the protocol; grows only when an old client would misread a new reply."""

DEFAULT_PORT = 1235

TEXT_LINE = 64 * KIB
"""Longest text line: sixteen times PATH_MAX, so no real path is refused, and little memory a connection."""

JSON_LINE = 1 * MIB
"""Longest JSON line: thousands of ``paths``, or a thumbnail in ``data``; anything larger belongs in ``bytes``."""

ID_BYTES = 128
"""Longest ``id`` in UTF-8; ids are kept for each request in flight."""

MAX_INTEGER_ID = 2**53 - 1
"""Largest integer id: what every JSON parser, JavaScript's included, returns unchanged."""

PATH_BYTES = 4096
"""PATH_MAX of Linux, the closing NUL included."""

SILENCE = 0.2
"""Seconds without a byte after which a held greeting is sent and a ``oneshot`` request counts as ended."""

WINDOW = 64
"""Images in flight for one connection; beyond it the daemon stops reading that socket."""

DESCRIPTORS = 64
"""Descriptors passed over a Unix socket and not yet taken by a request."""

MAX_FRAMES_ASKED = 1000
"""Frames of one image that a request may ask for: each takes a decoder and the engine as long as an image does."""

MAX_DEADLINE = 86400.0
"""Longest deadline a request may ask for: a day, so that a slip of the pen does not hold resources for ever."""
