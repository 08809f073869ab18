r"""One conversation as a state machine: bytes in, events out; outcomes in, bytes out.

Pure: no socket, no clock, no task. The connection feeds bytes, tells of silence and of the end, pulls events while its
window has room, answers each ``Turn`` once, and writes ``data_to_send``. Nothing a peer sends makes a method raise.

    bytes --> LineReader --> JSON line --> wire.parse --+--> events --> the connection --> entry, done, fail, operation
                        \--> text line --> command/path +                                      |
    data_to_send <-- JSON replies at once, text replies in the order of their requests <-------+

Text is ordered and JSON is not: while a text request is being answered JSON replies wait for the end of its block.
"""

from __future__ import annotations

from collections import deque

from nsfwd.errors import CodedError
from nsfwd.protocol import text, wire
from nsfwd.protocol.bodies import IncomingBody
from nsfwd.protocol.events import (
    BodyData,
    BodyEnd,
    BodyStart,
    Event,
    Handled,
    OperationRequest,
    Quit,
    Rejected,
    ScanRequest,
    Turn,
)
from nsfwd.protocol.http_guard import ANSWER, is_foreign
from nsfwd.protocol.lines import Line, LineReader
from nsfwd.protocol.messages import Dialect, Image, Operation, Scan, Style
from nsfwd.protocol.responder import Responder
from nsfwd.quantities import format_size


class Session(Responder):
    """What was said and what is owed on one connection.

    Args:
        style: how the listener speaks to those who send text.
        max_bytes: longest encoded image taken by ``bytes`` or ``data``; a longer one is dropped, then ``too_large``.
        colour: whether text replies are painted at the start.
        operations: operations open to this peer.
    """

    def __init__(
        self,
        *,
        style: Style,
        max_bytes: int,
        colour: bool = False,
        operations: frozenset[str] = wire.OPEN_OPERATIONS,
    ) -> None:
        super().__init__(style, colour=colour)
        self._max_bytes = max_bytes
        self._operations = operations
        self._reader = LineReader(telnet=style is not Style.PLAIN)
        self._events: deque[Event] = deque()
        self._inline = 0  # bytes of the image that came inside a line, among the events
        self._body: IncomingBody | None = None
        self._eof = False
        self._silent = False
        self._first = True
        self._ending = False  # no further request is read
        self._prompting = style is Style.SESSION

    # What the peer does

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer. What comes after the end of the conversation is forgotten."""
        if not self._ending or self._body is not None:
            self._reader.receive(data)

    def receive_eof(self) -> None:
        """Learn that the peer sends nothing more; it may still read."""
        self._eof = True

    def receive_silence(self) -> None:
        """Learn that ``limits.SILENCE`` seconds passed without a byte. Call it only while ``silence_wanted``."""
        if self._greeting_held:
            self._greet()
        self._silent = self._style is Style.ONESHOT and self._reader.partial

    def overflow(self) -> None:
        """Drop the unfinished line, for which there is no memory; at its end it is answered ``busy``."""
        self._reader.overflow()

    def close(self) -> None:
        """Read no further request; the session is finished once those in flight are answered."""
        self._ending = True
        body, self._body = self._body, None
        if body is not None:
            self._events.append(self._reject(body.turn, body.error or CodedError("draining")))
        self._reader.discard()

    @property
    def silence_wanted(self) -> bool:
        """True while ``receive_silence`` would mean something: look after each pull, re-arm at each byte."""
        if self._eof or self._ending:
            return False
        return self._greeting_held or (self._style is Style.ONESHOT and self._reader.partial)

    @property
    def finished(self) -> bool:
        """True when nothing will be sent beyond what ``data_to_send`` returns now."""
        return self._ending and self._body is None and not self._events and not self._in_flight

    @property
    def unread(self) -> int:
        """Bytes received and not understood yet, or not taken."""
        return self._reader.held + self._inline

    # What the connection pulls

    def next_event(self) -> Event | None:
        """Return the next thing to act on, or None when that needs more input. Nothing is read ahead of it."""
        if self._events:
            event = self._events.popleft()
            if self._inline and type(event) is BodyData:
                self._inline = 0
            return event
        if self._body is not None:
            return self._read_body(self._body)
        if self._ending:
            self._reader.discard()
            return None
        line = self._read_line()
        return None if line is None else self._take_line(line) or Handled()

    def _read_line(self) -> Line | None:
        line = self._reader.next_line(ended=self._eof or self._silent)
        self._silent = False
        if self._style is not Style.PLAIN:
            self._outbox.send(self._reader.telnet.take_answers())
        if self._greeting_held and (self._reader.opening if line is None else line.data[:1]) == b"{":
            self._greeting_held = self._prompting = False
        if line is None:
            self._ending = self._eof
        return line

    def _take_line(self, line: Line) -> Event | None:
        first, self._first = self._first, self._first and not line.data.strip()
        self._ending = self._style is Style.ONESHOT
        if line.data.startswith(b"{"):
            return self._take_json(line)
        if not line.data.startswith(b"/") and is_foreign(line.data, first=first, too_long=line.too_long):
            return self._take_foreign(line, first=first)
        if not line.data and not (self._style is Style.ONESHOT or self._prompting):
            return None
        if self._greeting_held:
            self._greet()
        self._prompting = self._style is Style.SESSION
        if not line.data and self._prompting:
            self._say(b"")
            return None
        word = line.data.strip().lower().decode(errors="replace")
        if word in text.COMMANDS and not line.too_long:
            return self._take_command(word)
        return self._take_path(line)

    def _take_json(self, line: Line) -> Event | None:
        if line.too_long:
            return self._reject(self._turn(None, Dialect.NDJSON), _too_long(line))
        parsed = wire.parse(line.data)
        turn = self._turn(parsed.id, Dialect.NDJSON, parsed.path, parsed.op)
        turn.passed = parsed.passed
        error = parsed.error
        scan = parsed.ask if isinstance(parsed.ask, Scan) else None
        size = parsed.body if parsed.data is None else len(parsed.data)
        if error is None and size is not None and size > self._max_bytes:
            error = CodedError("too_large", f"more than {format_size(self._max_bytes)}")
        if parsed.body is not None:
            self._body = IncomingBody(turn, parsed.body, scan, error)
            return BodyStart(turn, parsed.body) if error is None else None
        if error is not None:
            return self._reject(turn, error)
        if isinstance(parsed.ask, Operation):
            return self._request_operation(turn, parsed.ask)
        assert scan is not None
        if scan.many:
            turn.begin_series()
        request = ScanRequest(turn, scan)
        if parsed.data is None:
            return request
        if parsed.data:
            self._inline = len(parsed.data)
            self._events.append(BodyData(turn, parsed.data))
        self._events.extend((BodyEnd(turn), request))
        return BodyStart(turn, len(parsed.data))

    def _read_body(self, body: IncomingBody) -> Event | None:
        piece = body.take(self._reader)
        if piece:
            return BodyData(body.turn, piece)
        if body.left and not self._eof:
            return None
        self._body = None
        error = body.error or (CodedError("short_body") if body.left else None)
        if error is not None:
            return self._reject(body.turn, error)
        assert body.scan is not None
        self._events.append(ScanRequest(body.turn, body.scan))
        return BodyEnd(body.turn)

    def _take_foreign(self, line: Line, *, first: bool) -> Event:
        """Answer a peer of another protocol, in HTTP where nothing was said before; no further line is read."""
        self._greeting_held = False
        self._ending = True
        if not first:
            return self._take_path(line, "http")
        turn = self._turn(None, Dialect.NDJSON)
        self._outbox.send(ANSWER)
        self._end(turn)
        return Rejected(turn, CodedError("http"))

    def _take_path(self, line: Line, code: str = "") -> Event:
        """Ask for a scan of the path that a line names, or refuse it with ``code``."""
        dialect = Dialect.NDJSON if self._style is Style.PLAIN else Dialect.TEXT
        path = line.data + b"..." if line.too_long else line.data
        turn = self._turn(None, dialect, path)
        if dialect is Dialect.TEXT:
            compact = self._style is Style.ONESHOT
            turn.block = self._taste.block(path, compact=compact)
            self._outbox.write(turn, turn.block.scanning())
        try:
            if code:
                raise CodedError(code)
            if line.too_long:
                raise _too_long(line)
            return ScanRequest(turn, Scan(None, dialect, (Image(wire.check_path(path)),)))
        except CodedError as error:
            return self._reject(turn, error)

    def _take_command(self, word: str) -> Event | None:
        if word in wire.OPERATIONS:
            dialect = Dialect.NDJSON if self._style is Style.PLAIN else Dialect.TEXT
            return self._request_operation(self._turn(None, dialect, op=word), Operation(None, dialect, word))
        if self._style is not Style.SESSION:
            return self._take_bare_command(word)
        if word == "quit":
            self._ending = True
            return Quit()
        self._say(self._taste.change(word))
        return None

    def _take_bare_command(self, word: str) -> Event | None:
        """Answer a word other than an operation where replies are JSON; ``labels`` and the like mean nothing there."""
        turn = self._turn(None, Dialect.NDJSON, op=word)
        if word == "quit":
            self._ending = True
            self.operation(turn, {})
            return Quit()
        if word != "help":
            return self._reject(turn, CodedError("unsupported"))
        self.operation(turn, {"commands": text.COMMANDS})
        return None

    def _request_operation(self, turn: Turn, operation: Operation) -> Event:
        try:
            wire.check_operation(operation.op, self._operations)
        except CodedError as error:
            return self._reject(turn, error)
        return OperationRequest(turn, operation)


def _too_long(line: Line) -> CodedError:
    """Say why a line was dropped."""
    if line.no_room:
        return CodedError("busy", "no memory for a line of this length", retry_after=1.0)
    return CodedError("line_too_long")
