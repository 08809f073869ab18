"""What comes along with the requests of a connection: the bytes of images, and descriptors that were passed.

Bytes wait for room in the memory that all connections share: until there is some, nothing more is read of that peer.
Descriptors do not wait: the kernel closes those for which there is no room. Knows no dialect and no pipeline.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from nsfwd.budgets import Budgets
from nsfwd.errors import CodedError
from nsfwd.ipc.fd_closer import close_foreign, closing
from nsfwd.metrics import Metrics
from nsfwd.protocol.events import Turn
from nsfwd.protocol.limits import DESCRIPTORS
from nsfwd.protocol.messages import Image, Scan
from nsfwd.quantities import KIB, MIB
from nsfwd.server.memfd_upload import MemfdUpload

PATIENCE = 10.0
"""Seconds that a body waits for room before its request is refused, and a descriptor for the request that takes it."""

HASTE = 3.0
"""The same for a descriptor while the budget of descriptors is more than half used."""

FIRST = 1 * MIB
"""Bytes of room that a body is given when it is announced; the rest when so much has come. Most images are smaller."""

SLOW = 5.0
LEAST = 256 * KIB
"""While others wait for room a body of which less than ``LEAST`` comes in ``SLOW`` seconds gives way: before those who
wait have waited for too long."""

Attachment = tuple[int, int]
"""Bytes and descriptors that a request holds until it is answered."""

NO_ATTACHMENT: Attachment = (0, 0)


class MemoryBudget:
    """The memory and descriptors for images that clients send; among those of one peer, first come, first served.

    Args:
        metrics: its gauge is how much memory is in use.
        budgets: how much there is.
    """

    def __init__(self, metrics: Metrics, budgets: Budgets) -> None:
        self._metrics = metrics
        self.bodies = budgets.bodies
        self.files = budgets.files
        # A dict is an ordered set here: each entry is a callback that is called when its owner may try again.
        self._waiting: dict[Hashable, dict[Callable[[], None], None]] = {}

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for room."""
        return bool(self._waiting)

    def take(self, peer: Hashable, size: int, files: int, own: int, wake: Callable[[], None]) -> bool:
        """Take room for ``size`` bytes and so many descriptors, or have ``wake`` called when it may try again.

        Args:
            own: bytes that it has already; one that is alone gets all it needs, so that no image is too large for ever.
        """
        first = next(iter(self._waiting.get(peer, ())), wake)
        fits = self.bodies.used == own or self.bodies.fits(peer, size)
        if first == wake and fits and self.files.fits(peer, files):
            self.forget(peer, wake)
            self.add(peer, size, files)
            return True
        self._waiting.setdefault(peer, {})[wake] = None
        return False

    def add(self, peer: Hashable, size: int, files: int = 0) -> None:
        """Count memory and descriptors that are in use, whether there is room or not."""
        self._metrics.body_bytes += size
        self.bodies.add(peer, size)
        self.files.add(peer, files)

    def refused(self) -> None:
        """Count one for which there was none."""
        self._metrics.bodies_refused_total += 1
        self.bodies.refused += 1

    def give(self, peer: Hashable, size: int, files: int) -> None:
        """Give room back."""
        self.add(peer, -size, -files)
        self._call()

    def forget(self, peer: Hashable, wake: Callable[[], None]) -> None:
        """It waits no longer."""
        waiting = self._waiting.get(peer)
        if waiting is not None and wake in waiting:
            del waiting[wake]
            if not waiting:
                del self._waiting[peer]
            self._call()

    def _call(self) -> None:
        """Wake the first of each peer: whether it has room depends on how much that peer holds."""
        for waiting in tuple(self._waiting.values()):
            next(iter(waiting))()


class Attachments:
    """Bodies and descriptors of one connection.

    Args:
        room: where the bytes of bodies have to fit.
        peer: whose share of it is used.
        wake: called when it is worth asking ``ready`` again.

    Attributes:
        in_flight: bytes of bodies whose requests are not answered yet.
    """

    __slots__ = (
        "_body",
        "_descriptors",
        "_held",
        "_kept",
        "_lost",
        "_mark",
        "_missing",
        "_peer",
        "_room",
        "_since",
        "_wake",
        "in_flight",
    )

    def __init__(self, room: MemoryBudget, peer: Hashable, wake: Callable[[], None]) -> None:
        self._room = room
        self._peer = peer
        self._wake = wake
        self._body: MemfdUpload | None = None
        self._held = 0  # bytes of room that the body has
        self._missing: int | None = None  # bytes of room that it waits for
        self._since = 0.0
        self._mark = (0.0, 0)  # since when so many bytes were there, but not LEAST more
        self._descriptors: deque[int] = deque()
        self._kept = 0.0  # when the first of them began to wait
        self._lost: CodedError | None = None  # why descriptors behind these were closed
        self.in_flight = 0

    # -- descriptors ---------------------------------------------------------------------------------------------------

    def wanted(self) -> int:
        """How many descriptors may come now. Once some were lost no later one can be matched with its request."""
        if self._lost is not None:
            return 0
        most, late = DESCRIPTORS - len(self._descriptors), closing()  # a descriptor is free once it is really closed
        return max(0, self._room.files.room(self._peer, most + late) - late)

    def keep(self, descriptors: Sequence[int], now: float) -> None:
        """Keep descriptors, in order, for the requests that take them."""
        if not self._descriptors:
            self._kept = now
        self._descriptors.extend(descriptors)
        self._room.files.add(self._peer, len(descriptors))

    def deprive(self) -> None:
        """Some of the descriptors that came last were closed by the kernel, because there was no room for them."""
        if self._lost is None:
            if len(self._descriptors) < DESCRIPTORS:
                self._room.files.refused += 1
                self._lost = CodedError("busy", _NO_DESCRIPTORS, retry_after=1.0)
            else:
                self._lost = CodedError("no_descriptor", f"more than {DESCRIPTORS} waited for their requests")

    def _drop_descriptors(self) -> None:
        while self._descriptors:
            self._drop_descriptor()

    def _drop_descriptor(self) -> None:
        close_foreign(self._descriptors.popleft())
        self._room.files.add(self._peer, -1)

    # -- bodies --------------------------------------------------------------------------------------------------------

    def start(self, size: int, now: float) -> None:
        """A body of this size begins."""
        self._body = MemfdUpload(size)
        self._missing = min(size, FIRST)
        self._since = now
        self._mark = now, 0

    def write(self, data: bytes, now: float) -> None:
        """The next bytes of the body; those beyond its room are kept too, and nothing further is read until it fits."""
        body = self._body
        assert body is not None
        self._since = now
        body.write(data)
        if body.refused:
            return
        surplus = body.written - self._held
        if surplus > 0:
            self._room.add(self._peer, surplus)
            self._held += surplus
        if surplus >= 0 and (surplus or self._held < body.size):
            self._missing = body.size - self._held

    def try_acquire(self) -> bool:
        """Take the memory for what has begun; without enough return False, and ``wake`` is called when there may be."""
        if self._missing is None:
            return True
        assert self._body is not None
        files = 0 if self._body.opened else 1
        if not self._room.take(self._peer, self._missing, files, self._held, self._wake):
            return False
        if files:
            self._body.open()
        self._held += self._missing
        self._missing = None
        return True

    def check(self, now: float, *, starved: bool) -> None:
        """Refuse a body that has waited too long, or whose sender is slow while others wait; what follows is dropped.

        Args:
            starved: everything received is parsed: no request that takes a descriptor has come.
        """
        if self._descriptors and starved and now - self._kept >= self._patience():
            self._lost = CodedError("no_descriptor", "the one passed was closed, because no request took it in time")
            self._drop_descriptors()
        body = self._body
        if body is None or body.refused:
            return
        since, before = self._mark
        if body.written - before >= LEAST:
            self._mark = now, body.written
        late = self._missing is not None and now - self._since >= PATIENCE
        slow = self._missing is None and self._room.wanted and now - since >= SLOW
        if late or (slow and body.written - before < LEAST):
            self.refuse()

    def _patience(self) -> float:
        files = self._room.files
        return PATIENCE if files.used * 2 <= files.limit else HASTE

    def refuse(self) -> None:
        """Keep nothing of the body that has begun; its request is refused."""
        assert self._body is not None
        self._body.refuse("the memory for images that clients send is in use")
        self._room.refused()
        self._release()
        self._wake()

    def take(self, turn: Turn, scan: Scan, now: float) -> tuple[Scan, Attachment]:
        """Put the body or descriptor into its request; return how much that holds until ``answered``.

        Raises:
            CodedError: ``no_descriptor``; ``busy``: the bytes or the descriptor could not be kept; ``socket``,
                ``fifo``, ``bad_path``: the descriptor cannot be a file.
        """
        if self._body is not None:
            descriptor = self._body.take()
            self._body, size, self._held = None, self._held, 0
            self.in_flight += size
            return replace(scan, images=(Image(turn.path, descriptor),)), (size, 1)
        if turn.passed:
            if not self._descriptors:
                raise self._lost or CodedError("no_descriptor")
            self._kept = now
            if code := _nameless(self._descriptors[0]):
                self._drop_descriptor()
                raise CodedError(code)
            return replace(scan, images=(Image(turn.path, self._descriptors.popleft(), foreign=True),)), (0, 1)
        return scan, NO_ATTACHMENT

    def answered(self, attachment: Attachment) -> None:
        """A request that held this is answered."""
        if attachment is not NO_ATTACHMENT:
            self.in_flight -= attachment[0]
            self._room.give(self._peer, *attachment)

    # -- attachments without a request ---------------------------------------------------------------------------------

    def drop(self, turn: Turn) -> None:
        """The request that it came with is refused."""
        self._drop_body()
        if turn.passed and self._descriptors:
            self._drop_descriptor()

    def close(self) -> None:
        """Let go of all that no request has taken."""
        self._drop_body()
        self._drop_descriptors()

    def _drop_body(self) -> None:
        if self._body is not None:
            self._release()
            self._body = None

    def _release(self) -> None:
        """Give back the room of the body, whose bytes are not kept."""
        assert self._body is not None
        self._body.discard()
        files = 1 if self._body.opened else 0
        self._body.opened = False
        held, self._held, self._missing = self._held, 0, None
        self._room.forget(self._peer, self._wake)
        if held or files:
            self._room.give(self._peer, held, files)


_NO_DESCRIPTORS = "no descriptor is free for the file that was passed; pass it again on another connection"


def _nameless(descriptor: int) -> str:
    """Return the code for a passed descriptor that no file system holds: a socket, a pipe, an object of the kernel.

    Such a one must not reach a sandboxed process, for which it could be a way out. Empty for anything else, which the
    decoder looks at: to ask here could wait for a mount that stalls.
    """
    name = os.readlink(b"/proc/self/fd/%d" % descriptor)  # noqa: PTH115 - the kernel's name, not a path
    if name.startswith(b"/"):
        return ""
    return {b"socket": "socket", b"pipe": "fifo"}.get(name.partition(b":")[0], "bad_path")
