"""What comes along with the requests of a connection: the bytes of images, and descriptors that were passed.

Bytes wait for room in the memory that all connections share: until there is some, nothing more is read of that peer.
Knows no dialect and no pipeline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from nsfwd.errors import CodedError
from nsfwd.ipc.closing import close_foreign
from nsfwd.metrics import Metrics
from nsfwd.protocol.events import Turn
from nsfwd.protocol.limits import DESCRIPTORS
from nsfwd.protocol.messages import Image, Scan
from nsfwd.server.body import Body

PATIENCE = 10.0
"""Seconds that a body waits for room before its request is refused, and that a sender may rest within one while others
wait for its room: a client that is refused comes back, and one that has waited for long has given up."""


class Room:
    """The memory for images that clients send, over all connections, first come first served.

    Args:
        metrics: its gauge is how much is in use.
        most: bytes there are now; a reload may change it.
    """

    def __init__(self, metrics: Metrics, most: Callable[[], int]) -> None:
        self._metrics = metrics
        self._most = most
        # A dict is an ordered set here: whoever waits is a callback that is called when it may try again.
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for room."""
        return bool(self._waiting)

    def take(self, size: int, own: int, wake: Callable[[], None]) -> bool:
        """Take room for ``size`` bytes, or have ``wake`` called when it is this one's turn to try again.

        Args:
            own: what it has already; whoever is alone gets what it needs, so that nothing is too large for ever.
        """
        used = self._metrics.body_bytes
        first = next(iter(self._waiting), wake)
        if first == wake and (used == own or used + size <= self._most()):
            self.forget(wake)
            self.add(size)
            return True
        self._waiting[wake] = None
        return False

    def add(self, size: int) -> None:
        """Count bytes that are there, whether there is room or not."""
        self._metrics.body_bytes += size

    def refused(self) -> None:
        """Count one for which there was none."""
        self._metrics.bodies_refused_total += 1

    def give(self, size: int) -> None:
        """Give room back."""
        self._metrics.body_bytes -= size
        self._call()

    def forget(self, wake: Callable[[], None]) -> None:
        """It waits no longer."""
        if wake in self._waiting:
            del self._waiting[wake]
            self._call()

    def _call(self) -> None:
        for wake in self._waiting:
            wake()
            return


class Parcels:
    """Bodies and descriptors of one connection.

    Args:
        room: where the bytes of bodies have to fit.
        wake: called when it is worth asking ``ready`` again.

    Attributes:
        in_flight: bytes of bodies whose requests are not answered yet.
    """

    __slots__ = ("_body", "_descriptors", "_held", "_missing", "_room", "_since", "_wake", "in_flight")

    def __init__(self, room: Room, wake: Callable[[], None]) -> None:
        self._room = room
        self._wake = wake
        self._body: Body | None = None
        self._held = 0  # bytes of room that the body has
        self._missing: int | None = None  # bytes of room that it waits for
        self._since = 0.0
        self._descriptors: deque[int] = deque()
        self.in_flight = 0

    # -- descriptors -------------------------------------------------------------------------------------------------

    def keep(self, descriptors: Sequence[int], *, wanted: bool) -> None:
        """Keep descriptors, in order, for the requests that take them; close the surplus."""
        for descriptor in descriptors:
            if wanted and len(self._descriptors) < DESCRIPTORS:
                self._descriptors.append(descriptor)
            else:
                close_foreign(descriptor)

    # -- bodies ------------------------------------------------------------------------------------------------------

    def start(self, size: int, now: float) -> None:
        """A body of this size begins."""
        self._body = Body(size)
        self._missing = size or None
        self._since = now

    def write(self, data: bytes, now: float) -> None:
        """The next bytes of the body; more than was announced is kept too, and nothing further read until it fits."""
        assert self._body is not None
        self._since = now
        self._body.write(data)
        surplus = self._body.size - self._held
        if surplus > 0 and not self._body.refused:
            self._room.add(surplus)
            self._held += surplus
            self._missing = 0

    def ready(self) -> bool:
        """Tell whether there is room for what has begun; if not, ``wake`` is called when there may be."""
        if self._missing is None:
            return True
        if not self._room.take(self._missing, self._held, self._wake):
            return False
        self._held += self._missing
        self._missing = None
        return True

    def check(self, now: float) -> None:
        """Refuse a body that has waited too long, or whose sender rests while others wait; what follows is dropped."""
        if self._body is None or now - self._since < PATIENCE or self._body.refused:
            return
        if self._missing is not None or self._room.wanted:
            self._body.refuse("the memory for images that clients send is in use")
            self._room.refused()
            self._release()
            self._wake()

    def take(self, turn: Turn, scan: Scan) -> tuple[Scan, int]:
        """Put what came along into the request it belongs to; tell how many bytes it holds until ``answered``.

        Raises:
            CodedError: ``no_descriptor``; ``busy``: the bytes could not be kept.
        """
        if self._body is not None:
            descriptor = self._body.take()
            self._body, size, self._held = None, self._held, 0
            self.in_flight += size
            return replace(scan, images=(Image(turn.path, descriptor),)), size
        if turn.passed:
            if not self._descriptors:
                raise CodedError("no_descriptor")
            return replace(scan, images=(Image(turn.path, self._descriptors.popleft(), foreign=True),)), 0
        return scan, 0

    def answered(self, size: int) -> None:
        """A request with so many bytes is answered."""
        if size:
            self.in_flight -= size
            self._room.give(size)

    # -- what nobody takes -------------------------------------------------------------------------------------------

    def drop(self, turn: Turn) -> None:
        """The request that it came with is refused."""
        self._drop_body()
        if turn.passed and self._descriptors:
            close_foreign(self._descriptors.popleft())

    def close(self) -> None:
        """Let go of all that no request has taken."""
        self._drop_body()
        while self._descriptors:
            close_foreign(self._descriptors.popleft())

    def _drop_body(self) -> None:
        if self._body is not None:
            self._body.discard()
            self._body = None
            self._release()

    def _release(self) -> None:
        held, self._held, self._missing = self._held, 0, None
        self._room.forget(self._wake)
        if held:
            self._room.give(held)
