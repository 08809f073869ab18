"""What the decode stage knows of one image on its way, and of one decoder process."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from nsfwd.logs import paths

if TYPE_CHECKING:
    from nsfwd.ipc.child import Child
    from nsfwd.ipc.messages import Decoded
    from nsfwd.pipeline.slots import Lease
    from nsfwd.pipeline.tickets import Ticket
    from nsfwd.protocol.messages import Image

_log = logging.getLogger("nsfwd.pipeline")


class DecodeJob:
    """One view of an image on its way to pixels.

    Attributes:
        after: what the view before it came to; None for the first.
        probe: what is asked instead of pixels (``messages.Job.probe``).
        since: ``time.monotonic()`` since when it waits.
        deaths: decoders that ended while they were on it.
        crashes: how many of these by a signal that only the file's content explains.
        digest: size and SHA-256 of the file, as the decoder that got it alone told before it began.
    """

    __slots__ = ("after", "crashes", "deaths", "digest", "image", "lease", "probe", "since", "ticket")

    def __init__(self, image: Image, ticket: Ticket, after: Decoded | None = None, *, probe: int = 0) -> None:
        self.image = image
        self.probe = probe
        self.ticket = ticket
        self.after = after
        self.since = ticket.admitted if after is None else time.monotonic()
        self.lease: Lease | None = None
        self.deaths = 0
        self.crashes = 0
        self.digest: tuple[int, str] | None = None


class Worker:
    """One decoder process and the jobs it holds.

    Attributes:
        heard: ``time.monotonic()`` when it last said something, or was given work while it had none.
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
        self.heard = 0.0
        self.alone = False
        self.overdue: int | None = None
        self.killed: float | None = None
        self.lost: Lease | None = None

    @property
    def working(self) -> bool:
        """Whether it can be given jobs."""
        return self.child is not None and self.killed is None

    def tell_of_defect(self, job: DecodeJob) -> None:
        """Log what the process said when it met a defect of its own; ``internal`` sends its reader to the log."""
        words = self.child.last_words if self.child is not None else ""
        _log.error("a defect in decoder %d while it read %s: %s", self.number, paths.show(job.image.path), words)

    def kill(self, now: float) -> None:
        """End the process; ``now`` is loop time."""
        if self.child is not None and self.killed is None:
            self.killed = now
            self.child.kill()
