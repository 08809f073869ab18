"""The jobs that wait for a decoder, in fair order, with a slot for each that makes pixels.

While no slot is free, only probes are taken. They make no pixels and need no slot, so that the cache answers however
slow the engine is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsfwd.pipeline.queueing.fair_queue import FairQueue

if TYPE_CHECKING:
    from nsfwd.pipeline.decode.decode_job import DecodeJob
    from nsfwd.pipeline.queueing.slots import Slots


KEPT_OF = 16
"""One slot a decoder, but at most one in ``KEPT_OF``, is kept for flows that only begin to ask: decoders run ahead of
the engine until the slots are full of one client's pixels, and another's request would wait for one to be scored."""


class DecodeQueue:
    """A fair queue of jobs, and of the probes among them once more.

    Args:
        slots: the leases of the arena's slots.
        workers: how many decoders there are.
    """

    def __init__(self, slots: Slots, workers: int) -> None:
        self._slots = slots
        self._kept = min(workers, slots.count // KEPT_OF)
        self._jobs: FairQueue[DecodeJob] = FairQueue()
        self._probes: FairQueue[DecodeJob] = FairQueue()

    def __len__(self) -> int:
        return len(self._jobs)

    def depths(self) -> dict[str, int]:
        """Jobs waiting in each lane."""
        return self._jobs.depths()

    def push(self, job: DecodeJob) -> None:
        """Queue behind the other jobs of its flow."""
        claim = job.ticket.claim
        self._jobs.push(job, claim.lane, claim.flow)
        if job.probe:
            self._probes.push(job, claim.lane, claim.flow)

    def push_front(self, job: DecodeJob) -> None:
        """Queue before all others of its lane."""
        lane = job.ticket.claim.lane
        self._jobs.push_front(job, lane)
        if job.probe:
            self._probes.push_front(job, lane)

    def discard(self, job: DecodeJob) -> None:
        """Take a job out if it still waits."""
        claim = job.ticket.claim
        self._jobs.discard(job, claim.lane, claim.flow)
        if job.probe:
            self._probes.discard(job, claim.lane, claim.flow)

    def pop(self) -> DecodeJob | None:
        """Take the job whose turn it is, with a lease; while there is no slot for it, the probe whose turn it is."""
        free = self._slots.free
        if free > self._kept or (free and self._jobs.fresh):
            job = self._jobs.pop()
            if job is not None and not job.probe:
                job.lease = self._slots.lease()
                return job
        else:
            job = self._probes.pop()
        if job is not None:
            self.discard(job)  # from the other queue
            job.lease = self._slots.lease_none()
        return job
