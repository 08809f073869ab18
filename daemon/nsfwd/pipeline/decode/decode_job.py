"""One image on its way through the decode stage, and one decoder process."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from nsfwd.ipc.child_messages import NANOSECONDS
from nsfwd.logs import paths
from nsfwd.protocol.messages import FileIdentity

if TYPE_CHECKING:
    from nsfwd.ipc.child import Child
    from nsfwd.ipc.child_messages import Decoded, HashedStamp, Moment
    from nsfwd.pipeline.queueing.slots import Lease
    from nsfwd.pipeline.queueing.tickets import Ticket
    from nsfwd.protocol.messages import Image

_log = logging.getLogger("nsfwd.pipeline")


def identity_of(file: HashedStamp) -> FileIdentity:
    """Return the identity that a decoder found, with its times in nanoseconds."""
    dev, ino, size, modified, changed, sha256 = file
    return FileIdentity(dev, ino, size, _nanoseconds(modified), _nanoseconds(changed), sha256)


def _nanoseconds(moment: Moment) -> int:
    seconds, rest = moment
    return seconds * NANOSECONDS + rest


class DecodeJob(msgspec.Struct, eq=False):
    """One view of an image on its way to pixels.

    Attributes:
        after: the result of the view before it; None for the first.
        recipe: place of its preprocessing among those of all models.
        probe: the question asked instead of pixels (``messages.Job.probe``).
        since: ``time.monotonic()`` since when it waits.
        home: the decoder that has the image open, where a view came before.
        deaths: decoders that ended while they were on it, or held it alone.
        losses: decoders that ended while they held it among others and noted another, or none.
        crashes: how many of these by a signal that only the file's content explains.
        digest: size and SHA-256 of the file, reported by the decoder that got it alone before it began.
    """

    image: Image
    ticket: Ticket
    after: Decoded | None = None
    recipe: int = 0
    probe: int = 0
    since: float = 0.0
    home: DecoderWorker | None = None
    lease: Lease | None = None
    deaths: int = 0
    losses: int = 0
    crashes: int = 0
    digest: tuple[int, str] | None = None

    @property
    def spent(self) -> float:
        """Seconds for which decoders have worked on the image already: all its views together have one time limit."""
        return self.ticket.time.decode if self.after is not None else 0.0


class DecoderWorker:
    """One decoder process and the jobs it holds.

    Attributes:
        heard: ``time.monotonic()`` when it was started, last got something done, or was given work while it had none.
        useful: it has answered a job.
        futile: how many in a row ended within a moment without any use.
        alone: it has a suspect and gets nothing else.
        overdue: the job for which it was killed.
        killed: loop time at which it was killed.
        lost: the slot it was writing to when it was abandoned; back once it has ended.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.jobs: dict[int, DecodeJob] = {}
        self.child: Child | None = None
        self.greeted = False
        self.heard = self.started = time.monotonic()
        self.useful = False
        self.futile = 0
        self.alone = False
        self.overdue: int | None = None
        self.killed: float | None = None
        self.lost: Lease | None = None

    @property
    def working(self) -> bool:
        """Whether it can be given jobs: before it has greeted too, unless one in its place ended and was of no use."""
        return self.child is not None and self.killed is None and (self.greeted or not self.futile)

    def renew(self) -> None:
        """A process is started in its place."""
        self.greeted = self.alone = self.useful = False
        self.overdue = self.killed = None
        self.heard = self.started = time.monotonic()

    def log_defect(self, job: DecodeJob) -> None:
        """Log the last words of a process that met a defect of its own; the code ``internal`` refers to the log."""
        words = self.child.last_words if self.child is not None else ""
        _log.error("internal error in decoder %d while it read %s: %s", self.number, paths.show(job.image.path), words)

    def kill(self, now: float) -> None:
        """End the process; ``now`` is loop time."""
        if self.child is not None and self.killed is None:
            self.killed = now
            self.child.kill()
