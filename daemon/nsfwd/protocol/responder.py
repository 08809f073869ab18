"""The half of a session that answers: the turns without a reply, and the order in which replies leave.

Pure, as ``session`` is, which has the other half: the requests.
"""

from __future__ import annotations

from collections.abc import Mapping

from nsfwd.errors import CodedError
from nsfwd.protocol import replies, text
from nsfwd.protocol.events import Rejected, Turn
from nsfwd.protocol.jsonio import dumps, dumps_indented
from nsfwd.protocol.messages import Dialect, Outcome, RequestId, Style
from nsfwd.protocol.outbox import Outbox


class Responder:
    """The turns of one connection and their replies.

    Args:
        style: how the listener speaks to those who send text.
        colour: whether text replies are painted at the start.
    """

    def __init__(self, style: Style, *, colour: bool) -> None:
        self._style = style
        self._taste = text.Taste(colour=colour)
        self._outbox = Outbox()
        self._number = 0
        self._in_flight = 0
        self._greeting_held = style is Style.SESSION

    @property
    def in_flight(self) -> int:
        """Turns that are not ended yet."""
        return self._in_flight

    def entry(self, turn: Turn, outcome: Outcome) -> None:
        """Give the outcome of one image: the whole reply of a single turn, one line of a series.

        Raises:
            ValueError: the turn has ended; a defect of the caller.
        """
        self._check(turn)
        if turn.tally is not None:
            turn.tally.add(outcome)
        if turn.block is not None:
            self._outbox.write(turn, turn.block.entry(outcome))
            if not turn.many:
                self._outbox.write(turn, turn.block.close(outcome.time.total))
        else:
            self._outbox.write(turn, replies.outcome_line(turn.id, outcome))
        if not turn.many:
            self._end(turn)

    def become_many(self, turn: Turn) -> None:
        """Make a series of a turn whose path is a directory, before its first entry.

        Raises:
            ValueError: the turn has ended; a defect of the caller.
        """
        self._check(turn)
        turn.begin_series()

    def done(self, turn: Turn, seconds: float, *, error: CodedError | None = None) -> None:
        """End a series; ``seconds`` since it was admitted, ``error`` when it was cut short.

        Raises:
            ValueError: the turn has ended or is not a series; a defect of the caller.
        """
        self._check(turn)
        if turn.tally is None:
            raise ValueError(f"turn {turn.number} is not a series")
        if turn.block is not None:
            self._outbox.write(turn, turn.block.close(seconds, error.code if error else ""))
        else:
            self._outbox.write(turn, replies.done_line(turn.id, turn.path, turn.tally, seconds, error))
        self._end(turn)

    def fail(self, turn: Turn, error: CodedError, seconds: float) -> None:
        """Refuse a request as a whole; of a series, cut it short.

        Raises:
            ValueError: the turn has ended; a defect of the caller.
        """
        if turn.many:
            self.done(turn, seconds, error=error)
            return
        self._check(turn)
        if turn.block is not None:
            self._outbox.write(turn, turn.block.close(seconds, error.code))
        elif turn.op is not None:
            self._write_operation(turn, replies.operation_error(turn.id, turn.op, error))
        else:
            self._outbox.write(turn, replies.error_line(turn.id, turn.path, error, seconds))
        self._end(turn)

    def operation(self, turn: Turn, payload: Mapping[str, object]) -> None:
        """Give the result of an operation, without ``id``, ``op`` and ``status``.

        Raises:
            ValueError: the turn has ended or is not an operation; a defect of the caller.
        """
        self._check(turn)
        if turn.op is None:
            raise ValueError(f"turn {turn.number} is not an operation")
        self._write_operation(turn, replies.operation_reply(turn.id, turn.op, payload))
        self._end(turn)

    # What goes out

    def data_to_send(self) -> bytes:
        """Return what is to be written to the peer now, once."""
        return self._outbox.take()

    @property
    def held(self) -> int:
        """Bytes of replies held back until earlier text requests are answered."""
        return self._outbox.held

    def flows(self, turn: Turn) -> bool:
        """Tell whether an entry of this turn would go out at once. Where not, listing on would only fill memory."""
        return self._outbox.flows(turn)

    def _turn(self, request: RequestId, dialect: Dialect, path: bytes | None = None, op: str | None = None) -> Turn:
        self._number += 1
        self._in_flight += 1
        turn = Turn(self._number, request, dialect, path, op)
        if dialect is Dialect.TEXT:
            self._outbox.open(turn)
        return turn

    def _check(self, turn: Turn) -> None:
        if turn.ended:
            raise ValueError(f"turn {turn.number} has ended")

    def _end(self, turn: Turn) -> None:
        turn.ended = True
        self._in_flight -= 1
        if turn.dialect is Dialect.TEXT:
            prompt = text.prompt(colour=self._taste.colour) if self._style is Style.SESSION else b""
            self._outbox.close(turn, prompt)

    def _reject(self, turn: Turn, error: CodedError) -> Rejected:
        self.fail(turn, error, 0.0)
        return Rejected(turn, error)

    def _greet(self) -> None:
        self._greeting_held = False
        self._outbox.greet(text.greeting(colour=self._taste.colour))

    def _say(self, words: bytes) -> None:
        """Answer a text line at once, in its place."""
        turn = self._turn(None, Dialect.TEXT)
        self._outbox.write(turn, words)
        self._end(turn)

    def _write_operation(self, turn: Turn, reply: Mapping[str, object]) -> None:
        if turn.dialect is Dialect.TEXT and self._style is Style.SESSION:
            self._outbox.write(turn, dumps_indented(reply) + b"\n\n")
        else:
            self._outbox.write(turn, dumps(reply) + b"\n")
