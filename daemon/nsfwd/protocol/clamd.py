r"""A conversation in clamd's protocol, with the same face as ``session.Session``: for software that speaks it already.

    zSCAN /data/a.jpg\0  -->  /data/a.jpg: OK\0  |  /data/a.jpg: NSFW.sensitive FOUND\0  |  /data/a.jpg: corrupt ERROR\0

A verdict that is an alarm is a find, any other is OK; an image without a verdict is an ERROR with the code, never OK.
 Source: clamd(8), section COMMANDS. Pure: no socket, no clock, no task. Nothing a peer sends makes a method raise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from nsfwd.errors import CodedError
from nsfwd.escaping import escape_clamd
from nsfwd.protocol import wire
from nsfwd.protocol.events import (
    BodyData,
    BodyEnd,
    BodyStart,
    Event,
    Handled,
    OperationRequest,
    Rejected,
    ScanRequest,
    Turn,
)
from nsfwd.protocol.limits import TEXT_LINE
from nsfwd.protocol.messages import Dialect, Image, Operation, Outcome, Scan

COMMANDS: dict[str, str] = {
    "PING": "`PONG`",
    "VERSION": "`nsfwd` and its version",
    "SCAN": "scan a file, or a directory with all below; the first find ends the reply",
    "CONTSCAN": "the same, and every find is reported",
    "MULTISCAN": "as `CONTSCAN`",
    "ALLMATCHSCAN": "as `CONTSCAN`",
    "INSTREAM": "scan bytes in chunks: a length (4 bytes, network order) and that many bytes; a length of 0 ends",
    "FILDES": "scan the descriptor that is passed with the one byte after the command (Unix sockets)",
    "IDSESSION": "begin a session: many commands, each reply begins with the number of its command",
    "END": "end the session",
}
"""What is understood; all else is answered ``UNKNOWN COMMAND``."""

_PATH_COMMANDS = frozenset({"SCAN", "CONTSCAN", "MULTISCAN", "ALLMATCHSCAN"})
_LENGTH = 4
CHUNKS = 256
"""Chunks of a stream that are taken at a time: some are of a single byte."""

_STREAM = b"stream"
_DESCRIPTOR = b"fd"
_UNKNOWN = b"UNKNOWN COMMAND"
_TOO_LARGE = b"INSTREAM size limit exceeded. ERROR"


@dataclass(slots=True)
class _Reply:
    """The reply of one turn: its form, and whether it has begun."""

    name: bytes
    end: bytes
    prefix: bytes
    first_alone: bool = False
    said: bool = False
    found: bool = False


@dataclass(slots=True)
class _Stream:
    """A stream of chunks that is being read."""

    turn: Turn
    total: int = 0
    left: int | None = None  # of the chunk; None while its length is read, 0 after the last one


class ClamdSession:
    """What was said and what is owed on one connection.

    Args:
        max_bytes: longest encoded image taken by ``INSTREAM``.
    """

    held = 0
    """Nothing waits for the reply before it: in a session the client tells replies apart by their number."""
    silence_wanted = False

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._events: deque[Event] = deque()
        self._stream: _Stream | None = None
        self._passing: Turn | None = None  # its descriptor comes with the next byte
        self._eof = False
        self._ending = False
        self._session: bytes | None = None  # the end of lines in a session
        self._number = 0
        self._replies: dict[Turn, _Reply] = {}
        self._out: list[bytes] = []

    # What the peer does

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer."""
        if not self._ending or self._stream is not None or self._passing is not None:
            self._buffer += data

    def receive_eof(self) -> None:
        """Learn that the peer sends nothing more; it may still read."""
        self._eof = True

    def receive_silence(self) -> None:
        """Silence means nothing here."""

    def close(self) -> None:
        """Read no further command; finished once those in flight are answered."""
        self._ending = True
        self._buffer.clear()
        stream, self._stream = self._stream, None
        passing, self._passing = self._passing, None
        if stream is not None or passing is not None:
            turn = stream.turn if stream is not None else passing
            assert turn is not None
            self._events.append(self._reject(turn, CodedError("draining")))

    def overflow(self) -> None:
        """Drop the unfinished command, for which there is no memory, and read no further one."""
        self._buffer.clear()
        self._ending = True
        self._events.append(self._reject(self._turn(b"", b"\n", first_alone=False), CodedError("busy")))

    @property
    def unread(self) -> int:
        """Bytes received and not understood yet."""
        return len(self._buffer)

    @property
    def in_flight(self) -> int:
        """Turns that are not ended yet."""
        return len(self._replies)

    @property
    def finished(self) -> bool:
        """True when nothing will be sent beyond what ``data_to_send`` returns now."""
        return self._ending and not self._events and not self._replies

    # What the connection pulls

    def next_event(self) -> Event | None:
        """Return the next thing to act on, or None when that needs more input."""
        if self._events:
            return self._events.popleft()
        if self._stream is not None:
            return self._read_stream(self._stream)
        if self._passing is not None:
            return self._read_passed(self._passing)
        if self._ending:
            self._buffer.clear()
            return None
        command = self._read_command()
        if command is None:
            self._ending = self._eof
            return None
        return self._take(*command) or Handled()

    def _read_command(self) -> tuple[bytes, bytes] | None:
        """Return a command and the end of its line: NUL after ``z``, else LF."""
        if not self._buffer:
            return None
        mark = bytes(self._buffer[:1])
        end = b"\0" if mark == b"z" else b"\n"
        stop = self._buffer.find(end, 0, TEXT_LINE + 1)
        if stop < 0 and not (self._eof or len(self._buffer) > TEXT_LINE):
            return None
        line = bytes(self._buffer if stop < 0 else self._buffer[:stop])
        if stop < 0 and not self._eof:
            line, self._ending = b"", True  # where the next command begins cannot be known
        del self._buffer[: len(line) + 1]
        line = line.removeprefix(mark) if mark in (b"z", b"n") else line
        return (line.removesuffix(b"\r") if end == b"\n" else line), end

    def _take(self, line: bytes, end: bytes) -> Event | None:
        word, _, path = line.partition(b" ")
        name = word.decode(errors="replace")
        if name == "END":
            self._ending = True
            return None
        if name == "IDSESSION" and self._session is None:
            self._session = end
            return None
        turn = self._turn(path, end, first_alone=name == "SCAN")
        if name == "INSTREAM":
            self._stream = _Stream(turn)
            self._replies[turn].name = _STREAM
            return BodyStart(turn, 0)
        if name == "FILDES":
            self._passing = turn
            self._replies[turn].name = _DESCRIPTOR
            return None
        if name in _PATH_COMMANDS:
            return self._take_path(turn, path)
        if name == "VERSION":
            turn.op = "version"
            return OperationRequest(turn, Operation(None, Dialect.TEXT, turn.op))
        self._end(turn, b"PONG" if name == "PING" else _UNKNOWN)
        return None

    def _take_path(self, turn: Turn, path: bytes) -> Event:
        turn.path = path
        try:
            image = Image(wire.check_path(path))
        except CodedError as error:
            return self._reject(turn, error)
        return ScanRequest(turn, Scan(None, Dialect.TEXT, (image,), recursive=True))

    def _read_passed(self, turn: Turn) -> Event | None:
        """Wait for the byte that brings the descriptor."""
        if not self._buffer and not self._eof:
            return None
        self._passing = None
        turn.passed = True
        if not self._buffer:
            return self._reject(turn, CodedError("no_descriptor"))
        del self._buffer[:1]
        return ScanRequest(turn, Scan(None, Dialect.TEXT, (Image(None, None),)))

    def _read_stream(self, stream: _Stream) -> Event | None:
        """Take what is here of the stream's chunks, as one piece however small they are."""
        piece = self._take_chunks(stream)
        if piece:
            return BodyData(stream.turn, piece)
        if stream.left == 0:
            return self._end_stream(stream)
        if stream.total > self._max_bytes:
            self._stream, self._ending = None, True  # as clamd: what follows is not read
            self._end(stream.turn, _TOO_LARGE)
            return Rejected(stream.turn, CodedError("too_large", f"more than {self._max_bytes} bytes"))
        return self._cut(stream) if self._eof else None

    def _take_chunks(self, stream: _Stream) -> bytes:
        """Take what is here of up to ``CHUNKS`` chunks; ``stream.left`` is 0 when the last one was taken."""
        buffer, left, total, start = self._buffer, stream.left, stream.total, 0
        pieces = []
        for _ in range(CHUNKS):
            if left is None:
                if start + _LENGTH > len(buffer):
                    break
                left = int.from_bytes(buffer[start : start + _LENGTH], "big")
                total += left
                start += _LENGTH
            if left == 0 or total > self._max_bytes:
                break
            piece = buffer[start : start + left]
            pieces.append(piece)
            start += len(piece)
            left = left - len(piece) or None
            if left:
                break
        del buffer[:start]
        stream.left, stream.total = left, total
        return b"".join(pieces)

    def _end_stream(self, stream: _Stream) -> Event:
        self._stream = None
        self._events.append(ScanRequest(stream.turn, Scan(None, Dialect.TEXT, (Image(None, None),))))
        return BodyEnd(stream.turn)

    def _cut(self, stream: _Stream) -> Event:
        self._stream, self._ending = None, True
        return self._reject(stream.turn, CodedError("short_body"))

    # What the connection answers

    def entry(self, turn: Turn, outcome: Outcome) -> None:
        """Give the outcome of one image: the whole reply of a single turn, a find or an error of a directory.

        Raises:
            ValueError: the turn has ended; a defect of the caller.
        """
        reply = self._reply(turn)
        name = reply.name if outcome.path is None else outcome.path
        judgement = outcome.judgement
        if turn.tally is not None:
            turn.tally.add(outcome)
        if judgement is None:
            self._say(reply, name, b"%s ERROR" % outcome.code.encode())
        elif judgement.alarm:
            if not (reply.found and reply.first_alone):
                self._say(reply, name, b"NSFW.%s FOUND" % escape_clamd(judgement.verdict.encode()))
            reply.found = True
        elif not turn.many:
            self._say(reply, name, b"OK")
        if not turn.many:
            self._end(turn)

    def become_many(self, turn: Turn) -> None:
        """Make a series of a turn whose path is a directory, before its first entry.

        Raises:
            ValueError: the turn has ended; a defect of the caller.
        """
        self._reply(turn)
        turn.begin_series()

    def done(self, turn: Turn, seconds: float, *, error: CodedError | None = None) -> None:
        """End a series: with an error when it was cut short, and with OK when there was nothing else to say.

        Raises:
            ValueError: the turn has ended; a defect of the caller.
        """
        reply = self._reply(turn)
        if error is not None:
            self._say(reply, reply.name, b"%s ERROR" % error.code.encode())
        elif not reply.said:
            self._say(reply, reply.name, b"OK")
        self._end(turn)

    def fail(self, turn: Turn, error: CodedError, seconds: float) -> None:
        """Refuse a command as a whole; of a series, cut it short.

        Raises:
            ValueError: the turn has ended; a defect of the caller.
        """
        self.done(turn, seconds, error=error)

    def operation(self, turn: Turn, payload: Mapping[str, object]) -> None:
        """Give the result of ``VERSION``.

        Raises:
            ValueError: the turn has ended; a defect of the caller.
        """
        self._end(turn, b"nsfwd %s" % str(payload.get("version", "")).encode())

    # What goes out

    def data_to_send(self) -> bytes:
        """Return what is to be written to the peer now, once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def flows(self, turn: Turn) -> bool:
        """Tell whether an entry of this turn would go out at once: always."""
        return True

    def _turn(self, name: bytes, end: bytes, *, first_alone: bool) -> Turn:
        self._number += 1
        turn = Turn(self._number, None, Dialect.TEXT)
        prefix = b"" if self._session is None else b"%d: " % self._number
        self._replies[turn] = _Reply(name, self._session or end, prefix, first_alone)
        self._ending = self._ending or self._session is None
        return turn

    def _reply(self, turn: Turn) -> _Reply:
        if turn.ended:
            raise ValueError(f"turn {turn.number} has ended")
        return self._replies[turn]

    def _say(self, reply: _Reply, name: bytes, what: bytes) -> None:
        reply.said = True
        self._out.append(b"%s%s: %s%s" % (reply.prefix, escape_clamd(name), what, reply.end))

    def _end(self, turn: Turn, last: bytes = b"") -> None:
        reply = self._reply(turn)
        if last:
            self._out.append(reply.prefix + last + reply.end)
        turn.ended = True
        del self._replies[turn]

    def _reject(self, turn: Turn, error: CodedError) -> Rejected:
        self.fail(turn, error, 0.0)
        return Rejected(turn, error)
