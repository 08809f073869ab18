"""Budgets of the resources that peers share: their limits, how much each peer holds, and which peer is refused.

One rule makes shares of every budget: a peer may hold at most ``GENEROSITY`` times the amount that is free. One peer
alone thus leaves an eighth for the next one, two leave a fifteenth, and a newcomer always finds something. A peer is a
user (over the Unix socket) or a host. Knows no other package and never asks the time; the server and the pipeline keep
their budgets here and ``stats`` shows all of them.
"""

from __future__ import annotations

from collections.abc import Hashable

from nsfwd.quantities import KIB, MIB

GENEROSITY = 7
"""How many times the free amount one peer may hold: one alone gets seven eighths of a budget."""

LINES = 32 * MIB
"""Bytes received and not understood yet: 28 of the longest lines of one peer at once, unfinished."""

FREE_LINE = 4 * KIB
"""Bytes of these that every connection may have whatever the others hold: a request with the longest path."""

REQUESTS = 32 * MIB
"""Bytes of requests for many images under way: of one peer, 28 of the longest lists of paths, or 1,792 directories."""

SERIES = 16 * KIB
"""Bytes that such a request counts for beside its paths: its window of images."""

REPLIES = 64 * MIB
"""Bytes of replies that peers have not read: of one peer, seven connections that read nothing at all."""

FREE_REPLY = 4 * KIB
"""Bytes of these that every connection may have whatever the others hold."""

LISTINGS = 512
"""Directories listed at once: each holds at least two of the 4,096 descriptors of the process that lists them."""

ADMINS = 8
"""Connections beyond the most allowed that are kept for admins, who can find the fault and fix it."""

SCRAPES = 64
"""Open connections of scrapers; their descriptors are among those kept back."""

OWN_DESCRIPTORS = 256
"""Least number of descriptors kept back for listeners, children, self-tests and refused connections."""

A_DECODER = 8
"""Descriptors kept back for each decoder: its link, and those for watching and starting it, twice in a reload."""

FILES = 4
"""One part in so many of the other descriptors is for images that clients send or pass; the rest is for connections."""

MOST_FILES = 16_384
"""Images that clients send or pass, at once: as many as the queue holds by default."""


class Budget:
    """So much of one resource for all peers.

    Args:
        name: its name in ``stats``.
        limit: how much there is for all; may be changed at any time.
        reserve: how much more there is for admins.

    Attributes:
        used: how much is held now.
        coming: how much is about to be asked for, for ``window``.
        refused: how often somebody was refused.
    """

    __slots__ = ("_held", "coming", "limit", "name", "refused", "reserve", "used")

    def __init__(self, name: str, limit: int, *, reserve: int = 0) -> None:
        self.name = name
        self.limit = limit
        self.reserve = reserve
        self.used = 0
        self.coming = 0
        self.refused = 0
        self._held: dict[Hashable, int] = {}

    def fits(self, peer: Hashable, more: int) -> bool:
        """Tell whether ``peer`` may hold so much more."""
        free = self.limit - self.used
        if self.used + more <= free:  # less than half is held, so that no peer has more than its share
            return True
        return more <= free and self._held.get(peer, 0) + more <= GENEROSITY * free

    def room(self, peer: Hashable, wanted: int) -> int:
        """Return how much of ``wanted`` the peer may hold more, for resources that come in pieces of one."""
        free = self.limit - self.used
        share = (GENEROSITY * (free + 1) - self._held.get(peer, 0)) // (GENEROSITY + 1)
        return max(0, min(wanted, free, share))

    def window(self, most: int) -> int:
        """Return how much of ``most`` one connection may hold, and never nothing.

        It becomes less while between four and three sixteenths of the budget are free. One peer alone may take it down
        to two: its many connections wait for each other instead of being refused, and a further one finds a place.
        """
        above = 16 * (self.limit - self.used - self.coming) - 3 * self.limit
        return most if above >= self.limit else max(1, most * above // self.limit)

    def add(self, peer: Hashable, more: int) -> None:
        """Count that a peer holds so much more, or less; the caller has asked ``fits`` where it could refuse."""
        self.used += more
        shares = self._held
        if held := shares.get(peer, 0) + more:
            shares[peer] = held
        else:
            shares.pop(peer, None)

    def held(self, peer: Hashable) -> int:
        """Return how much a peer holds."""
        return self._held.get(peer, 0)

    def largest(self) -> Hashable:
        """Return the peer that holds most; None where nobody holds anything."""
        return max(self._held, key=self._held.__getitem__, default=None)

    def stats(self) -> dict[str, int]:
        """Return its row in ``stats``."""
        return row(self.limit, self.used, self.reserve, max(self._held.values(), default=0), self.refused)


def row(limit: int, used: int, reserve: int = 0, largest: int = 0, refused: int = 0) -> dict[str, int]:
    """Return one row of the budgets in ``stats``, of something that is counted elsewhere too."""
    return {"limit": limit, "used": used, "reserve": reserve, "largest": largest, "refused": refused}


def own_descriptors(decoders: int) -> int:
    """Return how many descriptors the daemon keeps for itself, and for admins, with so many decoders."""
    return max(OWN_DESCRIPTORS, OWN_DESCRIPTORS // 4 + SCRAPES + A_DECODER * decoders) + ADMINS


class Budgets:
    """Every budget of the server's connections, by resource.

    Args:
        descriptors: how many of them connections and images may take, all together.
        max_connections, body_memory: as the settings have them; ``settle`` takes others.

    Attributes:
        connections: open connections.
        files: descriptors of images that clients send or pass, until they are answered.
        bodies: bytes of images that clients send, until they are answered.
        lines: bytes received and not understood yet.
        requests: bytes of requests for many images under way.
        replies: bytes of replies that peers have not read.
        scrapes: connections of scrapers.
    """

    def __init__(self, descriptors: int, *, max_connections: int, body_memory: int) -> None:
        self.connections = Budget("connections", 0, reserve=ADMINS)
        self.files = Budget("files", min(descriptors // FILES, MOST_FILES))
        self._most_connections = descriptors - self.files.limit
        self.bodies = Budget("bodies", 0)
        self.lines = Budget("lines", LINES)
        self.requests = Budget("requests", REQUESTS)
        self.replies = Budget("replies", REPLIES)
        self.scrapes = Budget("scrapes", SCRAPES)
        self.settle(max_connections=max_connections, body_memory=body_memory)

    def settle(self, *, max_connections: int, body_memory: int) -> None:
        """Use other limits, after a reload; a peer that holds more than they allow keeps it."""
        self.connections.limit = min(max_connections, self._most_connections)
        self.bodies.limit = body_memory

    def stats(self) -> dict[str, dict[str, int]]:
        """Return the rows of ``stats``, by name."""
        memory = (self.bodies, self.lines, self.requests, self.replies)
        budgets = (self.connections, self.files, *memory, self.scrapes)
        return {budget.name: budget.stats() for budget in budgets}

    @property
    def memory(self) -> int:
        """Bytes of this process's own memory that peers hold."""
        return self.lines.used + self.requests.used + self.replies.used
