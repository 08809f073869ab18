"""Limits of single peers: the rows of the table of peers, and how much of each is in use.

A connection is a ``ConnectionQuota`` of the row that its peer matches first. A reload puts every quota into its row
of the new table. Knows no socket and no request.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from nsfwd.config.peers import OTHERS, Network, PeerRow
from nsfwd.errors import CodedError
from nsfwd.protocol.limits import WINDOW
from nsfwd.protocol.messages import Lane

if TYPE_CHECKING:
    from nsfwd.server.peer_credentials import Peer

NOT_WELCOME = "the operator does not let this peer ask"

LONGEST_WAIT = 60.0
"""Longest ``retry_after`` of a refusal, in seconds."""

LATENESS = 0.1
"""Share by which ``retry_after`` is longer than the wait at most, so that the token is there by then."""


class TokenBucket:
    """Allows ``rate`` events a second, and as many at once as a second brings, but at least one.

    A refusal takes nothing, however many there are. The waits of refused callers end one after the other.
    """

    __slots__ = ("_promised", "_since", "_tokens", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._tokens = max(1.0, rate)
        self._since = self._promised = now

    def take(self, now: float) -> float:
        """Take one; return 0, or in how many seconds to try again."""
        self._tokens = min(max(1.0, self.rate), self._tokens + (now - self._since) * self.rate)
        self._since = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return min(max((1.0 - self._tokens) / self.rate, 0.001), LONGEST_WAIT)

    def promise(self, now: float, wait: float) -> float:
        """Return in how many seconds a refused caller has its turn, behind those that were refused before.

        Args:
            wait: seconds until there is a token at all.
        """
        self._promised = min(max(now + wait, self._promised + 1.0 / self.rate), now + LONGEST_WAIT)
        return self._promised - now


@dataclass(slots=True)
class QuotaCounts:
    """What the peers of one row did: ``requests`` understood, ``limited`` by rate, connections ``denied``."""

    requests: int = 0
    limited: int = 0
    denied: int = 0


class QuotaGroup:
    """One row of the table and how much of it is in use.

    Attributes:
        lane: its best one, or None.
        roots: below which it may scan; none for the daemon's own.
        connections: open now.
        in_flight: images now.
        shut: nobody may ask, but for admins.
        bounded: not any number may be; only then does anybody wait.
        counts: kept over reloads.
    """

    def __init__(self, row: PeerRow, counts: QuotaCounts, now: float) -> None:
        self.row = row
        self.name = row.name
        self.lane = Lane(row.lane) if row.lane is not None else None
        self.roots = tuple(os.fsencode(root) for root in row.roots)
        self.counts = counts
        self.connections = 0
        self.in_flight = 0
        self._uids, self._gids = row.uids(), row.gids()
        self._networks: dict[int, list[Network]] = {4: [], 6: []}
        for network in row.networks():
            self._networks[network.version].append(network)
        self.bucket = TokenBucket(row.rate, now) if row.rate is not None else None
        self.bounded = row.in_flight is not None
        self.shut = row.connections == 0
        # A dict is an ordered set here: the connection that has waited longest is woken first, and any may give up.
        self._waiting: dict[Callable[[], None], None] = {}

    def matches(self, peer: Peer) -> bool:
        """Tell whether the row is about this peer."""
        if self.row.for_all or peer.uid in self._uids or not self._gids.isdisjoint(peer.gids):
            return True
        address = peer.address
        return address is not None and any(address in network for network in self._networks[address.version])

    def full_for(self, peer: Peer) -> bool:
        """Whether this peer of the row may open no further connection."""
        most = self.row.connections
        return most is not None and self.connections >= most and not self._spares(peer)

    def closed_to(self, peer: Peer) -> bool:
        """Whether this peer of the row may not ask at all."""
        return self.shut and not self._spares(peer)

    def _spares(self, peer: Peer) -> bool:
        """Whether this peer may ask all the same: an admin is kept out by name alone, for it has to fix the table."""
        return peer.admin and self.row.for_all

    @property
    def has_room(self) -> bool:
        """Whether a further image may be in flight."""
        return self.row.in_flight is None or self.in_flight < self.row.in_flight

    def wait(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called, once, when there is room for this one."""
        self._waiting[wake] = None

    def forget(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` not called any more."""
        self._waiting.pop(wake, None)

    def pass_on(self) -> None:
        """Wake the connection that has waited longest, if there is room; it passes on a place that it does not take."""
        if self._waiting and self.has_room:
            wake = next(iter(self._waiting))
            del self._waiting[wake]
            wake()

    def release(self) -> None:
        """Wake all: another row counts from now on."""
        waiting, self._waiting = self._waiting, {}
        for wake in waiting:
            wake()


class ConnectionQuota:
    """One connection's part in its row.

    Attributes:
        group: the row; another one after a reload.
        requests: understood on this connection.
        limited: of these, refused because of the rate.
    """

    __slots__ = ("_in_flight", "_promised", "_promises", "_quotas", "group", "limited", "peer", "requests")

    def __init__(self, quotas: Quotas, peer: Peer, group: QuotaGroup) -> None:
        self._quotas = quotas
        self.peer = peer
        self.group = group
        self.requests = 0
        self.limited = 0
        self._in_flight = 0
        self._promises = 0  # waits that have not ended, and the end of the last one
        self._promised = 0.0

    @property
    def barred(self) -> bool:
        """Whether the operator lets this peer ask nothing, or nothing any more."""
        return self.group.closed_to(self.peer)

    def ask(self) -> None:
        """Count a request, which may be refused.

        Raises:
            CodedError: ``not_permitted``: the operator lets this peer ask nothing any more.
        """
        self.requests += 1
        group = self.group
        group.counts.requests += 1
        if group.shut and self.barred:
            raise CodedError("not_permitted", NOT_WELCOME)

    def spend(self) -> None:
        """Take a token for one image, where the row has a rate.

        Raises:
            CodedError: ``busy``: too many a second; a retry after ``retry_after`` helps.
        """
        if self.group.bucket is not None and (seconds := self.try_acquire()):
            self.limited += 1
            self.group.counts.limited += 1
            rate = self.group.row.rate
            wait = min(self._turn_in(seconds) * random.uniform(1.0, 1.0 + LATENESS), LONGEST_WAIT)
            raise CodedError("busy", f"more than {rate:g} images a second", retry_after=round(wait, 3))

    def _turn_in(self, seconds: float) -> float:
        """Return when to try again; one that asks without waiting keeps no more turns than it has places in flight."""
        bucket, now = self.group.bucket, self._quotas.now()
        if bucket is None:
            return seconds
        if now >= self._promised:
            self._promises = 0
        if self._promises < WINDOW:
            self._promises += 1
            self._promised = now + bucket.promise(now, seconds)
        return max(seconds, self._promised - now)

    def try_acquire(self) -> float:
        """As ``spend``, but return 0 or the seconds until it may be tried again."""
        bucket = self.group.bucket
        return bucket.take(self._quotas.now()) if bucket is not None else 0.0

    def may_begin(self, wake: Callable[[], None]) -> bool:
        """Tell whether a further image may be in flight; if not, ``wake`` is called when one may."""
        group = self.group
        if not group.bounded or group.has_room:
            return True
        group.wait(wake)
        return False

    def begin(self) -> None:
        """Count an image that is in flight from now on."""
        self._in_flight += 1
        self.group.in_flight += 1
        if self.group.bounded:
            self.group.pass_on()

    def end(self) -> None:
        """Count an image that is in flight no longer."""
        self._in_flight -= 1
        self.group.in_flight -= 1
        if self.group.bounded:
            self.group.pass_on()

    def pass_on(self) -> None:
        """Wake the next connection, if there is room: this one was woken and takes nothing."""
        self.group.pass_on()

    def give_up(self, wake: Callable[[], None]) -> None:
        """Wait no longer, and leave a free place to others."""
        self.group.forget(wake)
        self.group.pass_on()

    def move(self, group: QuotaGroup) -> None:
        """Belong to another row from now on, with all that is in flight."""
        self.group.connections -= 1
        self.group.in_flight -= self._in_flight
        self.group = group
        group.connections += 1
        group.in_flight += self._in_flight

    def leave(self) -> None:
        """Forget the connection, which has closed; its images in flight end by themselves."""
        self.group.connections -= 1
        self._quotas.connected.discard(self)


class Quotas:
    """The table in force and everybody connected.

    Args:
        rows: of the settings, checked.
        now: the clock, in seconds.
    """

    def __init__(self, rows: Sequence[PeerRow], now: Callable[[], float]) -> None:
        self.now = now
        self.connected: set[ConnectionQuota] = set()
        self._counts: dict[str, QuotaCounts] = {}
        self._table: list[QuotaGroup] = []
        self.take_up(rows)

    def find(self, peer: Peer) -> QuotaGroup:
        """The row of a peer: the first that matches."""
        return next(group for group in self._table if group.matches(peer))

    def join(self, peer: Peer) -> ConnectionQuota:
        """Return the quota of a new connection."""
        quota = ConnectionQuota(self, peer, self.find(peer))
        quota.group.connections += 1
        self.connected.add(quota)
        return quota

    def take_up(self, rows: Sequence[PeerRow]) -> None:
        """Use another table: at once for new connections, at the next request for open ones."""
        former, now = {group.name: group for group in self._table}, self.now()
        if not rows or rows[-1].name != OTHERS:
            rows = (*rows, PeerRow(name=OTHERS))
        self._counts = {row.name: self._counts.get(row.name, QuotaCounts()) for row in rows}
        self._table = [QuotaGroup(row, self._counts[row.name], now) for row in rows]
        for group in self._table:
            before = former.get(group.name)
            if before is not None and before.row.rate == group.row.rate:
                group.bucket = before.bucket  # a reload gives nobody a fresh start
        for quota in self.connected:
            quota.move(self.find(quota.peer))
        for group in former.values():
            group.release()

    def stats(self) -> dict[str, dict[str, int]]:
        """Numbers of each row, by its name."""
        return {
            group.name: {
                "connections": group.connections,
                "in_flight": group.in_flight,
                **asdict(group.counts),
            }
            for group in self._table
        }
