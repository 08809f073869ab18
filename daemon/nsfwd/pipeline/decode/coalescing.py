"""Several requests for the same file at the same time: one decode for all that wait when it begins.

Every request keeps its own ticket, deadline and place in the decode queue. The one whose turn to be decoded comes first
takes along those that wait for the same path, so none has joined a decode that had begun, and none waits longer than
alone. They get its scores, or the error of the file. If it ends without either (cancelled, too late, the engine
died), one of them goes back to where it was taken from, before all others, and leads the rest.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from nsfwd.errors import CODES, CodedError, Fault
from nsfwd.pipeline.queueing.fair_queue import WEIGHTS

if TYPE_CHECKING:
    from nsfwd.pipeline.decode.decode_job import DecodeJob
    from nsfwd.pipeline.queueing.scored import Hit
    from nsfwd.pipeline.queueing.tickets import Ticket

_Key = tuple[bytes, int, tuple[bytes, ...], tuple[str, ...]]
"""Path, frames, roots and models: peers that may read different parts of the file system share nothing."""

MOST_TAKEN = 64
"""Most requests taken along by one: almost all of the gain, and handing them on stays cheap however many ask."""


class Coalescing:
    """The jobs that wait for each file, and those that share the decode of a leader.

    Attributes:
        shared: images that got the scores of another's decode.
    """

    def __init__(self) -> None:
        self._waiting: dict[_Key, dict[DecodeJob, None]] = {}
        self._taken: dict[Ticket, dict[DecodeJob, None]] = {}
        self._leaders: dict[DecodeJob, Ticket] = {}
        self.shared = 0

    def wait(self, job: DecodeJob) -> None:
        """This job waits in the queue. One with a descriptor, or for a further view, goes alone."""
        key = _key(job)
        if key is not None:
            self._waiting.setdefault(key, {})[job] = None

    def begin(self, leader: DecodeJob) -> list[DecodeJob]:
        """This job leaves the queue for a decoder; return those to take out with it: none of a better lane."""
        self.forget(leader)
        key = _key(leader)
        if key is None or leader.probe or key not in self._waiting:
            return []
        suited = (job for job in self._waiting[key] if _weight(job) <= _weight(leader))
        jobs = list(itertools.islice(suited, MOST_TAKEN))
        for job in jobs:
            self.forget(job)
            self._take(leader.ticket, job)
        return jobs

    def forget(self, job: DecodeJob) -> None:
        """This job waits no longer, neither in the queue nor for another."""
        key = _key(job)
        if key is not None and job in self._waiting.get(key, ()):
            del self._waiting[key][job]
            if not self._waiting[key]:
                del self._waiting[key]
        leader = self._leaders.pop(job, None)
        if leader is not None:
            del self._taken[leader][job]

    def share(self, leader: Ticket, hit: Hit) -> None:
        """The leader has these scores: give them to all jobs that it took along."""
        for job in self._end(leader):
            self.shared += 1
            job.ticket.resolve(hit)

    def leave(self, leader: Ticket) -> DecodeJob | None:
        """The leader has its outcome. A fault of the file is the outcome of all; else return the job that leads now."""
        jobs = self._end(leader)
        error = leader.settled
        if error is not None and CODES[error.code].fault is Fault.FILE:
            for job in jobs:
                job.ticket.fail(CodedError(error.code, error.message))
            return None
        successor = max(jobs, key=_weight, default=None)
        if successor is not None:
            for job in jobs:
                if job is not successor:
                    self._take(successor.ticket, job)
        return successor

    def _take(self, leader: Ticket, job: DecodeJob) -> None:
        self._leaders[job] = leader
        self._taken.setdefault(leader, {})[job] = None

    def _end(self, leader: Ticket) -> list[DecodeJob]:
        """The jobs that it took along and that still wait."""
        jobs = self._taken.pop(leader, {})
        for job in jobs:
            del self._leaders[job]
        return [job for job in jobs if job.ticket.settled is None]


def _weight(job: DecodeJob) -> int:
    return WEIGHTS[job.ticket.claim.lane]


def _key(job: DecodeJob) -> _Key | None:
    image = job.image
    if image.path is None or image.descriptor is not None or job.after is not None:
        return None
    claim = job.ticket.claim
    return image.path, claim.frames, claim.roots, claim.models
