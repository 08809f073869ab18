"""One connection: the edge around ``protocol.session``. It moves bytes, starts scans and keeps the limits of one peer.

Requests are pulled from the session only while the window has room (of images, and of bytes sent as bodies) and the
peer reads its replies; otherwise the socket is not read, which is the back-pressure. Replies of one turn of the event
loop go out with one send. Knows no dialect, no file and no process.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nsfwd.budgets import FREE_REPLY
from nsfwd.protocol.events import ScanRequest, Turn
from nsfwd.protocol.limits import SILENCE, WINDOW
from nsfwd.protocol.messages import Lane
from nsfwd.protocol.sessions import open_session, session_for
from nsfwd.server.attachments import NO_ATTACHMENT, Attachments
from nsfwd.server.handling import handle
from nsfwd.server.holdings import LONG_REQUESTS, Holdings
from nsfwd.server.listen_spec import ListenSpec
from nsfwd.server.multi_scan import HELD_MARK, SERIES_MARK, MultiScan
from nsfwd.server.peer_credentials import Peer, lower_lane
from nsfwd.server.requests import Request
from nsfwd.server.socket_stream import SocketStream

if TYPE_CHECKING:
    from nsfwd.server.context import ServerContext

BURST = 32
"""Requests understood in one step: other connections of the same peer want their turn too."""

AT_ONCE = 8
"""Scans begun before it is looked again whether there is room for more: the window changes with all that others do."""

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
        active: loop time at which something was last received or sent.
        flow: the owner of its turns in queues: peer, process, connection.
        born: loop time.
        holdings: its part in the memory that all connections share.
        attachments: the bodies and descriptors of its requests.
        parked: the request that waits until its quota has room.
        reloads: asked for and not answered.
        requests: under way.
        quota: its share of the limits of its row of the table of peers.
        why: how it ended, for the log.
        bytes_in, bytes_out: received and sent so far.
    """

    __slots__ = (
        "_draining",
        "_ended",
        "_lingering",
        "_max_bytes",
        "_on_closed",
        "_scheduled",
        "_silence",
        "_spec",
        "_stream",
        "_write_buffer",
        "active",
        "attachments",
        "born",
        "bytes_in",
        "bytes_out",
        "flow",
        "holdings",
        "parked",
        "peer",
        "quota",
        "reloads",
        "requests",
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
        service: ServerContext,
        *,
        on_closed: Callable[[Connection], None],
    ) -> None:
        self.peer = peer
        self.flow = (*peer.flow, object())  # not itself: a queue may keep it for a while
        self._spec = spec
        self.service = service
        self._on_closed = on_closed
        self._stream = SocketStream(service.loop, sock, self)
        self._max_bytes = service.settings.max_bytes
        self.session = open_session(spec.style, self._max_bytes, colour=spec.colour, operations=peer.operations)
        self._write_buffer = service.settings.write_buffer
        self.requests: dict[Turn, Request] = {}
        self.series: set[MultiScan] = set()
        self.quota = service.quotas.join(peer)
        self.holdings = Holdings(service.budgets, peer.guard)
        service.budgets.connections.add(peer.guard, 1)
        self.attachments = Attachments(service.bodies, peer.guard, self.changed)
        self.parked: ScanRequest | None = None
        self.bytes_in = self.bytes_out = self.reloads = 0
        self.why = "done"
        self._ended = self._draining = self._scheduled = False
        self._lingering: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self.born = self.active = service.loop.time()
        service.metrics.connections += 1
        service.metrics.connections_total += 1

    # -- calls of the stream -------------------------------------------------------------------------------------------

    def portion(self) -> int:
        """How many bytes to receive at a time."""
        return self.holdings.portion

    def wanted(self) -> int:
        """How many descriptors there is room for."""
        return self.attachments.wanted() if self._lingering is None else 0

    def passed(self, descriptors: Sequence[int]) -> None:
        """Descriptors came: keep them, in order, for the requests that take them."""
        self.attachments.keep(descriptors, self.service.loop.time())

    def deprived(self) -> None:
        """Descriptors came for which there is no room."""
        self.attachments.deprive()

    def received(self, data: bytes) -> None:
        """Bytes came: understand as many requests as there is room for."""
        service = self.service
        if not self.bytes_in:
            self.session = session_for(data, self.session, self._max_bytes, operations=self.peer.operations)
        self.bytes_in += len(data)
        service.metrics.bytes_in_total += len(data)
        if self._lingering is not None:
            return
        self.active = service.loop.time()
        self.session.receive_data(data)
        if service.scheduler.is_free(self.active):
            self.step()
        else:
            self._stream.read(False)
            self.changed()

    def ended(self) -> None:
        """Learn that the peer sends no more; its requests are still answered."""
        if self._lingering is not None:
            self.close()
        elif self._stream.hung_up():
            self.lost()
        else:
            self._ended = True
            self.session.receive_eof()
            self.step()

    def relieved(self) -> None:
        """The peer took bytes: there may be room for more requests and for more of a series."""
        self.wake_series()
        self.changed()

    def lost(self) -> None:
        """Close: the peer is gone, and nobody waits for its requests."""
        if self.requests:
            self.service.metrics.connections_lost_total += 1
            self.why = "its peer did not wait for its replies"
        self.close()

    # -- life ----------------------------------------------------------------------------------------------------------

    def idle_since(self) -> float | None:
        """Loop time since when nothing happens on it; None where something is under way or owed."""
        busy = self.requests or self._stream.pending or self._lingering is not None
        return None if busy else self.active

    @property
    def lane(self) -> Lane:
        """The best one that its requests may have: the listener's, or the lower one that its quota has."""
        return lower_lane(self._spec.lane, self.quota.group.lane)

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self._stream.closed

    def check(self, now: float) -> None:
        """Keep the limits of time at the loop time ``now``; called about once a second."""
        settings = self.service.settings
        self.attachments.check(now, starved=self._stream.reading)
        if not self._stream.reading and self._stream.hung_up():
            self.lost()  # while nothing is read no event says so
        elif self._stream.pending:
            if now - self._stream.progress >= settings.write_stall:
                self.service.metrics.connections_stalled_total += 1
                self.close(f"it read none of its replies for {settings.write_stall:g} seconds")
        elif not self.requests and now - self.active >= QUIET and self._stream.lost_unheard(self.active):
            self.lost()
        elif settings.idle_timeout and not self.requests and now - self.active >= settings.idle_timeout:
            if self._lingering is None:
                self.service.metrics.connections_idle_total += 1
                self.why = "idle"
            self._end()

    def drain(self) -> None:
        """Answer the requests that have arrived, which are refused by now, and then close."""
        self._draining = True
        self.why = "the daemon stops"
        self.wake_series()
        self.step()

    def close(self, why: str = "") -> None:
        """Close at once: drop replies, cancel requests. Idempotent."""
        if self._stream.closed:
            return
        self.why = why or self.why
        self._stream.close()
        for timer in (self._silence, self._lingering):
            if timer is not None:
                timer.cancel()
        self.attachments.close()
        self.session.close()  # it lives until the last of its requests, and forgets replies that nobody will read
        self.holdings.close()
        self.service.budgets.connections.add(self.peer.guard, -1)
        for request in tuple(self.requests.values()):
            request.claim.cancel("cancelled", "its client went away")
        self.wake_series()
        self.service.metrics.connections -= 1
        self.quota.give_up(self.changed)
        self.quota.leave()
        self._on_closed(self)

    # -- one step: requests in, replies out ----------------------------------------------------------------------------

    def step(self) -> None:
        """Act on some requests of the peer, and send the replies that are there; the first step begins to read."""
        self._scheduled = False
        if self._stream.closed or self._lingering is not None:
            return
        try:
            self._exchange()
        except Exception:
            _log.exception("a defect in the conversation with %s; closed", self.peer.name)
            self.close("a defect")
        self.quota.pass_on()

    def _exchange(self) -> None:
        starved = self._pull()
        if self._draining and starved and (self._ended or not self._stream.readable()):
            self.session.close()
            self._pull()
        if self._stream.closed:
            return
        self._flush()
        if self._stream.closed:
            return
        self._weigh(starved)
        if self._lingering is not None:
            return
        self._stream.read(starved and not self._ended)
        if starved and self.session.silence_wanted and self._silence is None:
            self._silence = self.service.loop.call_later(SILENCE, self._silent)

    def _pull(self) -> bool:
        """Take requests while there is room; tell whether the session then wants more bytes."""
        scheduler, free = self.service.scheduler, 0
        for _ in range(BURST if self.holdings.may_owe(FREE_REPLY + 1) else 1):
            if scheduler.left <= 0:
                break
            if not free and not (free := self._room()):
                return False
            event = self.parked or self.session.next_event()
            if event is None:
                return True
            self.parked = None
            scheduler.left -= 1
            # Of a scan nothing but a place among the requests is taken, if it is of one file and brings nothing along.
            free = free - 1 if handle(self, event) else 0
        self.changed()
        return False

    def _room(self) -> int:
        """Return how many scans of one file each may begin before it has to be looked again; 0 while nothing may."""
        unread = self._unread
        free = self.service.queue.window(WINDOW) - len(self.requests) - self.reloads
        may_go_on = (
            free > 0
            and (unread <= FREE_REPLY or (unread < self._write_buffer and self.holdings.may_owe(unread)))
            and self.attachments.in_flight < self._max_bytes
            and self.holdings.requests < LONG_REQUESTS
            and not self._stream.closed
            and (self.parked is None or self.quota.may_begin(self.changed))
            and self.attachments.try_acquire()
        )
        return min(free, AT_ONCE) if may_go_on else 0

    def _flush(self) -> None:
        data = self.session.data_to_send()
        if data:
            self.active = self.service.loop.time()
            self.bytes_out += len(data)
            self.service.metrics.bytes_out_total += len(data)
            self._stream.write(data)
        if self.session.finished and not self._stream.pending:
            self._end()

    @property
    def _unread(self) -> int:
        """Bytes of replies that the peer has not taken, or that wait for those before them."""
        return self._stream.pending + self.session.held

    def _weigh(self, starved: bool) -> None:
        """Count the memory held; an unfinished line without room is dropped, and answered at its end."""
        self.holdings.owe(self._unread)
        if not self.holdings.hear(self.session.unread) and starved:
            self.holdings.refuse_line()
            self.session.overflow()
            self.holdings.hear(self.session.unread)
            self.changed()

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
        left = self.active + SILENCE - loop.time()
        if left > 0.001:
            self._silence = loop.call_later(left, self._silent)
            return
        if self._stream.readable():  # it was not silent, but the loop was busy: its bytes are read in the next turn
            self._silence = loop.call_later(SILENCE, self._silent)
            return
        self.session.receive_silence()
        self.step()

    # -- calls of its requests -----------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Take a step soon, once, however many replies it brings."""
        if not self._scheduled:
            self._scheduled = True
            self.service.scheduler.add(self.peer.guard, self)

    def clogged(self, turn: Turn) -> bool:
        """Whether a series should start no further image. Never on a closed connection: there it ends by its claim."""
        if self._stream.closed:
            return False
        if self._stream.pending >= SERIES_MARK or not self.holdings.may_owe(self._unread):
            return True
        return self.session.held >= HELD_MARK and not self.session.flows(turn)

    def finished(self, request: Request) -> None:
        """The request is answered in full: there is room for another."""
        del self.requests[request.turn]
        if request.attachment is not NO_ATTACHMENT:
            self.attachments.answered(request.attachment)
        if request.size:
            self.holdings.end_series(request.size)
        self.wake_series()
        self.changed()

    def wake_series(self) -> None:
        """Have the requests for many images look again whether they may go on."""
        for series in self.series:
            series.wake()
