"""The decode stage: images wait in lanes, decoder processes turn them into pixels.

Decides which decoder gets which images, how many at a time, and whom to blame when one dies. It knows nothing of
scores. A decoder may be killed at any moment; it notes in the arena which job it is about to open, so that only this
one is suspected.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from nsfwd.errors import CODES, CodedError, EngineError
from nsfwd.ipc import messages
from nsfwd.ipc.child import LEAN, Child, Exit
from nsfwd.pipeline.lanes import LaneQueue
from nsfwd.pipeline.poison import CRASHES, CRASHES_BEFORE_LISTING
from nsfwd.pipeline.starting import KILL_PATIENCE, Starter, most_abandoned
from nsfwd.pipeline.workers import DecodeJob, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from nsfwd.ipc.arena import Arena
    from nsfwd.pipeline.cache import Hit
    from nsfwd.pipeline.coalescing import Coalescing
    from nsfwd.pipeline.poison import PoisonList
    from nsfwd.pipeline.slots import Slots
    from nsfwd.pipeline.tickets import Ticket
    from nsfwd.protocol.messages import Image

GROUP_SECONDS = 0.005
"""Work sent to a decoder beyond the image it is on: enough to hide the link, little to lose or to wait behind."""

MOST_PENDING = 32
"""Most images sent to one decoder, however small they are."""

DEATHS_BEFORE_BLAME = 2
"""A decoder may die by chance (a kill, the out-of-memory killer); dying twice on one file is the file's doing."""

EARLY_DEATHS = 5
"""Decoders that ended before saying Hello, with no image decoded meanwhile, after which decoding is broken for good."""

EARLY_DELAY = 0.1
"""Seconds before the restart of a decoder that ended before saying Hello, times the number of such deaths."""

WATCH_INTERVAL = 0.25
"""Seconds between looks at what each decoder is on."""

DECODER = "nsfwd.imaging.decoder"
_RESULTS = msgspec.msgpack.Decoder(messages.Hello | messages.DecodedGroup | messages.Suspected)

_log = logging.getLogger("nsfwd.pipeline")


class DecodeStage:
    """The decoders and what waits for them.

    Args:
        arena: where decoders write pixels and notes.
        slots: who holds which of its slots.
        setup: what every decoder is told first (its ``worker`` is filled in here).
        decode_timeout: seconds one image may take; then its decoder is killed.
        poison: files that are known to crash decoders.
        on_broken: called once when decoders cannot be started at all.

    Attributes:
        coalescing: who shares whose decode; None where every image is decoded for itself.
        identify: tells whether to hash every file that is decoded: for the cache, or to know what was decided about it.
        applied, missing: what decoders gave up before their first image, and what they could not.
        abandoned: decoders that were killed, do not end, and were replaced.
    """

    def __init__(
        self,
        arena: Arena,
        slots: Slots,
        setup: messages.DecoderSetup,
        *,
        workers: int,
        decode_timeout: float,
        poison: PoisonList,
        on_broken: Callable[[EngineError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._arena = arena
        self._slots = slots
        self._setup = setup
        self._timeout = decode_timeout
        self._poison = poison
        self._starter = Starter(self._loop)
        self._on_broken = on_broken
        self.queue: LaneQueue[DecodeJob] = LaneQueue()
        self._suspects: list[DecodeJob] = []
        self._workers = [Worker(number) for number in range(workers)]
        self._mean_seconds = GROUP_SECONDS
        self._scheduled = False
        self._stopping = False
        self._early_deaths = 0
        self._watch: asyncio.TimerHandle | None = None
        self.applied: list[str] = []
        self.missing: list[str] = []
        self.abandoned: list[Worker] = []
        self.coalescing: Coalescing | None = None
        self.identify: Callable[[], bool] = lambda: False
        self.restarts = 0
        self.decoded = 0

    def start(self) -> None:
        """Start every decoder. They count as present at once; images wait in their links until they say Hello."""
        for worker in self._workers:
            self._spawn(worker)
        self._watch = self._loop.call_later(WATCH_INTERVAL, self._look)

    async def stop(self, timeout: float) -> None:
        """End every decoder. Tickets must have been settled before."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
        await asyncio.gather(*(worker.child.stop(timeout) for worker in self._workers if worker.child is not None))

    def spread_poison(self) -> None:
        """Tell every decoder what is on the poison list now."""
        packet = messages.encode(messages.Poison(self._poison.digests()))
        for worker in self._workers:
            if worker.child is not None:
                worker.child.send(packet)

    def decode(self, image: Image, ticket: Ticket, *, probe: int = 0) -> Coroutine[Any, Any, messages.Decoded | Hit]:
        """Turn an image, or its first view, into pixels in the slot that is then ``ticket.lease``.

        Args:
            probe: ask for this instead of pixels (``messages.Job.probe``); there is no lease then.

        Returns:
            Scores, where those of another's decode are shared; there is no lease then.

        Raises:
            CodedError: the file's fault, or the ticket was settled first.
        """
        return self._run(DecodeJob(image, ticket, probe=probe))

    def decode_next(
        self, image: Image, ticket: Ticket, after: messages.Decoded
    ) -> Coroutine[Any, Any, messages.Decoded]:
        """Turn a further view into pixels, as ``decode``; the slot of the one before it is free again."""
        return self._run(DecodeJob(image, ticket, after))

    async def _run(self, job: DecodeJob) -> Any:
        claim = job.ticket.claim
        self.queue.push(job, claim.lane, claim.asker)
        if self.coalescing is not None:
            self.coalescing.wait(job)
        self.schedule()
        try:
            return await job.ticket.wait()
        finally:
            if job.lease is None:
                self._withdraw(job)

    def leave(self, ticket: Ticket) -> None:
        """The ticket has its outcome: of those who waited for its decode in vain one leads the others now."""
        if self.coalescing is None:
            return
        job = self.coalescing.leave(ticket)
        if job is not None:
            job.since = time.monotonic()
            self.queue.push_front(job, job.ticket.claim.lane)
            self.coalescing.wait(job)
            self.schedule()

    def schedule(self) -> None:
        """Hand out work once this turn of the loop is over, so that what arrives together travels together."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def count_on(self, former: DecodeStage) -> None:
        """Go on counting where a stage that is replaced stands."""
        self.restarts += former.restarts
        self.decoded += former.decoded

    def processes(self) -> list[int]:
        """Process ids of the live decoders."""
        return [worker.child.pid for worker in self._workers if worker.child is not None and worker.child.alive]

    # -- handing out -------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._scheduled = False
        if self._stopping:
            return
        parcels: dict[int, list[DecodeJob]] = {}
        reserved = self._send_suspect()
        depth = self._depth()
        while len(self.queue):
            worker = self._least_loaded(parcels, depth, reserved)
            lease = self._slots.lease() if worker is not None else None
            if worker is None or lease is None:
                break
            job = self.queue.pop()
            assert job is not None
            job.lease = lease
            self._take_along(job)
            worker.jobs[job.ticket.number] = job
            parcels.setdefault(worker.number, []).append(job)
        for number, jobs in parcels.items():
            self._send(self._workers[number], jobs)

    def _take_along(self, leader: DecodeJob) -> None:
        """Take those out of the queue for whom this job is decoded too."""
        if self.coalescing is None:
            return
        now = time.monotonic()
        for job in self.coalescing.begin(leader):
            claim = job.ticket.claim
            self.queue.discard(job, claim.lane, claim.asker)
            job.ticket.time.queue += now - job.since

    def _send_suspect(self) -> Worker | None:
        """Give a suspect to an idle decoder, alone; without an idle one, keep the least loaded free of new work."""
        self._suspects = [job for job in self._suspects if job.ticket.settled is None]
        if not self._suspects:
            return None
        free = [worker for worker in self._workers if worker.working and not worker.alone]
        if not free:
            return None
        worker = min(free, key=lambda worker: len(worker.jobs))
        if worker.jobs:
            return worker
        lease = self._slots.lease()
        if lease is None:
            return worker
        job = self._suspects.pop(0)
        job.lease = lease
        worker.alone = True
        worker.jobs[job.ticket.number] = job
        self._send(worker, [job])
        return worker

    def _depth(self) -> int:
        """How many images a decoder may hold: the one it is on and about five milliseconds of others."""
        return min(1 + max(1, int(GROUP_SECONDS / max(self._mean_seconds, 1e-6))), MOST_PENDING)

    def _least_loaded(self, parcels: dict[int, list[DecodeJob]], depth: int, reserved: Worker | None) -> Worker | None:
        best: Worker | None = None
        for worker in self._workers:
            if not worker.working or worker.alone or worker is reserved or len(worker.jobs) >= depth:
                continue
            if best is None or len(worker.jobs) < len(best.jobs):
                best = worker
        return best

    def _send(self, worker: Worker, jobs: list[DecodeJob]) -> None:
        assert worker.child is not None
        now = time.monotonic()
        wire: list[messages.Job] = []
        descriptors: list[int] = []
        for job in jobs:
            assert job.lease is not None
            ticket, image = job.ticket, job.image
            ticket.time.queue += now - job.since
            job.since = now
            if image.descriptor is not None:
                descriptors.append(image.descriptor)
            wire.append(
                messages.Job(
                    ticket.number,
                    job.lease.slot,
                    job.lease.generation,
                    image.path or b"",
                    image.descriptor is not None,
                    (ticket.claim.identity or self.identify()) and job.after is None,
                    job.after.next if job.after is not None else 0,
                    ticket.claim.frames,
                    job.after.stamp if job.after is not None else None,
                    suspect=job.deaths > 0,
                    probe=job.probe,
                    roots=ticket.claim.roots,
                )
            )
        if len(worker.jobs) == len(jobs):
            worker.heard = now
        worker.child.send(messages.encode(messages.Decode(wire)), descriptors)

    def _withdraw(self, job: DecodeJob) -> None:
        """A job that no decoder had: its ticket was settled, or another's decode served it too."""
        if self.coalescing is not None:
            self.coalescing.forget(job)
        claim = job.ticket.claim
        self.queue.discard(job, claim.lane, claim.asker)

    # -- taking back -------------------------------------------------------------------------------------------------

    def _receive(self, worker: Worker, packet: bytes) -> None:
        try:
            message = _RESULTS.decode(packet)
        except msgspec.MsgspecError:
            worker.kill(self._loop.time())  # it no longer speaks our language: it is not our decoder any more
            return
        self._early_deaths = 0
        worker.heard = time.monotonic()
        if isinstance(message, messages.Hello):
            self._greet(worker, message)
            return
        if isinstance(message, messages.Suspected):
            if message.number in worker.jobs:
                worker.jobs[message.number].digest = (message.size, message.sha256)
            return
        for decoded in message.results:
            self._finish(worker, decoded)
        self.schedule()

    def _greet(self, worker: Worker, hello: messages.Hello) -> None:
        worker.greeted = True
        if (hello.applied, hello.missing) != (self.applied, self.missing):
            _log.debug("decoders gave up: %s", ", ".join(hello.applied))
            if hello.missing:
                _log.warning("decoders could not give up, on this system: %s", "; ".join(hello.missing))
        self.applied, self.missing = hello.applied, hello.missing

    def _finish(self, worker: Worker, decoded: messages.Decoded) -> None:
        job = worker.jobs.get(decoded.number)
        if job is None or job.lease is None or job.lease != (decoded.slot, decoded.generation):
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
        if decoded.code in CODES:
            ticket.fail(CodedError(decoded.code, decoded.message))
        else:
            ticket.resolve(decoded)

    # -- deaths ------------------------------------------------------------------------------------------------------

    def _spawn(self, worker: Worker) -> None:
        if self._stopping:
            return
        worker.greeted = worker.alone = False
        worker.overdue = None
        worker.killed = None
        child = Child(
            DECODER,
            name=f"decoder {worker.number}",
            fds=[self._arena.fd],
            environment=LEAN,
            on_message=lambda packet: self._receive(worker, packet),
            on_exit=lambda exit_: self._reaped(worker, exit_),
        )
        if not self._starter.start(child, lambda: self._spawn(worker)):
            return
        worker.child = child
        setup = msgspec.structs.replace(self._setup, worker=worker.number, poison=self._poison.digests())
        child.send(messages.encode(setup))
        self.schedule()

    def _reaped(self, worker: Worker, exit_: Exit) -> None:
        worker.child = None
        if worker in self.abandoned:
            self._found(worker)
            return
        culprit = self._take_back(worker)
        if culprit is not None:
            assert culprit.lease is not None
            self._slots.release(culprit.lease)
            culprit.lease = None
            self._suspect(culprit, exit_, overdue=worker.overdue == culprit.ticket.number)
        if self._stopping:
            return
        self.restarts += 1
        if worker.greeted:
            self._spawn(worker)
        else:
            self._died_early(worker, exit_)

    def _take_back(self, worker: Worker) -> DecodeJob | None:
        """The decoder does no more work: what it had not begun waits again. Return what it was on."""
        note = self._arena.note(worker.number)
        self._arena.clear_note(worker.number)
        jobs, worker.jobs = worker.jobs, {}
        culprit = jobs.pop(note[0], None) if note is not None else None
        for job in reversed(jobs.values()):
            assert job.lease is not None
            self._slots.release(job.lease)
            job.lease = None
            if job.ticket.settled is None:
                self.queue.push_front(job, job.ticket.claim.lane)
        return culprit

    def _abandon(self, worker: Worker) -> None:
        """Leave a decoder behind that the kernel does not let end (a stalled mount), and put another in its place.

        Only the slot that it may be writing to stays taken until it has ended; it never runs another instruction of its
        own, so its number and note are free.
        """
        _log.error("decoder %d was killed and does not end; it is abandoned", worker.number)
        self.abandoned.append(worker)
        culprit = self._take_back(worker)
        if culprit is not None:
            worker.lost, culprit.lease = culprit.lease, None
            culprit.ticket.fail(self._too_late())  # unless that was said when it was killed
        successor = Worker(worker.number)
        self._workers[worker.number] = successor
        self._spawn(successor)

    def _found(self, worker: Worker) -> None:
        """An abandoned decoder has ended after all."""
        self.abandoned.remove(worker)
        if worker.lost is not None:
            self._slots.release(worker.lost)

    def _died_early(self, worker: Worker, exit_: Exit) -> None:
        self._early_deaths += 1
        if self._early_deaths >= EARLY_DEATHS:
            self._on_broken(EngineError(f"decoders end before they are ready: {exit_.last_words or exit_}"))
        else:
            self._loop.call_later(EARLY_DELAY * self._early_deaths, self._spawn, worker)

    def _suspect(self, job: DecodeJob, exit_: Exit, *, overdue: bool) -> None:
        """The file a decoder was on when it ended: tried once more alone, then it is to blame."""
        if overdue:
            job.ticket.fail(self._too_late())
            return
        job.deaths += 1
        job.crashes += exit_.signal in CRASHES
        if job.deaths < DEATHS_BEFORE_BLAME:
            self._suspects.append(job)
            return
        if job.crashes >= CRASHES_BEFORE_LISTING and job.digest is not None and exit_.signal is not None:
            self._poison.add(*job.digest, exit_.signal)
            self.spread_poison()
        job.ticket.fail(CodedError("decoder_died"))

    def _too_late(self) -> CodedError:
        return CodedError("decode_timeout", f"decoding took longer than {self._timeout:g} seconds")

    def _look(self) -> None:
        """Kill decoders that are too long on one image, or do not begin with any; abandon those that do not end."""
        self._watch = self._loop.call_later(WATCH_INTERVAL, self._look)
        now = time.monotonic()
        for worker in tuple(self._workers):
            note = self._arena.note(worker.number)
            if worker.child is None:
                continue
            if worker.killed is not None:
                if self._loop.time() - worker.killed > KILL_PATIENCE and len(self.abandoned) < most_abandoned():
                    self._abandon(worker)
            elif note is not None and note[0] in worker.jobs and now - note[1] > self._timeout:
                worker.overdue = note[0]
                worker.jobs[note[0]].ticket.fail(self._too_late())  # its end may be long in coming
                worker.kill(self._loop.time())
            elif note is None and worker.jobs and worker.greeted and now - worker.heard > self._timeout:
                worker.kill(self._loop.time())  # stopped, or stuck before any image: no file is to blame
