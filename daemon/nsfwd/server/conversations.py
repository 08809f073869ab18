"""Which conversation a connection has: NDJSON and text, or clamd's. Knows listeners and peers, and no socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsfwd.protocol.clamd import ClamdSession
from nsfwd.protocol.messages import Style
from nsfwd.protocol.session import Session

if TYPE_CHECKING:
    from nsfwd.server.listen_spec import ListenSpec
    from nsfwd.server.peer_credentials import Peer

Conversation = Session | ClamdSession
"""The two have one face; which it is the listener's style decides."""


def begin(spec: ListenSpec, peer: Peer, max_bytes: int) -> Conversation:
    """Begin the conversation of the listener's style.

    Args:
        max_bytes: longest image that the peer may send.
    """
    if spec.style is Style.CLAMD:
        return ClamdSession(max_bytes=max_bytes)
    return Session(style=spec.style, max_bytes=max_bytes, colour=spec.colour, operations=peer.operations)


def suited(conversation: Conversation, data: bytes, peer: Peer, max_bytes: int) -> Conversation:
    """Return the conversation that the first bytes ask for: JSON is understood in every style, in clamd's too."""
    if data.startswith(b"{") and isinstance(conversation, ClamdSession) and conversation.untouched:
        return Session(style=Style.PLAIN, max_bytes=max_bytes, operations=peer.operations)
    return conversation
