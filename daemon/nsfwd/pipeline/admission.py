"""Who is let in. Decides at once: a ticket, or ``busy``, or ``draining``. Nothing behind it queues without bound."""

from __future__ import annotations

import asyncio
import itertools
import time

from nsfwd.errors import CodedError
from nsfwd.pipeline.deadlines import Deadlines
from nsfwd.pipeline.tickets import Claim, Ticket

_RATE_HALF_LIFE = 5.0
"""Seconds after which a past rate counts half: long enough to bridge a batch, short enough to follow a new model."""

_RETRY_BOUNDS = (0.1, 60.0)

RESTART = 1.0
"""Seconds after which to try again when the daemon stops: its queue says nothing about the one that takes its place."""


class Rate:
    """Events a second, forgetting exponentially."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._count = 0
        self.value = 0.0

    def count(self, now: float) -> None:
        """One more event."""
        self._count += 1
        elapsed = now - self._since
        if elapsed < 1.0:
            return
        keep = 0.5 ** (elapsed / _RATE_HALF_LIFE) if self.value else 0.0
        self.value = keep * self.value + (1 - keep) * self._count / elapsed
        self._since, self._count = now, 0


class Admission:
    """The tickets in flight and the limits on them.

    Args:
        queue: most images in flight at once, over all connections.
        loop: its clock dates the tickets and fires their deadlines.
    """

    def __init__(self, queue: int, loop: asyncio.AbstractEventLoop) -> None:
        self.queue = queue
        self._loop = loop
        self._numbers = itertools.count(1)
        self._deadlines = Deadlines(loop)
        self.tickets: set[Ticket] = set()
        self.draining = False
        self.rate = Rate(loop.time())
        self.admitted = 0
        self.refused: dict[str, int] = {"busy": 0, "draining": 0}
        self._empty: asyncio.Event = asyncio.Event()
        self._empty.set()

    def admit(self, claim: Claim) -> Ticket:
        """Let one image in.

        Raises:
            CodedError: ``busy`` or ``draining``, both the daemon's doing; a retry after ``retry_after`` helps.
        """
        if self.draining:
            raise self._refusal("draining")
        if len(self.tickets) >= self.queue:
            raise self._refusal("busy")
        ticket = Ticket(claim, next(self._numbers), self._loop)
        until = claim.until(self._loop.time())
        if until is not None:
            self._deadlines.add(ticket, until)
        claim.parts.add(ticket)
        self.tickets.add(ticket)
        self._empty.clear()
        self.admitted += 1
        return ticket

    def own_ticket(self, claim: Claim, slot: int) -> Ticket:
        """A ticket of the self-test: it takes no place in the queue, and no drain waits for it.

        Args:
            slot: which of the self-test's slots it uses.
        """
        return Ticket(claim, next(self._numbers), self._loop, own=slot)

    def leave(self, ticket: Ticket) -> None:
        """The ticket has its outcome."""
        self._deadlines.discard(ticket)
        ticket.time.total = time.monotonic() - ticket.admitted
        self.rate.count(self._loop.time())
        ticket.claim.parts.discard(ticket)
        self.tickets.discard(ticket)
        if not self.tickets:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until no ticket is in flight."""
        await self._empty.wait()

    def expire_all(self) -> None:
        """Settle every ticket as refused: the daemon stops and has not scored them."""
        for ticket in tuple(self.tickets):
            ticket.fail(self._refusal("draining"))

    def retry_after(self) -> float:
        """Seconds until the present queue will have been worked off, by the measured rate."""
        low, high = _RETRY_BOUNDS
        if not self.rate.value:
            return 1.0
        return round(min(max(len(self.tickets) / self.rate.value, low), high), 1)

    def _refusal(self, code: str) -> CodedError:
        self.refused[code] += 1
        return CodedError(code, retry_after=RESTART if code == "draining" else self.retry_after())
