"""One scan from request to last reply: an entry, or the entries of a series and its end. Knows no socket."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Protocol

from nsfwd.errors import CodedError
from nsfwd.protocol.clamd import ClamdSession
from nsfwd.protocol.session import Session
from nsfwd.server.series import IS_DIRECTORY, Series

if TYPE_CHECKING:
    from nsfwd.protocol.events import Turn
    from nsfwd.protocol.messages import Outcome, Scan
    from nsfwd.server.peering import Member
    from nsfwd.server.service import Claim, Service

Conversation = Session | ClamdSession
"""The two have one face; which it is the listener's style decides."""

_log = logging.getLogger("nsfwd.server")


class Host(Protocol):
    """The connection that a request belongs to.

    Attributes:
        member: its part in what its row of the table of peers allows.
        series: those under way, to be woken when something changes that they may wait for.
    """

    member: Member
    service: Service
    session: Conversation
    series: set[Series]

    def changed(self) -> None:
        """The session has something to send."""

    def clogged(self, turn: Turn) -> bool:
        """Whether the peer has too much to read already for more entries of this turn."""

    def finished(self, request: Request) -> None:
        """The request is answered in full."""


class Request:
    """A scan that has not been answered in full.

    Attributes:
        size: bytes of the body it came with.
        task: which answers it; kept here, because the loop holds tasks only weakly.
    """

    __slots__ = ("_host", "_scan", "_started", "claim", "size", "task", "turn")

    def __init__(self, host: Host, turn: Turn, scan: Scan, claim: Claim, *, size: int) -> None:
        self._host = host
        self._scan = scan
        self._started = host.service.loop.time()
        self.turn = turn
        self.claim = claim
        self.size = size
        if not scan.many:
            host.member.begin()
        self.task: asyncio.Task[None] = host.service.loop.create_task(self._serve())

    async def _serve(self) -> None:
        session, turn = self._host.session, self.turn
        try:
            directory = None
            if not self._scan.many:
                image = self._scan.images[0]
                try:
                    outcome = await self._host.service.pipeline.scan(image, self.claim)
                finally:
                    self._host.member.end()
                if outcome.code != IS_DIRECTORY:
                    session.entry(turn, outcome)
                    return
                session.become_many(turn)
                directory = image.path
            await self._serve_series(directory)
        except Exception:
            _log.exception("a defect while a request was served")
            if not turn.ended:
                session.fail(turn, CodedError("internal"), self._seconds())
        finally:
            self._host.finished(self)

    async def _serve_series(self, directory: bytes | None) -> None:
        series = Series(
            self._host.service,
            self._scan,
            self.claim,
            send=self._send,
            clogged=partial(self._host.clogged, self.turn),
            member=self._host.member,
        )
        error = None
        self._host.series.add(series)
        try:
            await series.run(directory=directory)
        except CodedError as cut:
            error = cut
        finally:
            self._host.series.discard(series)
        self._host.session.done(self.turn, self._seconds(), error=error)

    def _send(self, outcome: Outcome) -> None:
        self._host.session.entry(self.turn, outcome)
        self._host.changed()

    def _seconds(self) -> float:
        return self._host.service.loop.time() - self._started
