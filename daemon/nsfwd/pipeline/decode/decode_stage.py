"""The decode stage: images wait in lanes, decoder processes turn them into pixels.

Decides which decoder gets which images, how many at a time, and whether an image is to blame for the end of its
decoder. The processes themselves are ``decoder_pool``'s. It knows nothing of scores.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

from nsfwd.errors import CODES, CodedError
from nsfwd.ipc import child_messages
from nsfwd.ipc.child import SCARCE_DELAY
from nsfwd.ipc.link import MAX_PACKET
from nsfwd.pipeline.decode.decode_job import DecodeJob, DecoderWorker
from nsfwd.pipeline.decode.decode_queue import DecodeQueue
from nsfwd.pipeline.decode.decoder_pool import DecoderPlan, DecoderPool
from nsfwd.pipeline.decode.poison_list import CRASHES, CRASHES_BEFORE_LISTING
from nsfwd.pipeline.queueing.scored import Directory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from nsfwd.errors import EngineError
    from nsfwd.ipc.child import Exit
    from nsfwd.pipeline.decode.coalescing import Coalescing
    from nsfwd.pipeline.queueing.scored import Hit
    from nsfwd.pipeline.queueing.slots import Lease
    from nsfwd.pipeline.queueing.tickets import Ticket
    from nsfwd.protocol.messages import Image

GROUP_SECONDS = 0.005
"""Work sent to a decoder beyond the image it is on: enough to hide the link, little to lose or to wait behind."""

MOST_PENDING = 32
"""Most images sent to one decoder, however small they are."""

DEATHS_BEFORE_BLAME = 2
"""A decoder may die by chance (a kill, the out-of-memory killer); dying twice on one file is the file's fault."""

LOSSES_BEFORE_SUSPICION = 2
"""A decoder may also die of an image without having noted it: an image that two held when they ended is tried alone."""


class DecodeStage:
    """The decoders and what waits for them.

    Args:
        plan: what all decoders have in common.
        on_broken: called once when decoders cannot be started at all.

    Attributes:
        coalescing: requests that share a decode; None where every image is decoded for itself.
        identify: whether to hash every file that is decoded: for the cache, or to find overrides of its content.
        queue: what waits, probes included.
        pool: the decoders.
        decoded: jobs that ended.
    """

    def __init__(self, plan: DecoderPlan, *, on_broken: Callable[[EngineError], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots = plan.slots
        self._poison = plan.poison
        self.pool = DecoderPool(self, plan, on_broken=on_broken)
        self.queue = DecodeQueue(plan.slots, plan.workers)
        self._own: list[DecodeJob] = []
        self._suspects: list[DecodeJob] = []
        self._homes: dict[int, DecoderWorker] = {}
        self._mean_seconds = GROUP_SECONDS
        self._scheduled = False
        self._stopping = False
        self.coalescing: Coalescing | None = None
        self.identify: Callable[[], bool] = lambda: False
        self.decoded = 0

    def start(self) -> None:
        """Start every decoder."""
        self.pool.start()

    async def stop(self, timeout: float) -> None:
        """End every decoder. Tickets must have been settled before."""
        self._stopping = True
        await self.pool.stop(timeout)

    def spread_poison(self) -> None:
        """Send every decoder the present poison list."""
        self.pool.broadcast(child_messages.encode(child_messages.Poison(self._poison.digests())))

    def decode(
        self, image: Image, ticket: Ticket, *, recipe: int = 0, probe: int = 0
    ) -> Coroutine[Any, Any, child_messages.Decoded | Hit | Directory]:
        """Turn an image, or its first view, into pixels in the slot that is then ``ticket.lease``.

        Args:
            recipe: place of the preprocessing in ``DecoderSetup.recipes``.
            probe: ask for this instead of pixels (``messages.Job.probe``); there is no lease then.

        Returns:
            What decoding came to; without a lease the scores, where those of another's decode are shared, or a
            directory.

        Raises:
            CodedError: the file's fault, or the ticket was settled first.
        """
        return self._run(DecodeJob(image, ticket, None, recipe, probe))

    async def decode_next(
        self, image: Image, ticket: Ticket, after: child_messages.Decoded, recipe: int = 0
    ) -> child_messages.Decoded:
        """Turn the next view into pixels, as ``decode``; the slot of the one before it is free again.

        Args:
            after: the view before it, which may be the last one of another recipe.

        Raises:
            CodedError: as ``decode``; ``decode_timeout`` also when the views before it took all the time there is.
        """
        job = DecodeJob(image, ticket, after, recipe)
        job.home = self._homes.pop(ticket.number, None)
        if self.pool.exhausted(job):
            raise self.pool.too_late()
        decoded: child_messages.Decoded | Directory = await self._run(job)
        if isinstance(decoded, Directory):
            raise CodedError("unreadable", "it was replaced by a directory")
        return decoded

    async def _run(self, job: DecodeJob) -> Any:
        job.since = job.ticket.admitted if job.after is None else time.monotonic()
        if job.ticket.claim.reserved_slot is not None:
            self._own.append(job)
        else:
            self.queue.push(job)
            if self.coalescing is not None:
                self.coalescing.wait(job)
        self.schedule()
        try:
            return await job.ticket.wait()
        finally:
            if job.lease is None:
                self._withdraw(job)

    def leave(self, ticket: Ticket) -> None:
        """The ticket has its outcome: if others waited for its decode in vain, one of them leads the rest now."""
        self._homes.pop(ticket.number, None)
        if self.coalescing is None:
            return
        job = self.coalescing.leave(ticket)
        if job is not None:
            job.since = time.monotonic()
            self.queue.push_front(job)
            self.coalescing.wait(job)
            self.schedule()

    def slot_freed(self) -> None:
        """A slot has come back: jobs that wait for one can go on, suspects and the self-test included."""
        if len(self.queue) or self._suspects or self._own:
            self.schedule()

    def schedule(self) -> None:
        """Hand out work once this turn of the loop is over, so that what arrives together travels together."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def inherit_counters(self, former: DecodeStage) -> None:
        """Add the counts of a stage that is replaced."""
        self.pool.restarts += former.pool.restarts
        self.decoded += former.decoded

    # -- handing out -------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._scheduled = False
        if self._stopping:
            return
        if self._own:
            self._send_own()
        reserved = self._send_suspect() if self._suspects else None
        if not len(self.queue):
            return
        groups: dict[int, list[DecodeJob]] = {}
        working = [one for one in self.pool.workers if one.working and not one.alone and one is not reserved]
        depth = self._depth()
        while (worker := _least_loaded(working, depth)) is not None and (job := self.queue.pop()) is not None:
            home = job.home
            if home is not None and home in working and len(home.jobs) < MOST_PENDING:
                worker = home  # it has the image open
            if self.coalescing is not None:
                self._take_along(self.coalescing, job)
            worker.jobs[job.ticket.number] = job
            groups.setdefault(worker.number, []).append(job)
        for number, jobs in groups.items():
            self._send(self.pool.workers[number], jobs)

    def _take_along(self, coalescing: Coalescing, leader: DecodeJob) -> None:
        """Take the jobs out of the queue that share the decode of this one."""
        now = time.monotonic()
        for job in coalescing.begin(leader):
            self.queue.discard(job)
            job.ticket.time.queue += now - job.since

    def _lease(self, job: DecodeJob) -> Lease | None:
        """Take a slot for a job that is not in the queue."""
        if job.probe:
            return self._slots.lease_none()
        own = job.ticket.claim.reserved_slot
        return self._slots.lease() if own is None else self._slots.lease_own(own)

    def _send_own(self) -> None:
        """Send the self-test's pictures before all images, in slots of its own, however much the decoders hold."""
        waiting, self._own = [job for job in self._own if job.ticket.settled is None], []
        for job in waiting:
            working = [worker for worker in self.pool.workers if worker.working and not worker.alone]
            job.lease = self._lease(job) if working else None
            if job.lease is None:
                self._own.append(job)
                continue
            worker = min(working, key=lambda worker: len(worker.jobs))
            worker.jobs[job.ticket.number] = job
            self._send(worker, [job])

    def _send_suspect(self) -> DecoderWorker | None:
        """Give a suspect to an idle decoder, alone; without an idle one, keep the least loaded free of new work."""
        self._suspects = [job for job in self._suspects if job.ticket.settled is None]
        if not self._suspects:
            return None
        free = [worker for worker in self.pool.workers if worker.working and not worker.alone]
        if not free:
            return None
        worker = min(free, key=lambda worker: len(worker.jobs))
        if worker.jobs:
            return worker
        job = self._suspects[0]
        job.lease = self._lease(job)
        if job.lease is None:
            return worker
        del self._suspects[0]
        worker.alone = True
        worker.jobs[job.ticket.number] = job
        self._send(worker, [job])
        return worker

    def _depth(self) -> int:
        """How many images a decoder may hold: the one it is on and about five milliseconds of others."""
        return min(1 + max(1, int(GROUP_SECONDS / max(self._mean_seconds, 1e-6))), MOST_PENDING)

    def _send(self, worker: DecoderWorker, jobs: list[DecodeJob]) -> None:
        assert worker.child is not None
        now, identify = time.monotonic(), self.identify()
        wire: list[child_messages.Job] = []
        descriptors: list[int] = []
        for job in jobs:
            assert job.lease is not None
            ticket, claim, image = job.ticket, job.ticket.claim, job.image
            ticket.time.queue += now - job.since
            job.since = now
            if image.descriptor is not None:
                descriptors.append(image.descriptor)
            wire.append(
                child_messages.Job(
                    ticket.number,
                    job.lease.slot,
                    job.lease.lease_id,
                    image.path or b"",
                    image.descriptor is not None,
                    (claim.identity or identify) and job.after is None,
                    job.after.next if job.after is not None else 0,
                    claim.frames,
                    job.after.stamp if job.after is not None else None,
                    job.deaths > 0,
                    job.probe,
                    claim.roots,
                    job.recipe,
                )
            )
        if len(worker.jobs) == len(jobs):
            worker.heard = now
        packet = child_messages.encode(child_messages.Decode(wire))
        if len(packet) > MAX_PACKET and len(jobs) > 1:
            half = len(jobs) // 2
            self._send(worker, jobs[:half])
            self._send(worker, jobs[half:])
        elif not worker.child.send(packet, descriptors):
            self._postpone(worker, jobs)

    def _postpone(self, worker: DecoderWorker, jobs: list[DecodeJob]) -> None:
        """The system cannot pass the files of these jobs now: they wait for a moment, and nothing else does."""
        suspects, worker.alone = worker.alone, False
        for job in jobs:
            del worker.jobs[job.ticket.number]
            assert job.lease is not None
            self._slots.release(job.lease)
            job.lease = None
        self._loop.call_later(SCARCE_DELAY, self._resume, jobs, suspects)

    def _resume(self, jobs: list[DecodeJob], suspects: bool) -> None:
        for job in reversed(jobs):
            if suspects:
                self._suspects.append(job)
            else:
                self.put_back(job, held=False)
        self.schedule()

    def _withdraw(self, job: DecodeJob) -> None:
        """Forget a job that no decoder had: its ticket was settled, or another's decode served it too."""
        if job in self._own:
            self._own.remove(job)
            return
        if self.coalescing is not None:
            self.coalescing.forget(job)
        self.queue.discard(job)

    # -- taking back -------------------------------------------------------------------------------------------------

    def finished(self, worker: DecoderWorker, results: list[child_messages.Decoded]) -> None:
        """A decoder has done these."""
        for decoded in results:
            self._finish(worker, decoded)
        self.schedule()

    def _finish(self, worker: DecoderWorker, decoded: child_messages.Decoded) -> None:
        job = worker.jobs.get(decoded.number)
        if job is None or job.lease is None or not job.lease.echoed(decoded.slot, decoded.lease_id):
            return  # stale: answered before a death that has been dealt with
        del worker.jobs[decoded.number]
        if not worker.jobs:
            worker.alone = False
        self.decoded += 1
        self._mean_seconds += 0.05 * (decoded.seconds - self._mean_seconds)
        ticket, lease = job.ticket, job.lease
        ticket.time.decode += decoded.seconds
        if decoded.code or job.probe or ticket.settled is not None:
            self._slots.release(lease)
        else:
            ticket.lease = lease
            if decoded.next:
                self._homes[ticket.number] = worker
        if not decoded.code:
            ticket.resolve(decoded)
        elif decoded.code in CODES:
            ticket.fail(CodedError(decoded.code, decoded.message))
            if decoded.code == "internal":
                worker.log_defect(job)
        else:
            ticket.resolve(Directory(ticket.time))

    # -- what decoders leave behind ----------------------------------------------------------------------------------

    def put_back(self, job: DecodeJob, *, held: bool) -> None:
        """A job of a decoder that ended and had noted another, or none: it goes before all others, or is a suspect.

        Args:
            held: its decoder may have read it.
        """
        job.losses += held
        if job.losses >= LOSSES_BEFORE_SUSPICION:
            self._suspects.append(job)
        elif job.ticket.claim.reserved_slot is not None:
            self._own.append(job)
        elif job.ticket.settled is None:
            self.queue.push_front(job)

    def suspect(self, job: DecodeJob, exit_: Exit, *, overdue: bool) -> None:
        """The file a decoder was on when it ended: tried once more alone, then it is to blame.

        A picture of the self-test is tried again for as long as decoders are killed, and never gets onto the poison
        list: the bundle is not to blame for what comes from outside.
        """
        if overdue:
            job.ticket.fail(self.pool.too_late())
            return
        own = job.ticket.claim.reserved_slot is not None
        if own and exit_.signal == signal.SIGKILL:
            self._suspects.append(job)
            return
        job.deaths += 1
        job.crashes += exit_.signal in CRASHES
        if job.deaths < DEATHS_BEFORE_BLAME:
            self._suspects.append(job)
            return
        if not own and job.crashes >= CRASHES_BEFORE_LISTING and job.digest is not None and exit_.signal is not None:
            self._poison.add(*job.digest, exit_.signal)
            self.spread_poison()
        job.ticket.fail(CodedError("decoder_died"))


def _least_loaded(workers: list[DecoderWorker], depth: int) -> DecoderWorker | None:
    """The decoder with the fewest jobs; None where each has as many as it may."""
    best: DecoderWorker | None = None
    for worker in workers:
        held = len(worker.jobs)
        if held < depth and (best is None or held < len(best.jobs)):
            best = worker
    return best
