"""Claims and tickets: the outcome that each image of a request is owed, settled once.

A **claim** belongs to one request and says on whose behalf, in which lane and until when. Each image admitted under it
has a **ticket**. The first outcome of a ticket wins: a result, its deadline, a cancel, the end of a drain. A later
result finds the ticket settled and only gives its slot back.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import msgspec

from nsfwd.errors import CodedError
from nsfwd.pipeline.queueing.fair_queue import FlowKey
from nsfwd.pipeline.queueing.slots import Lease
from nsfwd.protocol.messages import FileIdentity, Lane, Timing


class ClaimPart(Protocol):
    """Something under way for a claim: a ticket or a listing."""

    def fail(self, error: CodedError) -> None:
        """End it with this error unless it has ended already."""


class Claim(msgspec.Struct, eq=False):
    """The terms on which a request's images are scored, and its owner.

    Attributes:
        flow: the flow that it belongs to (``fair_queue.FlowKey``).
        lane: the lane it is served in.
        deadline: loop time at which the whole request ends; None when only each image has a limit.
        time_limit: seconds for each image from its admission; None for no limit.
        identity: hash each opened file.
        frames: how many frames of each image to look at most; 0 for as many as the bundle says.
        roots: below which its files must lie, beside the daemon's own; none for no further limit.
        models: short names of those to be asked; none for all.
        reserved_slot: which of the self-test's slots its images use; None for the images of requests.
        parts: what is under way.
        error: what ended it, and ends everything admitted later.
    """

    flow: FlowKey
    lane: Lane
    deadline: float | None = None
    time_limit: float | None = None
    identity: bool = False
    frames: int = 0
    roots: tuple[bytes, ...] = ()
    models: tuple[str, ...] = ()
    reserved_slot: int | None = None
    parts: set[ClaimPart] = msgspec.field(default_factory=set)
    error: CodedError | None = None

    def cancel(self, code: str, message: str = "") -> None:
        """End everything under way, and everything admitted later, with this code."""
        self.error = CodedError(code, message)
        for part in tuple(self.parts):
            part.fail(self.error)

    def visible_identity(self, identity: FileIdentity | None) -> FileIdentity | None:
        """The identity that the reply shows: that of the opened file, if the client asked for it."""
        return identity if self.identity else None

    def until(self, now: float) -> float | None:
        """Loop time at which an image admitted ``now`` ends; None for never."""
        if self.time_limit is None:
            return self.deadline
        own = now + self.time_limit
        return own if self.deadline is None else min(own, self.deadline)


class Ticket:
    """One admitted image. At any moment at most one stage is awaited through ``wait``.

    Attributes:
        number: of the image, unique while the daemon lives.
        admitted: ``time.monotonic()`` at admission; a loop's clock may only tick in milliseconds.
        lease: the slot with its pixels while the server holds it; None while a child does.
        settled: the error that ended it early, or None.
        tick: when it expires, in ticks of ``Deadlines``; 0 for never.
    """

    __slots__ = ("_waiter", "admitted", "claim", "lease", "loop", "number", "settled", "tick", "time")

    def __init__(self, claim: Claim, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.claim = claim
        self.number = number
        self.loop = loop
        self.admitted = time.monotonic()
        self.time = Timing()
        self.lease: Lease | None = None
        self.settled: CodedError | None = claim.error
        self.tick = 0
        self._waiter: asyncio.Future[Any] | None = None

    def wait(self) -> asyncio.Future[Any]:
        """Wait for the present stage's ``resolve``, or until the ticket is settled; to be awaited at once.

        Raises:
            CodedError: when awaited: the ticket was settled, or the stage failed for this image.
        """
        self._waiter = self.loop.create_future()
        if self.settled is not None:
            self._waiter.set_exception(self.settled)
        return self._waiter

    def resolve(self, result: object) -> None:
        """Hand the stage's result to ``wait``."""
        assert self._waiter is not None
        if not self._waiter.done():
            self._waiter.set_result(result)

    def fail(self, error: CodedError) -> None:
        """Settle with ``error``; nothing happens if the ticket was settled before."""
        if self.settled is not None:
            return
        self.settled = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def expire(self) -> None:
        """Settle because the deadline has passed."""
        self.fail(CodedError("deadline"))
