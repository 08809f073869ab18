"""Decides which connection takes the next step: peers in turn, and only for so long in one turn of the loop.

Many connections of one peer that send cheap requests without end would otherwise each do a burst of them in every turn,
and everybody else would wait for all of these. Knows no socket and no request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from time import perf_counter
from typing import Protocol

TURN = 64
"""Events acted on in one step, and in all steps that are taken at once: about a millisecond of work."""

SLICE = 0.001
LONGEST = 0.05
"""Seconds that the steps of one turn of the loop may take, at least and at most: as long as all else took since the
last ones, so that they get half of the time and hold up nobody for long."""

OPERATION = 4
"""Events that an operation counts as: some take that much longer than to begin a scan."""


class Steppable(Protocol):
    """A connection, as the scheduler knows it."""

    def step(self) -> None:
        """Act on some events and send the replies that are there."""


class StepScheduler:
    """The connections that wait for their next step, by peer.

    Args:
        loop: whose turns are meant.

    Attributes:
        left: events that may still be acted on.
    """

    __slots__ = ("_at", "_ended", "_loop", "_scheduled", "_waiting", "left")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._at = self._ended = 0.0
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
        waiting, now = self._waiting, perf_counter()
        until = now + min(max(SLICE, now - self._ended), LONGEST)
        while waiting and now < until:
            peer = next(iter(waiting))
            connections = waiting.pop(peer)
            connection = next(iter(connections))
            del connections[connection]
            if connections:
                waiting[peer] = connections  # behind the other peers
            self.left = TURN
            connection.step()
            now = perf_counter()
        self._ended, self._at = now, 0.0
        self._scheduled = bool(waiting)
        if waiting:
            self._loop.call_soon(self._run)
