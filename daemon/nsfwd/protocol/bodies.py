"""The raw bytes that follow a request line which announced them. Knows a reader, and nothing of what the bytes are."""

from __future__ import annotations

from dataclasses import dataclass

from nsfwd.errors import CodedError
from nsfwd.protocol.events import Turn
from nsfwd.protocol.lines import LineReader
from nsfwd.protocol.messages import Scan


@dataclass(slots=True)
class IncomingBody:
    """Raw bytes that belong to the request read last; with an ``error`` they are dropped.

    Attributes:
        left: bytes that have not come yet.
    """

    turn: Turn
    left: int
    scan: Scan | None
    error: CodedError | None

    def take(self, reader: LineReader) -> bytes:
        """Return the next bytes to keep; empty when there are none: all have come, or no more is here."""
        while self.left and (piece := reader.take(self.left)):
            self.left -= len(piece)
            if self.error is None:
                return piece
        return b""
