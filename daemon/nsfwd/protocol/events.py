"""What a session tells its connection, and the handle by which the connection answers. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

from nsfwd.errors import CodedError
from nsfwd.protocol.messages import Dialect, Operation, RequestId, Scan, Tally
from nsfwd.protocol.text import Block


@dataclass(slots=True, eq=False)
class Turn:
    """One request's right to one reply (or one series). Unique in its session, hashable by identity, read-only outside.

    Attributes:
        number: 1, 2, ... in the order of arrival.
        id: the client's own word for the request.
        dialect: the form of the reply.
        path: the one path asked for; None for several, for bytes and for operations.
        op: the operation; None for a scan.
        many: the reply is a series that ``done`` ends.
        ended: the last reply was given.
        passed: the next descriptor that the client passed belongs to it, whether the request is good or bad.
        tally: what the series counted so far.
        block: writes the reply of a request in text.
        waiting: pieces of its reply that may not go out yet.
    """

    number: int
    id: RequestId
    dialect: Dialect
    path: bytes | None = None
    op: str | None = None
    many: bool = False
    ended: bool = False
    passed: bool = False
    tally: Tally | None = None
    block: Block | None = None
    waiting: list[bytes] | None = None

    def begin_series(self) -> None:
        """From now on the reply is a series."""
        self.many = True
        self.tally = Tally()


@dataclass(slots=True)
class ScanRequest:
    """Score ``scan.images``; owed: ``entry`` (single), entries and ``done`` (``turn.many``), or ``fail``."""

    turn: Turn
    scan: Scan


@dataclass(frozen=True, slots=True)
class OperationRequest:
    """Carry out an operation; owed: ``operation`` or ``fail``."""

    turn: Turn
    operation: Operation


@dataclass(frozen=True, slots=True)
class BodyStart:
    """An encoded image of ``size`` bytes follows as ``BodyData``, then ``BodyEnd``, then its ``ScanRequest``.

    Its scan holds one ``Image(None, None)``, which the connection replaces by what it stored. When the peer goes away
    inside the body a ``Rejected`` of the same turn comes instead of ``BodyEnd``.
    """

    turn: Turn
    size: int


@dataclass(frozen=True, slots=True)
class BodyData:
    """The next bytes of the body that was started last."""

    turn: Turn
    data: bytes


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """The body is complete."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request was no valid one and is answered already; nothing is owed. ``http`` also ends the session."""

    turn: Turn
    error: CodedError


@dataclass(frozen=True, slots=True)
class Quit:
    """The peer said ``quit``: no event follows, replies still owed are sent, then the session is finished."""


@dataclass(frozen=True, slots=True)
class Handled:
    """A line was answered by the session, or asks for nothing: there is only to see whether there is room for more."""


Event = ScanRequest | OperationRequest | BodyStart | BodyData | BodyEnd | Rejected | Quit | Handled
