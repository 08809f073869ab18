"""What the score stage knows of one image: its ticket, and who holds the slot with its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsfwd.pipeline.slots import Lease
    from nsfwd.pipeline.tickets import Ticket


class Entry:
    """One image with pixels that waits for scores, or is in the engine.

    Attributes:
        probe: a golden, scored before the engine is trusted with anything else.
        suspect: it was in an engine that died; it is scored alone.
        lease: the slot while the engine holds it; else it is the ticket's.
    """

    __slots__ = ("lease", "probe", "ready", "suspect", "ticket")

    def __init__(self, ticket: Ticket, ready: float, *, probe: bool) -> None:
        self.ticket = ticket
        self.ready = ready
        self.probe = probe
        self.suspect = False
        self.lease: Lease | None = None

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
