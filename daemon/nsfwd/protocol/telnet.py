"""The little of telnet that a line server owes its peers: commands are taken out of the text, options are declined.

Source: RFC 854 (commands), RFC 855 (options), RFC 860 (TIMING-MARK, declined like any other; Debian's telnet shows
nothing after Ctrl-C until it is answered). Knows no line and no request; the caller feeds single bytes, from IAC on.
"""

from __future__ import annotations

from enum import Enum, auto

SE, INTERRUPT_PROCESS, SB, WILL, WONT, DO, DONT, IAC = 240, 244, 250, 251, 252, 253, 254, 255


class Effect(Enum):
    """What one byte of a command does to the line being typed."""

    NOTHING = auto()
    LITERAL = auto()
    """IAC IAC: the byte 0xFF itself belongs to the line."""
    INTERRUPT = auto()
    """IAC IP (Ctrl-C): the unfinished line is dropped."""


class _State(Enum):
    TEXT = auto()
    COMMAND = auto()
    OPTION = auto()
    SUBNEGOTIATION = auto()
    SUBNEGOTIATION_COMMAND = auto()


class Telnet:
    """Reads telnet commands and remembers the answers owed. Memory is constant, answers aside."""

    def __init__(self) -> None:
        self._state = _State.TEXT
        self._verb = 0
        self._answers = bytearray()

    @property
    def in_command(self) -> bool:
        """True while the next byte belongs to a command and not to the text."""
        return self._state is not _State.TEXT

    def feed(self, byte: int) -> Effect:
        """Take the next byte: IAC, or whatever follows while ``in_command``."""
        if self._state is _State.TEXT:
            self._state = _State.COMMAND
        elif self._state is _State.COMMAND:
            return self._command(byte)
        elif self._state is _State.OPTION:
            self._answer(byte)
            self._state = _State.TEXT
        elif self._state is _State.SUBNEGOTIATION:
            if byte == IAC:
                self._state = _State.SUBNEGOTIATION_COMMAND
        else:
            self._state = _State.TEXT if byte == SE else _State.SUBNEGOTIATION
        return Effect.NOTHING

    def take_answers(self) -> bytes:
        """Return the bytes to send to the peer now, once."""
        answers = bytes(self._answers)
        self._answers.clear()
        return answers

    def _command(self, byte: int) -> Effect:
        self._state = _State.TEXT
        if byte == IAC:
            return Effect.LITERAL
        if byte == INTERRUPT_PROCESS:
            return Effect.INTERRUPT
        if byte == SB:
            self._state = _State.SUBNEGOTIATION
        elif byte in (WILL, WONT, DO, DONT):
            self._verb = byte
            self._state = _State.OPTION
        return Effect.NOTHING

    def _answer(self, option: int) -> None:
        # WONT and DONT are never answered, so that two polite peers cannot talk for ever (RFC 854).
        if self._verb == DO:
            self._answers += bytes((IAC, WONT, option))
        elif self._verb == WILL:
            self._answers += bytes((IAC, DONT, option))
