"""Counts how much of the shared memory one connection holds: lines, long requests, unread replies.

Counted after each step of the connection. Knows no socket and no session; ``budgets`` has the numbers.
"""

from __future__ import annotations

from collections.abc import Hashable

from nsfwd.budgets import FREE_LINE, FREE_REPLY, SERIES, Budgets
from nsfwd.errors import CodedError
from nsfwd.protocol.limits import JSON_LINE
from nsfwd.server.socket_stream import READ_SIZE

LONG_REQUESTS = 2 * JSON_LINE
"""Bytes of requests for many images under way on one connection, beyond which its further requests are left unread."""


class Holdings:
    """The part of one connection.

    Args:
        budgets: of all.
        peer: whose share is used.

    Attributes:
        requests: bytes of requests for many images under way.
    """

    __slots__ = ("_budgets", "_lines", "_peer", "_replies", "requests")

    def __init__(self, budgets: Budgets, peer: Hashable) -> None:
        self._budgets = budgets
        self._peer = peer
        self._lines = self._replies = self.requests = 0

    @property
    def portion(self) -> int:
        """Bytes to receive at a time: fewer when there is hardly any room for lines that are not parsed at once."""
        return READ_SIZE if self._budgets.lines.fits(self._peer, READ_SIZE) else FREE_LINE

    def hear(self, lines: int) -> bool:
        """Count the bytes that were received and not parsed; return whether there is room for them."""
        more = lines - self._lines
        if not more:
            return True
        budget = self._budgets.lines
        room = more < 0 or lines <= FREE_LINE or budget.fits(self._peer, more)
        budget.add(self._peer, more)
        self._lines = lines
        return room

    def has_room_to_hear(self, more: int) -> bool:
        """Tell whether so many bytes, besides those counted, may wait here."""
        return self._budgets.lines.fits(self._peer, more)

    def owe(self, replies: int) -> None:
        """Count the bytes of replies that the peer has not read."""
        if replies != self._replies:
            self._budgets.replies.add(self._peer, replies - self._replies)
            self._replies = replies

    def may_owe(self, replies: int) -> bool:
        """Tell whether so many unread bytes leave room for further replies."""
        return replies <= FREE_REPLY or self._budgets.replies.fits(self._peer, 0)

    def begin_series(self, paths: int) -> int:
        """Count a request for many images; return its bytes, for ``end_series``.

        Args:
            paths: bytes of the paths that it names.

        Raises:
            CodedError: ``busy``: a retry after ``retry_after`` helps.
        """
        size = SERIES + paths
        budget = self._budgets.requests
        if not budget.fits(self._peer, size):
            budget.refused += 1
            raise CodedError("busy", "too many requests for many images are under way", retry_after=1.0)
        budget.add(self._peer, size)
        self.requests += size
        return size

    def end_series(self, size: int) -> None:
        """A request for many images is answered; it may have outlived its connection."""
        if size:
            self._budgets.requests.add(self._peer, -size)
            self.requests -= size

    def refuse_line(self) -> None:
        """Count a line for which there was no room."""
        self._budgets.lines.refused += 1

    def close(self) -> None:
        """Give everything back: the connection is closed."""
        self.hear(0)
        self.owe(0)
