"""One image in the score stage: its ticket, and the lease of the slot with its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from nsfwd.pipeline.queueing.slots import Lease
    from nsfwd.pipeline.queueing.tickets import Ticket


class ScoreJob(msgspec.Struct, eq=False):
    """One image with pixels that waits for scores, or is in the engine.

    Attributes:
        ready: ``time.monotonic()`` since when it waits.
        suspect: it was in an engine that died, or in a batch that failed; it is scored alone.
        keep: the ticket gets its slot back with the scores: another model is to score the same pixels.
        lease: the slot while the engine holds it; else it is the ticket's.
    """

    ticket: Ticket
    ready: float
    keep: bool
    suspect: bool = False
    lease: Lease | None = None

    @property
    def self_test(self) -> bool:
        """Whether it is the self-test's: scored before all others, also by an engine that is not trusted yet."""
        return self.ticket.claim.reserved_slot is not None

    def hand_over(self) -> Lease:
        """The engine holds the slot from now on."""
        lease, self.ticket.lease = self.ticket.lease, None
        assert lease is not None
        self.lease = lease
        return lease

    def take_back(self) -> Lease:
        """The engine is done with the slot, or is no more."""
        lease, self.lease = self.lease, None
        assert lease is not None
        return lease
