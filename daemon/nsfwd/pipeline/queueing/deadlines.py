"""Deadlines of many tickets on one timer of the loop.

A timer of its own for each ticket costs more than all else that admission does, and nearly all of them are cancelled
unfired. Here deadlines that fall into the same ``TICK`` share a bucket, and only the earliest bucket has a timer: a
ticket comes and goes in constant time, and nothing of it stays behind. Never early, at most a tick late.
"""

from __future__ import annotations

import asyncio

from nsfwd.pipeline.queueing.tickets import Ticket

TICK = 0.005
"""Seconds a deadline may be late: less than any image takes."""


class Deadlines:
    """The tickets with a deadline, by the tick in which they end.

    Args:
        loop: its clock counts, and it fires the timer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, set[Ticket]] = {}
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many tickets have a deadline."""
        return sum(map(len, self._buckets.values()))

    def add(self, ticket: Ticket, until: float) -> None:
        """Let ``ticket`` expire at loop time ``until`` unless it is discarded before."""
        tick = int(until / TICK) + 1
        ticket.tick = tick
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.add(ticket)
            return
        self._buckets[tick] = {ticket}
        if self._timer is None or tick < self._next:
            self._arm(tick)

    def discard(self, ticket: Ticket) -> None:
        """Forget a ticket that has its outcome, or never had a deadline."""
        bucket = self._buckets.get(ticket.tick)
        if bucket is None:
            return
        bucket.discard(ticket)
        if not bucket:
            del self._buckets[ticket.tick]  # its timer may fire once for nothing

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = tick
        self._timer = self._loop.call_at(tick * TICK, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = int(self._loop.time() / TICK + 1e-6)
        for tick in [tick for tick in self._buckets if tick <= now]:
            for ticket in self._buckets.pop(tick):
                ticket.expire()
        if self._buckets:
            self._arm(min(self._buckets))
