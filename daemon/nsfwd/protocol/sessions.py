"""Opens the session of a connection: NDJSON and text, or clamd's protocol. Pure, as both of them are."""

from __future__ import annotations

from nsfwd.protocol.clamd import ClamdSession
from nsfwd.protocol.messages import Style
from nsfwd.protocol.session import Session

AnySession = Session | ClamdSession
"""The two have the same methods; the style of the listener and the first byte decide which it is."""


def open_session(style: Style, max_bytes: int, *, colour: bool, operations: frozenset[str]) -> AnySession:
    """Open the session of a listener's style.

    Args:
        max_bytes: longest image that the peer may send.
        colour: whether text replies are painted at the start.
        operations: operations open to this peer.
    """
    if style is Style.CLAMD:
        return ClamdSession(max_bytes=max_bytes)
    return Session(style=style, max_bytes=max_bytes, colour=colour, operations=operations)


def session_for(first: bytes, session: AnySession, max_bytes: int, *, operations: frozenset[str]) -> AnySession:
    """Return the session that the first bytes ask for: JSON is understood in every style, in clamd's too."""
    if first.startswith(b"{") and isinstance(session, ClamdSession):
        return Session(style=Style.PLAIN, max_bytes=max_bytes, operations=operations)
    return session
