"""The order in which replies leave: text in the order of its requests, JSON as it comes but never inside a text block.

Holds bytes of replies that may not go out yet. Knows turns and prompts, and nothing of the content of the bytes.
"""

from __future__ import annotations

from collections import deque

from nsfwd.protocol.events import Turn
from nsfwd.protocol.messages import Dialect


class Outbox:
    """Bytes on their way to the peer."""

    def __init__(self) -> None:
        self.held = 0
        self._ready: list[bytes] = []
        self._order: deque[Turn] = deque()  # text turns whose reply is not out in full
        self._json: list[bytes] = []  # lines that wait for the end of a text block
        self._at_prompt = False

    def open(self, turn: Turn) -> None:
        """Give a text turn its place in the order."""
        self._order.append(turn)

    def close(self, turn: Turn, prompt: bytes) -> None:
        """Let the turns behind this text turn go on; its reply ends with ``prompt``."""
        if prompt:
            self.write(turn, prompt)
        while self._order and self._order[0].ended:
            self._order.popleft()
            self._at_prompt = bool(prompt)
            self._release()

    def flows(self, turn: Turn) -> bool:
        """Tell whether what is written for this turn goes out at once."""
        if turn.dialect is Dialect.TEXT:
            return bool(self._order) and self._order[0] is turn
        return not self._order

    def greet(self, greeting: bytes) -> None:
        """Send the greeting, which ends with a prompt."""
        self._ready.append(greeting)
        self._at_prompt = True

    def send(self, data: bytes) -> None:
        """Send what belongs to no reply, at once."""
        if data:
            self._ready.append(data)

    def write(self, turn: Turn, data: bytes) -> None:
        """Send a piece of the reply of ``turn``, or hold it until its place comes."""
        if turn.dialect is Dialect.NDJSON:
            if not self._order:
                self._send_json(data)
                return
            self._json.append(data)
        elif self._order[0] is turn:
            self._at_prompt = False
            self.send(data)
            return
        else:
            if turn.waiting is None:
                turn.waiting = []
            turn.waiting.append(data)
        self.held += len(data)

    def take(self) -> bytes:
        """Return what may go out now, once."""
        data = b"".join(self._ready)
        self._ready.clear()
        return data

    def _release(self) -> None:
        for line in self._json:
            self.held -= len(line)
            self._send_json(line)
        self._json.clear()
        if self._order and self._order[0].waiting:
            waiting, self._order[0].waiting = self._order[0].waiting, None
            self.held -= sum(map(len, waiting))
            self._ready += waiting
            self._at_prompt = False

    def _send_json(self, line: bytes) -> None:
        if self._at_prompt:  # the cursor stands behind the prompt: a reply begins its own line
            self._at_prompt = False
            self._ready.append(b"\n")
        self._ready.append(line)
