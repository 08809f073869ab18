"""One connection: the edge around ``protocol.session``. It moves bytes, starts scans and keeps the limits of one peer.

Requests are pulled from the session only while the window has room (of images, and of bytes sent as bodies) and the
peer reads its replies; otherwise the socket is not read, which is the back-pressure. Replies of one turn of the event
loop go out with one send. Knows no dialect, no file and no process.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection, Sequence
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
from nsfwd.protocol.limits import SILENCE, WINDOW
from nsfwd.protocol.messages import Lane
from nsfwd.server import conversations
from nsfwd.server.addresses import ListenSpec
from nsfwd.server.inquiries import answer
from nsfwd.server.parcels import Parcels
from nsfwd.server.peering import NOT_WELCOME
from nsfwd.server.peers import Peer, lower_lane
from nsfwd.server.requests import Request
from nsfwd.server.series import HELD_MARK, SERIES_MARK, Series
from nsfwd.server.stream import Stream

if TYPE_CHECKING:
    from nsfwd.server.service import Service

BURST = 32
"""Requests understood in one turn of the loop: a peer that sends many cheap ones must not keep the others waiting."""

LINGER = 1.0
"""Seconds in which input is read and dropped after the last reply: closing with unread input would reset the
connection, and a reset can take the reply with it."""

QUIET = 1.0
"""Seconds without a byte after which a connection that owes nothing is looked at once: its peer may be gone unheard."""

_log = logging.getLogger("nsfwd.server")


class Connection:
    """A peer and its requests.

    Args:
        sock: accepted; closed here.
        spec: of the listener it came through.
        service: what all connections share.
        on_closed: called once, when the socket is closed.

    Attributes:
        asker: whose turn it is, among all who ask.
        born: loop time.
        member: its part in what its row of the table of peers allows.
        why: how it ended, for the log.
        bytes_in, bytes_out: received and sent so far.
    """

    __slots__ = (
        "_active",
        "_draining",
        "_ended",
        "_lingering",
        "_max_bytes",
        "_on_closed",
        "_parcels",
        "_parked",
        "_requests",
        "_scheduled",
        "_silence",
        "_spec",
        "_stream",
        "_write_buffer",
        "asker",
        "born",
        "bytes_in",
        "bytes_out",
        "member",
        "peer",
        "series",
        "service",
        "session",
        "why",
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
        self.asker = (*peer.circles, object())  # not itself: a queue may keep it for a while
        self._spec = spec
        self.service = service
        self._on_closed = on_closed
        self._stream = Stream(service.loop, sock, self)
        self._max_bytes = service.settings.max_bytes
        self.session = conversations.begin(spec, peer, self._max_bytes)
        self._write_buffer = service.settings.write_buffer
        self._requests: dict[Turn, Request] = {}
        self.series: set[Series] = set()
        self.member = service.peering.join(peer)
        self._parcels = Parcels(service.bodies, self.changed)
        self._parked: ScanRequest | None = None
        self.bytes_in = self.bytes_out = 0
        self.why = "done"
        self._ended = False
        self._draining = False
        self._scheduled = False
        self._lingering: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self.born = self._active = service.loop.time()
        service.metrics.connections += 1
        service.metrics.connections_total += 1

    def start(self) -> None:
        """Begin to read; a session's greeting goes out when its time has come."""
        self._step()

    # -- what the stream tells ---------------------------------------------------------------------------------------

    def passed(self, descriptors: Sequence[int]) -> None:
        """Descriptors came: keep them, in order, for the requests that take them."""
        self._parcels.keep(descriptors, wanted=self._lingering is None)

    def received(self, data: bytes) -> None:
        """Bytes came: understand as many requests as there is room for."""
        self.bytes_in += len(data)
        self.service.metrics.bytes_in_total += len(data)
        if self._lingering is not None:
            return
        self._active = self.service.loop.time()
        self.session = conversations.suited(self.session, data, self.peer, self._max_bytes)
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
        self.wake_series()
        self.changed()

    def lost(self) -> None:
        """The peer is gone: nobody waits for what is under way."""
        if self._requests:
            self.service.metrics.connections_lost_total += 1
            self.why = "its peer did not wait for its replies"
        self.close()

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def under_way(self) -> Collection[Request]:
        """Its scans that are not answered in full."""
        return self._requests.values()

    @property
    def lane(self) -> Lane:
        """The best one that its requests may have: the listener's, or the lower one that its member has."""
        return lower_lane(self._spec.lane, self.member.allowance.lane)

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self._stream.closed

    def check(self, now: float) -> None:
        """Keep the limits of time; called about once a second.

        Args:
            now: loop time.
        """
        settings = self.service.settings
        self._parcels.check(now)
        if self._stream.pending:
            if now - self._stream.progress >= settings.write_stall:
                self.service.metrics.connections_stalled_total += 1
                self.close(f"it read none of its replies for {settings.write_stall:g} seconds")
        elif not self._requests and now - self._active >= QUIET and self._stream.lost_unheard(self._active):
            self.lost()
        elif settings.idle_timeout and not self._requests and now - self._active >= settings.idle_timeout:
            if self._lingering is None:
                self.service.metrics.connections_idle_total += 1
                self.why = "idle"
            self._end()

    def drain(self) -> None:
        """Answer what has arrived, which is refused by now, and then close."""
        self._draining = True
        self.why = "the daemon stops"
        self.wake_series()
        self._step()

    def close(self, why: str = "") -> None:
        """Close at once: drop replies, give up what is under way. Idempotent."""
        if self._stream.closed:
            return
        self.why = why or self.why
        self._stream.close()
        for timer in (self._silence, self._lingering):
            if timer is not None:
                timer.cancel()
        self._parcels.close()
        for request in tuple(self._requests.values()):
            request.claim.cancel("cancelled", "its client went away")
        self.wake_series()
        self.service.metrics.connections -= 1
        self.member.give_up(self.changed)
        self.member.leave()
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
            self.close("a defect")
        self.member.pass_on()

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
            event = self._parked or self.session.next_event()
            if event is None:
                return True
            self._parked = None
            _HANDLERS[type(event)](self, event)
        self.changed()
        return False

    def _has_room(self) -> bool:
        return (
            len(self._requests) < WINDOW
            and self._parcels.in_flight < self._max_bytes
            and self._stream.pending < self._write_buffer
            and self.session.held < self._write_buffer
            and not self._stream.closed
            and (self._parked is None or self.member.has_room(self.changed))
            and self._parcels.ready()
        )

    def _flush(self) -> None:
        data = self.session.data_to_send()
        if data:
            self._active = self.service.loop.time()
            self.bytes_out += len(data)
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
        turn, scan, member = event.turn, event.scan, self.member
        if not scan.many and not member.has_room(self.changed):
            self._parked = event
            return
        self.service.metrics.requests_total += 1
        try:
            member.ask()
            if not scan.many:
                member.spend()
            scan, size = self._parcels.take(turn, scan)
        except CodedError as error:
            self._parcels.drop(turn)
            self.session.fail(turn, error, 0.0)
            return
        self._requests[turn] = Request(self, turn, scan, size=size)

    def _on_operation(self, event: OperationRequest) -> None:
        if self.member.barred:
            self.session.fail(event.turn, CodedError("not_permitted", NOT_WELCOME), 0.0)
        else:
            answer(self, event)

    def _on_body_start(self, event: BodyStart) -> None:
        self.service.metrics.bodies_total += 1
        self._parcels.start(event.size, self.service.loop.time())

    def _on_body_data(self, event: BodyData) -> None:
        self._parcels.write(event.data, self._active)

    def _on_rejected(self, event: Rejected) -> None:
        self.service.metrics.rejected_total += 1
        self._parcels.drop(event.turn)
        if event.error.code == "http":
            self.service.metrics.http_total += 1
            if self.service.complain_once(self.peer.guard):
                _log.warning("%s speaks HTTP to a line protocol; closed (said once for each peer)", self.peer.name)
        else:
            _log.debug("%s: refused a line: %s", self.peer.name, event.error)

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
        self._parcels.answered(request.size)
        self.wake_series()
        self.changed()

    def wake_series(self) -> None:
        """What the series under way may wait for has changed."""
        for series in self.series:
            series.wake()


_HANDLERS: dict[type[Any], Callable[[Connection, Any], None]] = {
    ScanRequest: Connection._on_scan,
    OperationRequest: Connection._on_operation,
    BodyStart: Connection._on_body_start,
    BodyData: Connection._on_body_data,
    BodyEnd: lambda _connection, _event: None,  # the scan that follows takes the body
    Rejected: Connection._on_rejected,
    Quit: lambda _connection, _event: None,  # the session finishes by itself
}
