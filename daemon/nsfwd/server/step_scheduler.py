"""Decides which connection takes the next step: peers in turn, and only so much work in one turn of the event loop.

Many connections of one peer that send cheap requests without end would otherwise each do a burst of them in every turn,
and everybody else would wait for all of these. Knows no socket and no request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Protocol

TURN = 64
"""Events acted on in one turn of the loop, over all connections: about a millisecond of work."""

OPERATION = 4
"""Events that an operation counts as: some take that much longer than to begin a scan."""


class Steppable(Protocol):
    """A connection, as the scheduler knows it."""

    def step(self) -> None:
        """Act on some events and send what there is to send."""


class StepScheduler:
    """The connections that wait for their next step, by peer.

    Args:
        loop: whose turns are meant.

    Attributes:
        left: events that may still be acted on in this turn.
    """

    __slots__ = ("_at", "_loop", "_scheduled", "_waiting", "left")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._at = 0.0
        self.left = TURN
        self._scheduled = False
        # Dicts are ordered sets here: of peers whose turn it is, and of the connections of each.
        self._waiting: dict[Hashable, dict[Steppable, None]] = {}

    def is_free(self, now: float) -> bool:
        """Tell whether a connection may take a step at once: nobody waits, and the turn is not used up.

        Args:
            now: loop time, which is the same during one turn.
        """
        if now != self._at:
            self._at, self.left = now, TURN
        return self.left > 0 and not self._waiting

    def add(self, peer: Hashable, connection: Steppable) -> None:
        """Have a connection take a step in one of the next turns."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)
        self._waiting.setdefault(peer, {})[connection] = None

    def _run(self) -> None:
        waiting, self.left = self._waiting, TURN
        while waiting and self.left > 0:
            peer = next(iter(waiting))
            connections = waiting.pop(peer)
            connection = next(iter(connections))
            del connections[connection]
            if connections:
                waiting[peer] = connections  # behind the other peers
            self.left -= 1
            connection.step()
        self._scheduled = bool(waiting)
        if waiting:
            self._loop.call_soon(self._run)
