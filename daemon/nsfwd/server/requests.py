"""One scan from request to last reply: an entry, or the entries of a series and its end. Knows no socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from nsfwd.errors import CodedError
from nsfwd.pipeline.queueing.scored import Directory
from nsfwd.server.multi_scan import MultiScan
from nsfwd.server.peer_credentials import lower_lane

if TYPE_CHECKING:
    from nsfwd.protocol.events import Turn
    from nsfwd.protocol.messages import Lane, Outcome, Scan
    from nsfwd.protocol.sessions import AnySession
    from nsfwd.server.attachments import Attachment
    from nsfwd.server.context import RequestClaim, ServerContext
    from nsfwd.server.holdings import Holdings
    from nsfwd.server.quotas import ConnectionQuota

_log = logging.getLogger("nsfwd.server")


class Host(Protocol):
    """The connection that a request belongs to.

    Attributes:
        flow: the owner of its turns in queues: peer, process, connection.
        holdings: its part in the memory that all connections share.
        quota: its share of the limits of its row of the table of peers.
        series: those under way, to be woken when something changes that they may wait for.
    """

    flow: tuple[Hashable, ...]
    holdings: Holdings
    quota: ConnectionQuota
    service: ServerContext
    session: AnySession
    series: set[MultiScan]

    @property
    def lane(self) -> Lane:
        """The best one that its requests may have."""

    def changed(self) -> None:
        """The session has something to send."""

    def clogged(self, turn: Turn) -> bool:
        """Whether the peer has too much to read already for more entries of this turn."""

    def finished(self, request: Request) -> None:
        """The request is answered in full."""


class Request:
    """A scan that has not been answered in full.

    Args:
        attachment: size of its body and number of its descriptors.
        size: bytes that it counts for as a request for many images; 0 while it is for one.

    Attributes:
        claim: on whose behalf its images are scored.
        task: which answers it; kept here, because the loop holds tasks only weakly.
    """

    __slots__ = ("_host", "_scan", "_started", "attachment", "claim", "size", "task", "turn")

    def __init__(self, host: Host, turn: Turn, scan: Scan, *, attachment: Attachment, size: int) -> None:
        service, quota = host.service, host.quota
        self._host = host
        self._scan = scan
        self._started = service.loop.time()
        self.turn = turn
        self.attachment = attachment
        self.size = size
        self.claim: RequestClaim = service.pipeline.claim(
            flow=host.flow,
            lane=host.lane if scan.lane is None else lower_lane(host.lane, scan.lane),
            deadline=scan.deadline,
            identity=scan.identity,
            frames=scan.frames,
            roots=quota.group.roots,
        )
        if not scan.many:
            quota.begin()
            service.queue.coming += 1
        self.task: asyncio.Task[None] = service.loop.create_task(self._serve())

    async def _serve(self) -> None:
        session, turn = self._host.session, self.turn
        try:
            directory = None
            if not self._scan.many:
                image = next(iter(self._scan.images))
                self._host.service.queue.coming -= 1
                try:
                    outcome = await self._host.service.pipeline.scan(image, self.claim)
                finally:
                    self._host.quota.end()
                if not isinstance(outcome, Directory):
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
        series = MultiScan(
            self._host.service,
            self._scan,
            self.claim,
            send=self._send,
            clogged=partial(self._host.clogged, self.turn),
            quota=self._host.quota,
        )
        error = None
        self._host.series.add(series)
        try:
            self.size = self.size or self._host.holdings.begin_series(0)
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
