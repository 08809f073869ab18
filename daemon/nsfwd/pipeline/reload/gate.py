"""Where admitted images wait while nothing serves: between the end of one generation and the start of the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsfwd.pipeline.queueing.tickets import Ticket


class Gate:
    """Closed from its making on; opened once."""

    def __init__(self) -> None:
        self._waiting: set[Ticket] = set()

    async def wait(self, ticket: Ticket) -> None:
        """Wait until it is opened, or until the ticket is settled.

        Raises:
            CodedError: what settled the ticket: its deadline, a cancel, the end of the daemon.
        """
        self._waiting.add(ticket)
        try:
            await ticket.wait()
        finally:
            self._waiting.discard(ticket)

    def open(self) -> None:
        """Let everybody go on."""
        for ticket in self._waiting:
            if ticket.settled is None:
                ticket.resolve(None)
