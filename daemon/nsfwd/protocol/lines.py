"""Bytes into lines: LF or CRLF ends one, a limit bounds it, telnet commands are taken out, raw bodies are left alone.

Every byte is looked at a constant number of times, however the stream was cut; memory is bounded by one line and by
what was received and not yet pulled. Knows the first byte of a line (it decides the limit), and nothing else of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nsfwd.protocol.limits import JSON_LINE, TEXT_LINE
from nsfwd.protocol.telnet import Effect, Telnet

_LF = b"\n"
_CR = b"\r"
_IAC = b"\xff"

SHOWN_OF_TOO_LONG = 60
"""Bytes kept of a line over the limit, so that a person can recognize it."""


@dataclass(slots=True)
class Line:
    """One line without its end; of a line ``too_long`` only the first bytes, as of one for which there was ``no_room``.

    The latter is ``too_long`` as well: for the memory that was left to its sender.
    """

    data: bytes
    too_long: bool = False
    no_room: bool = False


class LineReader:
    """Collects received bytes and gives them out as lines, or raw.

    Args:
        telnet: take telnet commands out of lines and answer them.
    """

    def __init__(self, *, telnet: bool) -> None:
        self._raw = bytearray()
        self._start = 0
        self._line = bytearray()
        self._limit = TEXT_LINE
        self._dropped = b""
        self._no_room = False
        self._filtering = telnet
        self.telnet = Telnet()

    @property
    def partial(self) -> bool:
        """True while a line has begun and not ended."""
        return bool(self._line or self._dropped)

    @property
    def held(self) -> int:
        """Bytes received and not pulled yet."""
        return len(self._raw) - self._start + len(self._line)

    @property
    def opening(self) -> bytes:
        """First byte of the unfinished line; empty when there is none."""
        return bytes(self._line[:1]) or self._dropped[:1]

    def receive(self, data: bytes) -> None:
        """Append what the peer sent."""
        if self._start:
            del self._raw[: self._start]  # moves a pointer, not the bytes
            self._start = 0
        self._raw += data

    def discard(self) -> None:
        """Forget everything received and not yet pulled."""
        self._raw.clear()
        self._start = 0
        self._line.clear()
        self._dropped, self._no_room = b"", False

    def overflow(self) -> None:
        """Drop the unfinished line, also the part that is still to come: there is no room for it."""
        if self._line:
            self._dropped, self._no_room = bytes(self._line[:SHOWN_OF_TOO_LONG]), True
            self._line.clear()

    def take(self, count: int) -> bytes:
        """Return up to ``count`` raw bytes; empty when none are here."""
        stop = min(self._start + count, len(self._raw))
        with memoryview(self._raw) as view:
            piece = bytes(view[self._start : stop])
        self._start = stop
        if stop == len(self._raw):
            self._raw.clear()
            self._start = 0
        return piece

    def next_line(self, *, ended: bool = False) -> Line | None:
        """Return the next line, or None when more bytes are needed.

        Args:
            ended: nothing more belongs to the line: an unfinished one counts as a line.
        """
        raw = self._raw
        newline = raw.find(_LF, self._start)
        if newline >= 0 and not (self._line or self._dropped or (self._filtering and self.telnet.in_command)):
            line = bytes(raw[self._start : newline])
            if len(line) <= TEXT_LINE and not (self._filtering and _IAC in line):  # nearly every line is such a one
                self._start = newline + 1
                return Line(line[:-1] if line.endswith(_CR) else line)
        while self._start < len(raw):
            if self.telnet.in_command:
                self._command(raw[self._start])
                continue
            if -1 < newline < self._start:  # a telnet command held that LF
                newline = raw.find(_LF, self._start)
            stop = newline if newline >= 0 else len(raw)
            iac = raw.find(_IAC, self._start, stop) if self._filtering else -1
            if iac >= 0:
                self._keep(raw[self._start : iac])
                self._start = iac
                self._command(raw[iac])
                continue
            self._keep(raw[self._start : stop])
            self._start = stop
            if newline >= 0:
                self._start += 1
                return self._finish(complete=True)
        raw.clear()
        self._start = 0
        return self._finish(complete=False) if ended and self.partial else None

    def _command(self, byte: int) -> None:
        self._start += 1
        effect = self.telnet.feed(byte)
        if effect is Effect.LITERAL:
            self._keep(bytearray(_IAC))
        elif effect is Effect.INTERRUPT:
            self._line.clear()
            self._dropped, self._no_room = b"", False

    def _keep(self, piece: bytearray) -> None:
        if self._dropped or not piece:
            return
        line = self._line
        if not line:
            self._limit = JSON_LINE if piece[:1] == b"{" else TEXT_LINE
        if len(line) + len(piece) > self._limit + 1:  # one more than the limit may be the CR of the line's end
            self._dropped = bytes(line[:SHOWN_OF_TOO_LONG] + piece[:SHOWN_OF_TOO_LONG])[:SHOWN_OF_TOO_LONG]
            line.clear()
        else:
            line += piece

    def _finish(self, *, complete: bool) -> Line:
        line, dropped, no_room = bytes(self._line), self._dropped, self._no_room
        self._line.clear()
        self._dropped, self._no_room = b"", False
        if dropped:
            return Line(dropped, too_long=True, no_room=no_room)
        if complete and line.endswith(_CR):
            line = line[:-1]
        if len(line) > self._limit:
            return Line(line[:SHOWN_OF_TOO_LONG], too_long=True)
        return Line(line)
