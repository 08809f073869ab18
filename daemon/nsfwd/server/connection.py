"""One connection: the edge around ``protocol.session``. It moves bytes, starts scans and keeps the limits of one peer.

Requests are pulled from the session only while the window has room and the peer reads its replies; otherwise the socket
is not read, which is the back-pressure. Replies of one turn of the event loop go out with one send. Knows no dialect,
no file and no process.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from nsfwd.errors import CodedError
from nsfwd.protocol.events import (
    BodyData,
    BodyEnd,
    BodyStart,
    OperationRequest,
    Quit,
    Rejected,
    ScanRequest,
    Turn,
)
from nsfwd.protocol.limits import KIB, SILENCE, WINDOW
from nsfwd.protocol.messages import Image, Scan
from nsfwd.protocol.session import Session
from nsfwd.server.addresses import ListenSpec
from nsfwd.server.body import Body
from nsfwd.server.operations import OPERATIONS
from nsfwd.server.peers import Peer, lower_lane
from nsfwd.server.series import IS_DIRECTORY, Series
from nsfwd.server.stream import Stream

if TYPE_CHECKING:
    from nsfwd.server.service import Claim, Service

SERIES_MARK = 256 * KIB
"""Unread bytes above which a series starts no further image: enough to keep the peer busy while it catches up."""

HELD_MARK = 64 * KIB
"""The same for entries that wait behind the reply of an earlier text request."""

LINGER = 1.0
"""Seconds in which input is read and dropped after the last reply: closing with unread input would reset the
connection, and a reset can take the reply with it."""

_log = logging.getLogger("nsfwd.server")


class Request:
    """A scan that has not been answered in full."""

    __slots__ = ("claim", "scan", "started", "task", "turn")

    def __init__(self, turn: Turn, scan: Scan, claim: Claim, started: float) -> None:
        self.turn = turn
        self.scan = scan
        self.claim = claim
        self.started = started
        self.task: asyncio.Task[None] | None = None


class Connection:
    """A peer and its requests.

    Args:
        sock: accepted; closed here.
        spec: of the listener it came through.
        service: what all connections share.
        on_closed: called once, when the socket is closed.
    """

    __slots__ = (
        "_active",
        "_body",
        "_ended",
        "_lingering",
        "_on_closed",
        "_requests",
        "_scheduled",
        "_series",
        "_service",
        "_session",
        "_silence",
        "_spec",
        "_stream",
        "_write_buffer",
        "peer",
    )

    def __init__(
        self,
        sock: socket.socket,
        spec: ListenSpec,
        peer: Peer,
        service: Service,
        *,
        on_closed: Callable[[Connection], None],
    ) -> None:
        self.peer = peer
        self._spec = spec
        self._service = service
        self._on_closed = on_closed
        self._stream = Stream(service.loop, sock, self)
        self._session = Session(
            style=spec.style, max_bytes=service.settings.max_bytes, colour=spec.colour, operations=peer.operations
        )
        self._write_buffer = service.settings.write_buffer
        self._requests: dict[Turn, Request] = {}
        self._series: set[Series] = set()
        self._body: Body | None = None
        self._ended = False
        self._scheduled = False
        self._lingering: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._active = service.loop.time()
        service.metrics.connections += 1
        service.metrics.connections_total += 1

    def start(self) -> None:
        """Begin to read; a session's greeting goes out when its time has come."""
        self._step()

    # -- what the stream tells ---------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes came: understand as many requests as there is room for."""
        self._service.metrics.bytes_in_total += len(data)
        if self._lingering is not None:
            return
        self._active = self._service.loop.time()
        self._session.receive_data(data)
        self._step()

    def ended(self) -> None:
        """The peer sends no more; what it asked is still answered."""
        if self._lingering is not None:
            self.close()
        elif self._stream.hung_up():
            self.lost()
        else:
            self._ended = True
            self._session.receive_eof()
            self._step()

    def relieved(self) -> None:
        """The peer took bytes: there may be room for more requests and for more of a series."""
        self._wake_series()
        self._schedule()

    def lost(self) -> None:
        """The peer is gone: nobody waits for what is under way."""
        if self._requests:
            self._service.metrics.connections_lost_total += 1
        self.close()

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a scan is under way."""
        return bool(self._requests)

    def check(self, now: float) -> None:
        """Keep the limits of time; called about once a second.

        Args:
            now: loop time.
        """
        settings = self._service.settings
        if self._stream.pending:
            if now - self._stream.progress >= settings.write_stall:
                self._service.metrics.connections_stalled_total += 1
                _log.info("%s: read none of its replies for %g seconds; closed", self.peer.name, settings.write_stall)
                self.lost()
        elif settings.idle_timeout and not self._requests and now - self._active >= settings.idle_timeout:
            if self._lingering is None:
                self._service.metrics.connections_idle_total += 1
            self._end()

    def drain(self) -> None:
        """Take no more requests; close once those under way are answered."""
        self._session.close()
        self._wake_series()
        self._step()

    def close(self) -> None:
        """Close at once: drop replies, give up what is under way. Idempotent."""
        if self._stream.closed:
            return
        self._stream.close()
        for timer in (self._silence, self._lingering):
            if timer is not None:
                timer.cancel()
        self._drop_body()
        for request in tuple(self._requests.values()):
            request.claim.cancel("cancelled", "its client went away")
        self._wake_series()
        self._service.metrics.connections -= 1
        self._on_closed(self)

    # -- one step: requests in, replies out --------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Take a step in this turn of the loop, once, however many replies it brings."""
        if not self._scheduled:
            self._scheduled = True
            self._service.loop.call_soon(self._step)

    def _step(self) -> None:
        self._scheduled = False
        if self._stream.closed or self._lingering is not None:
            return
        starved = self._pull()
        if self._stream.closed:
            return
        self._flush()
        if self._stream.closed or self._lingering is not None:
            return
        self._stream.read(starved and not self._ended)
        if starved and self._session.silence_wanted and self._silence is None:
            self._silence = self._service.loop.call_later(SILENCE, self._silent)

    def _pull(self) -> bool:
        """Take requests while there is room; tell whether the session then wants more bytes."""
        session = self._session
        since_flush = 0
        while self._has_room():
            event = session.next_event()
            if event is None:
                return True
            _HANDLERS[type(event)](self, event)
            since_flush += 1
            if since_flush >= WINDOW:
                self._flush()
                since_flush = 0
        return False

    def _has_room(self) -> bool:
        return (
            len(self._requests) < WINDOW
            and self._stream.pending < self._write_buffer
            and self._session.held < self._write_buffer
            and not self._stream.closed
        )

    def _flush(self) -> None:
        data = self._session.data_to_send()
        if data:
            self._active = self._service.loop.time()
            self._service.metrics.bytes_out_total += len(data)
            self._stream.write(data)
        if self._session.finished and not self._stream.pending:
            self._end()

    def _end(self) -> None:
        """All is said: send FIN, and close when the peer has, or soon."""
        if self._stream.closed or self._lingering is not None:
            return
        self._stream.finish()
        if self._ended:
            self.close()
            return
        self._lingering = self._service.loop.call_later(LINGER, self.close)
        self._stream.read(True)

    def _silent(self) -> None:
        self._silence = None
        if self._stream.closed or self._lingering is not None or not self._session.silence_wanted:
            return
        loop = self._service.loop
        left = self._active + SILENCE - loop.time()
        if left > 0.001:
            self._silence = loop.call_later(left, self._silent)
            return
        self._session.receive_silence()
        self._step()

    # -- what the session tells --------------------------------------------------------------------------------------

    def _on_scan(self, event: ScanRequest) -> None:
        service, turn, scan = self._service, event.turn, event.scan
        service.metrics.requests_total += 1
        if self._body is not None:
            body, self._body = self._body, None
            try:
                scan = replace(scan, images=(Image(None, body.take()),))
            except CodedError as error:
                self._session.fail(turn, error, 0.0)
                return
        claim = service.pipeline.claim(
            connection=self,
            lane=lower_lane(self._spec.lane, scan.lane),
            deadline=scan.deadline,
            identity=scan.identity,
        )
        request = Request(turn, scan, claim, service.loop.time())
        self._requests[turn] = request
        request.task = service.loop.create_task(self._serve(request))

    def _on_operation(self, event: OperationRequest) -> None:
        self._service.metrics.operations_total += 1
        operation = event.operation
        if operation.op == "cancel":
            self._cancel(event.turn, operation.target)
        else:
            self._session.operation(event.turn, OPERATIONS[operation.op](self._service, self.peer))

    def _cancel(self, turn: Turn, target: str | int | None) -> None:
        found = [
            request
            for request in self._requests.values()
            if request.turn.id == target and type(request.turn.id) is type(target) and target is not None
        ]
        if not found:
            self._session.fail(turn, CodedError("no_target"), 0.0)
            return
        for request in found:
            request.claim.cancel("cancelled")
        self._wake_series()
        self._session.operation(turn, {"target": target})

    def _on_body_start(self, _event: BodyStart) -> None:
        self._service.metrics.bodies_total += 1
        self._body = Body()

    def _on_body_data(self, event: BodyData) -> None:
        assert self._body is not None
        self._body.write(event.data)

    def _on_body_end(self, _event: BodyEnd) -> None:
        """The scan that follows takes the body."""

    def _on_rejected(self, event: Rejected) -> None:
        self._service.metrics.rejected_total += 1
        self._drop_body()
        if event.error.code == "http":
            self._service.metrics.http_total += 1
            if self._service.complain_once(self.peer.guard):
                _log.warning("%s speaks HTTP to a line protocol; closed (said once for each peer)", self.peer.name)
        else:
            _log.debug("%s: refused a line: %s", self.peer.name, event.error)

    def _on_quit(self, _event: Quit) -> None:
        """The session finishes by itself."""

    def _drop_body(self) -> None:
        if self._body is not None:
            self._body.discard()
            self._body = None

    # -- scans -------------------------------------------------------------------------------------------------------

    async def _serve(self, request: Request) -> None:
        """Answer one scan: an entry, or the entries of a series and its end."""
        session, turn, scan = self._session, request.turn, request.scan
        try:
            directory = None
            if not scan.many:
                image = scan.images[0]
                outcome = await self._service.pipeline.scan(image, request.claim)
                if outcome.code != IS_DIRECTORY:
                    session.entry(turn, outcome)
                    return
                session.become_many(turn)
                directory = image.path
            await self._serve_series(request, directory)
        except Exception:
            _log.exception("a defect while serving %s", self.peer.name)
            if not turn.ended:
                session.fail(turn, CodedError("internal"), self._since(request))
        finally:
            del self._requests[turn]
            self._wake_series()
            self._schedule()

    async def _serve_series(self, request: Request, directory: bytes | None) -> None:
        turn = request.turn
        series = Series(
            self._service,
            request.scan,
            request.claim,
            send=partial(self._send_entry, turn),
            clogged=partial(self._clogged, turn),
        )
        error = None
        self._series.add(series)
        try:
            await series.run(directory=directory)
        except CodedError as cut:
            error = cut
        finally:
            self._series.discard(series)
        self._session.done(turn, self._since(request), error=error)

    def _send_entry(self, turn: Turn, outcome: Any) -> None:
        self._session.entry(turn, outcome)
        self._schedule()

    def _clogged(self, turn: Turn) -> bool:
        if self._stream.closed:
            return False
        if self._stream.pending >= SERIES_MARK:
            return True
        return self._session.held >= HELD_MARK and not self._session.flows(turn)

    def _wake_series(self) -> None:
        for series in self._series:
            series.wake()

    def _since(self, request: Request) -> float:
        return self._service.loop.time() - request.started


_HANDLERS: dict[type[Any], Callable[[Connection, Any], None]] = {
    ScanRequest: Connection._on_scan,
    OperationRequest: Connection._on_operation,
    BodyStart: Connection._on_body_start,
    BodyData: Connection._on_body_data,
    BodyEnd: Connection._on_body_end,
    Rejected: Connection._on_rejected,
    Quit: Connection._on_quit,
}
