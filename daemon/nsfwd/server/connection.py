"""One connection: the edge around ``protocol.session``. It moves bytes, starts scans and keeps the limits of one peer.

Requests are pulled from the session only while the window has room (of images, and of bytes sent as bodies) and the
peer reads its replies; otherwise the socket is not read, which is the back-pressure. Replies of one turn of the event
loop go out with one send. Knows no dialect, no file and no process.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from nsfwd.errors import CodedError
from nsfwd.ipc.closing import close_foreign
from nsfwd.protocol.clamd import ClamdSession
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
from nsfwd.protocol.limits import DESCRIPTORS, KIB, SILENCE, WINDOW
from nsfwd.protocol.messages import Image, Style
from nsfwd.protocol.session import Session
from nsfwd.server.addresses import ListenSpec
from nsfwd.server.body import Body
from nsfwd.server.operations import OPERATIONS
from nsfwd.server.peers import Peer, lower_lane
from nsfwd.server.requests import Conversation, Request
from nsfwd.server.series import Series
from nsfwd.server.stream import Stream

if TYPE_CHECKING:
    from nsfwd.server.service import Service

SERIES_MARK = 256 * KIB
"""Unread bytes above which a series starts no further image: enough to keep the peer busy while it catches up."""

HELD_MARK = 64 * KIB
"""The same for entries that wait behind the reply of an earlier text request."""

BURST = 128
"""Requests understood in one turn of the loop: a peer that sends many cheap ones must not keep the others waiting."""

LINGER = 1.0
"""Seconds in which input is read and dropped after the last reply: closing with unread input would reset the
connection, and a reset can take the reply with it."""

_log = logging.getLogger("nsfwd.server")


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
        "_asker",
        "_body",
        "_body_bytes",
        "_descriptors",
        "_draining",
        "_ended",
        "_lingering",
        "_on_closed",
        "_requests",
        "_scheduled",
        "_silence",
        "_spec",
        "_stream",
        "_write_buffer",
        "peer",
        "series",
        "service",
        "session",
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
        self._asker = (*peer.circles, object())  # not itself: a queue may keep it for a while
        self._spec = spec
        self.service = service
        self._on_closed = on_closed
        self._stream = Stream(service.loop, sock, self)
        self.session: Conversation = self._converse(spec.style)
        self._write_buffer = service.settings.write_buffer
        self._requests: dict[Turn, Request] = {}
        self.series: set[Series] = set()
        self._body: Body | None = None
        self._descriptors: deque[int] = deque()
        self._body_bytes = 0
        self._ended = False
        self._draining = False
        self._scheduled = False
        self._lingering: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._active = service.loop.time()
        service.metrics.connections += 1
        service.metrics.connections_total += 1

    def _converse(self, style: Style) -> Conversation:
        max_bytes = self.service.settings.max_bytes
        if style is Style.CLAMD:
            return ClamdSession(max_bytes=max_bytes)
        return Session(style=style, max_bytes=max_bytes, colour=self._spec.colour, operations=self.peer.operations)

    def start(self) -> None:
        """Begin to read; a session's greeting goes out when its time has come."""
        self._step()

    # -- what the stream tells ---------------------------------------------------------------------------------------

    def passed(self, descriptors: Sequence[int]) -> None:
        """Descriptors came: keep them, in order, for the requests that take them."""
        for descriptor in descriptors:
            if len(self._descriptors) < DESCRIPTORS and self._lingering is None:
                self._descriptors.append(descriptor)
            else:
                close_foreign(descriptor)

    def received(self, data: bytes) -> None:
        """Bytes came: understand as many requests as there is room for."""
        self.service.metrics.bytes_in_total += len(data)
        if self._lingering is not None:
            return
        self._active = self.service.loop.time()
        if data.startswith(b"{") and isinstance(self.session, ClamdSession) and self.session.untouched:
            self.session = self._converse(Style.PLAIN)
        self.session.receive_data(data)
        self._step()

    def ended(self) -> None:
        """The peer sends no more; what it asked is still answered."""
        if self._lingering is not None:
            self.close()
        elif self._stream.hung_up():
            self.lost()
        else:
            self._ended = True
            self.session.receive_eof()
            self._step()

    def relieved(self) -> None:
        """The peer took bytes: there may be room for more requests and for more of a series."""
        self._wake_series()
        self.changed()

    def lost(self) -> None:
        """The peer is gone: nobody waits for what is under way."""
        if self._requests:
            self.service.metrics.connections_lost_total += 1
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
        settings = self.service.settings
        if self._stream.pending:
            if now - self._stream.progress >= settings.write_stall:
                self.service.metrics.connections_stalled_total += 1
                _log.info("%s: read none of its replies for %g seconds; closed", self.peer.name, settings.write_stall)
                self.lost()
        elif settings.idle_timeout and not self._requests and now - self._active >= settings.idle_timeout:
            if self._lingering is None:
                self.service.metrics.connections_idle_total += 1
            self._end()

    def drain(self) -> None:
        """Answer what has arrived, which is refused by now, and then close."""
        self._draining = True
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
        while self._descriptors:
            close_foreign(self._descriptors.popleft())
        for request in tuple(self._requests.values()):
            request.claim.cancel("cancelled", "its client went away")
        self._wake_series()
        self.service.metrics.connections -= 1
        self._on_closed(self)

    # -- one step: requests in, replies out --------------------------------------------------------------------------

    def _step(self) -> None:
        self._scheduled = False
        if self._stream.closed or self._lingering is not None:
            return
        try:
            self._exchange()
        except Exception:
            _log.exception("a defect in the conversation with %s; closed", self.peer.name)
            self.close()

    def _exchange(self) -> None:
        starved = self._pull()
        if self._draining and starved and (self._ended or not self._stream.readable()):
            self.session.close()
            self._pull()
        if self._stream.closed:
            return
        self._flush()
        if self._stream.closed or self._lingering is not None:
            return
        self._stream.read(starved and not self._ended)
        if starved and self.session.silence_wanted and self._silence is None:
            self._silence = self.service.loop.call_later(SILENCE, self._silent)

    def _pull(self) -> bool:
        """Take requests while there is room; tell whether the session then wants more bytes."""
        for _ in range(BURST):
            if not self._has_room():
                return False
            event = self.session.next_event()
            if event is None:
                return True
            _HANDLERS[type(event)](self, event)
        self.changed()
        return False

    def _has_room(self) -> bool:
        return (
            len(self._requests) < WINDOW
            and self._body_bytes < self.service.settings.max_bytes
            and self._stream.pending < self._write_buffer
            and self.session.held < self._write_buffer
            and not self._stream.closed
        )

    def _flush(self) -> None:
        data = self.session.data_to_send()
        if data:
            self._active = self.service.loop.time()
            self.service.metrics.bytes_out_total += len(data)
            self._stream.write(data)
        if self.session.finished and not self._stream.pending:
            self._end()

    def _end(self) -> None:
        """All is said: send FIN, and close when the peer has, or soon."""
        if self._stream.closed or self._lingering is not None:
            return
        self._stream.finish()
        if self._ended:
            self.close()
            return
        self._lingering = self.service.loop.call_later(LINGER, self.close)
        self._stream.read(True)

    def _silent(self) -> None:
        self._silence = None
        if self._stream.closed or self._lingering is not None or not self.session.silence_wanted:
            return
        loop = self.service.loop
        left = self._active + SILENCE - loop.time()
        if left > 0.001:
            self._silence = loop.call_later(left, self._silent)
            return
        self.session.receive_silence()
        self._step()

    # -- what the session tells --------------------------------------------------------------------------------------

    def _on_scan(self, event: ScanRequest) -> None:
        service, turn, scan = self.service, event.turn, event.scan
        service.metrics.requests_total += 1
        size = 0
        try:
            if self._body is not None:
                body, self._body = self._body, None
                size = body.size
                scan = replace(scan, images=(Image(turn.path, body.take()),))
            elif turn.passed:
                if not self._descriptors:
                    raise CodedError("no_descriptor")
                scan = replace(scan, images=(Image(turn.path, self._descriptors.popleft(), foreign=True),))
        except CodedError as error:
            self.session.fail(turn, error, 0.0)
            return
        claim = service.pipeline.claim(
            asker=self._asker,
            lane=lower_lane(self._spec.lane, scan.lane),
            deadline=scan.deadline,
            identity=scan.identity,
            frames=scan.frames,
        )
        self._requests[turn] = Request(self, turn, scan, claim, size=size)
        self._body_bytes += size

    def _on_operation(self, event: OperationRequest) -> None:
        self.service.metrics.operations_total += 1
        operation = event.operation
        if operation.op == "cancel":
            self._cancel(event.turn, operation.target)
            return
        if operation.op == "reload":
            self._reload(event.turn)
            return
        try:
            payload = OPERATIONS[operation.op](self.service, self.peer)
        except Exception:
            _log.exception("a defect in the operation %s", operation.op)
            self.session.fail(event.turn, CodedError("internal"), 0.0)
        else:
            self.session.operation(event.turn, payload)

    def _cancel(self, turn: Turn, target: str | int | None) -> None:
        found = [
            request
            for request in self._requests.values()
            if request.turn.id == target and type(request.turn.id) is type(target) and target is not None
        ]
        if not found:
            self.session.fail(turn, CodedError("no_target"), 0.0)
            return
        for request in found:
            request.claim.cancel("cancelled")
        self._wake_series()
        self.session.operation(turn, {"target": target})

    def _reload(self, turn: Turn) -> None:
        try:
            self.service.begin_reload().add_done_callback(partial(self._reloaded, turn))
        except CodedError as error:
            self.session.fail(turn, error, 0.0)

    def _reloaded(self, turn: Turn, task: asyncio.Future[dict[str, Any]]) -> None:
        if self._stream.closed:
            return
        error = CodedError("draining") if task.cancelled() else task.exception()
        if error is None:
            self.session.operation(turn, task.result())
        else:
            self.session.fail(turn, error if isinstance(error, CodedError) else CodedError("internal"), 0.0)
        self.changed()

    def _on_body_start(self, event: BodyStart) -> None:
        self.service.metrics.bodies_total += 1
        self._body = Body(event.size)

    def _on_body_data(self, event: BodyData) -> None:
        assert self._body is not None
        self._body.write(event.data)

    def _on_body_end(self, _event: BodyEnd) -> None:
        """The scan that follows takes the body."""

    def _on_rejected(self, event: Rejected) -> None:
        self.service.metrics.rejected_total += 1
        self._drop_body()
        if event.turn.passed and self._descriptors:
            close_foreign(self._descriptors.popleft())
        if event.error.code == "http":
            self.service.metrics.http_total += 1
            if self.service.complain_once(self.peer.guard):
                _log.warning("%s speaks HTTP to a line protocol; closed (said once for each peer)", self.peer.name)
        else:
            _log.debug("%s: refused a line: %s", self.peer.name, event.error)

    def _on_quit(self, _event: Quit) -> None:
        """The session finishes by itself."""

    def _drop_body(self) -> None:
        if self._body is not None:
            self._body.discard()
            self._body = None

    # -- what a request tells ----------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Take a step in this turn of the loop, once, however many replies it brings."""
        if not self._scheduled:
            self._scheduled = True
            self.service.loop.call_soon(self._step)

    def clogged(self, turn: Turn) -> bool:
        """Whether a series should start no further image. Never on a closed connection: there it ends by its claim."""
        if self._stream.closed:
            return False
        if self._stream.pending >= SERIES_MARK:
            return True
        return self.session.held >= HELD_MARK and not self.session.flows(turn)

    def finished(self, request: Request) -> None:
        """The request is answered in full: there is room for another."""
        del self._requests[request.turn]
        self._body_bytes -= request.size
        self._wake_series()
        self.changed()

    def _wake_series(self) -> None:
        for series in self.series:
            series.wake()


_HANDLERS: dict[type[Any], Callable[[Connection, Any], None]] = {
    ScanRequest: Connection._on_scan,
    OperationRequest: Connection._on_operation,
    BodyStart: Connection._on_body_start,
    BodyData: Connection._on_body_data,
    BodyEnd: Connection._on_body_end,
    Rejected: Connection._on_rejected,
    Quit: Connection._on_quit,
}
