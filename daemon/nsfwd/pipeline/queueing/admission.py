"""Admission of images: a ticket, or ``busy``, or ``draining``, at once. Nothing behind it queues without bound."""

from __future__ import annotations

import asyncio
import itertools
import random
import time

from nsfwd.budgets import Budget
from nsfwd.errors import CodedError
from nsfwd.pipeline.queueing.deadlines import Deadlines
from nsfwd.pipeline.queueing.tickets import Claim, Ticket

_RATE_HALF_LIFE = 5.0
"""Seconds after which a past rate counts half: long enough to bridge a batch, short enough to follow a new model."""

_RETRY_BOUNDS = (0.1, 60.0)

_SPREAD = (0.75, 1.25)
"""Clients that are refused at the same moment should come back one after the other."""

_ENOUGH = 0.25
"""Seconds of work after which the present second of work says more than the last one."""

RESTART = 1.0
"""Seconds after which to try again when the daemon stops: its queue says nothing about that of its successor."""


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


class FlowRate:
    """The rate of work while there is any: time without work does not count.

    Attributes:
        value: images a second, in the last full second of work; 0 before there was one.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self._done = 0
        self._worked = 0.0
        self._since: float | None = None

    def begin(self, now: float) -> None:
        """There is work from now on."""
        self._since = now

    def count(self, now: float, *, last: bool) -> None:
        """One image is done; ``last`` if there is no work any more."""
        self._done += 1
        worked = self._until(now)
        if worked >= 1.0:
            self.value = self._done / worked
            self._done, worked = 0, 0.0
        self._worked, self._since = worked, None if last else now

    def estimate(self, now: float) -> float:
        """Return images a second as far as is known; 0 if nothing is."""
        worked = self._until(now)
        if worked > 0 and self._done and (worked >= _ENOUGH or not self.value):
            return self._done / worked
        return self.value

    def _until(self, now: float) -> float:
        return self._worked if self._since is None else self._worked + now - self._since


class Admission:
    """The tickets in flight and the limits on them.

    Args:
        queue: most images in flight at once, over all connections.
        loop: its clock dates the tickets and fires their deadlines.

    Attributes:
        budget: the places in the queue, which peers share.
    """

    def __init__(self, queue: int, loop: asyncio.AbstractEventLoop) -> None:
        self.budget = Budget("queue", queue)
        self._loop = loop
        self._numbers = itertools.count(1)
        self._deadlines = Deadlines(loop)
        self.tickets: set[Ticket] = set()
        self.draining = False
        self.rate = Rate(loop.time())
        self._pace = FlowRate()
        self.admitted = 0
        self.refused: dict[str, int] = {"busy": 0, "draining": 0}
        self._empty: asyncio.Event = asyncio.Event()
        self._empty.set()

    def admit(self, claim: Claim) -> Ticket:
        """Let one image in.

        Each peer has a share of the queue, so that there is a place for a peer that has none yet.

        Raises:
            CodedError: ``busy`` or ``draining``, both the daemon's doing; a retry after ``retry_after`` helps.
        """
        if self.draining:
            raise self._refusal("draining")
        peer = claim.flow[0]
        if not self.budget.fits(peer, 1):
            self.budget.refused += 1
            raise self._refusal("busy")
        now = self._loop.time()
        ticket = Ticket(claim, next(self._numbers), self._loop)
        until = claim.until(now)
        if until is not None:
            self._deadlines.add(ticket, until)
        claim.parts.add(ticket)
        if not self.tickets:
            self._pace.begin(now)
        self.tickets.add(ticket)
        self.budget.add(peer, 1)
        self._empty.clear()
        self.admitted += 1
        return ticket

    def own_ticket(self, claim: Claim) -> Ticket:
        """Make a ticket for the self-test: it takes no place in the queue, and no drain waits for it."""
        return Ticket(claim, next(self._numbers), self._loop)

    def leave(self, ticket: Ticket) -> None:
        """The ticket has its outcome."""
        self._deadlines.discard(ticket)
        ticket.time.total = time.monotonic() - ticket.admitted
        now = self._loop.time()
        self.rate.count(now)
        ticket.claim.parts.discard(ticket)
        self.tickets.discard(ticket)
        self._pace.count(now, last=not self.tickets)
        self.budget.add(ticket.claim.flow[0], -1)
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
        """Seconds until the present queue will have been worked off, by the pace of the last second of work."""
        low, high = _RETRY_BOUNDS
        pace = self._pace.estimate(self._loop.time()) or self.rate.value
        return min(max(len(self.tickets) / pace, low), high) if pace else 1.0

    def _refusal(self, code: str) -> CodedError:
        self.refused[code] += 1
        if code == "draining":
            return CodedError(code, retry_after=RESTART)
        return CodedError(code, retry_after=round(self.retry_after() * random.uniform(*_SPREAD), 2))
