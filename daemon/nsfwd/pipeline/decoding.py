"""The decode stage: images wait in lanes, decoder processes turn them into pixels.

Decides which decoder gets which images, how many at a time, and whom to blame when one dies. It knows nothing of
scores. A decoder may be killed at any moment; it notes in the arena which job it is about to open, so that only this
one is suspected.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from nsfwd.errors import CODES, CodedError, EngineError
from nsfwd.ipc import messages
from nsfwd.ipc.child import LEAN, Child, Exit
from nsfwd.pipeline.lanes import LaneQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from nsfwd.ipc.arena import Arena
    from nsfwd.pipeline.slots import Lease, Slots
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
_RESULTS = msgspec.msgpack.Decoder(messages.Hello | messages.DecodedGroup)


class DecodeJob:
    """One image on its way to pixels."""

    __slots__ = ("deaths", "image", "lease", "ticket")

    def __init__(self, image: Image, ticket: Ticket) -> None:
        self.image = image
        self.ticket = ticket
        self.lease: Lease | None = None
        self.deaths = 0


class Worker:
    """One decoder process and the jobs it holds."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.jobs: dict[int, DecodeJob] = {}
        self.child: Child | None = None
        self.greeted = False
        self.alone = False
        self.overdue: int | None = None


class DecodeStage:
    """The decoders and what waits for them.

    Args:
        arena: where decoders write pixels and notes.
        slots: who holds which of its slots.
        setup: what every decoder is told first (its ``worker`` is filled in here).
        decode_timeout: seconds one image may take; then its decoder is killed.
        on_broken: called once when decoders cannot be started at all.
    """

    def __init__(
        self,
        arena: Arena,
        slots: Slots,
        setup: messages.DecoderSetup,
        *,
        workers: int,
        decode_timeout: float,
        on_broken: Callable[[EngineError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._arena = arena
        self._slots = slots
        self._setup = setup
        self._timeout = decode_timeout
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

    async def decode(self, image: Image, ticket: Ticket) -> messages.Decoded:
        """Turn one image into pixels in the slot that is then ``ticket.lease``.

        Raises:
            CodedError: the file's fault, or the ticket was settled first.
        """
        job = DecodeJob(image, ticket)
        claim = ticket.claim
        self.queue.push(job, claim.lane, claim.connection)
        self.schedule()
        try:
            decoded: messages.Decoded = await ticket.wait()
        finally:
            if job.lease is None:
                self._withdraw(job)
        return decoded

    def schedule(self) -> None:
        """Hand out work once this turn of the loop is over, so that what arrives together travels together."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

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
            worker.jobs[job.ticket.number] = job
            parcels.setdefault(worker.number, []).append(job)
        for number, jobs in parcels.items():
            self._send(self._workers[number], jobs)

    def _send_suspect(self) -> Worker | None:
        """Give a suspect to an idle decoder, alone; without an idle one, keep the least loaded free of new work."""
        self._suspects = [job for job in self._suspects if job.ticket.settled is None]
        if not self._suspects:
            return None
        free = [worker for worker in self._workers if worker.child is not None and not worker.alone]
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
            if worker.child is None or worker.alone or worker is reserved or len(worker.jobs) >= depth:
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
            ticket.time.queue = now - ticket.admitted
            if image.descriptor is not None:
                descriptors.append(image.descriptor)
            wire.append(
                messages.Job(
                    ticket.number,
                    job.lease.slot,
                    job.lease.generation,
                    image.path or b"",
                    image.descriptor is not None,
                    ticket.claim.identity,
                )
            )
        worker.child.send(messages.encode(messages.Decode(wire)), descriptors)

    def _withdraw(self, job: DecodeJob) -> None:
        """A job whose ticket was settled before any decoder had it."""
        claim = job.ticket.claim
        self.queue.discard(job, claim.lane, claim.connection)

    # -- taking back -------------------------------------------------------------------------------------------------

    def _receive(self, worker: Worker, packet: bytes) -> None:
        try:
            message = _RESULTS.decode(packet)
        except msgspec.MsgspecError:
            assert worker.child is not None
            worker.child.kill()  # it no longer speaks our language: whatever it is now, it is not our decoder
            return
        if isinstance(message, messages.Hello):
            worker.greeted = True
            self._early_deaths = 0
            self.applied, self.missing = message.applied, message.missing
            return
        self._early_deaths = 0
        for decoded in message.results:
            self._finish(worker, decoded)
        self.schedule()

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
        ticket.time.decode = decoded.seconds
        if decoded.code or ticket.settled is not None:
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
        worker.child = Child(
            DECODER,
            name=f"decoder {worker.number}",
            fds=[self._arena.fd],
            environment=LEAN,
            on_message=lambda packet: self._receive(worker, packet),
            on_exit=lambda exit_: self._reaped(worker, exit_),
        )
        worker.child.start()
        worker.child.send(messages.encode(msgspec.structs.replace(self._setup, worker=worker.number)))
        self.schedule()

    def _reaped(self, worker: Worker, exit_: Exit) -> None:
        worker.child = None
        note = self._arena.note(worker.number)
        self._arena.clear_note(worker.number)
        jobs, worker.jobs = worker.jobs, {}
        for job in jobs.values():
            assert job.lease is not None
            self._slots.release(job.lease)
            job.lease = None
        culprit = jobs.pop(note[0], None) if note is not None else None
        if culprit is not None:
            self._suspect(culprit, overdue=worker.overdue == culprit.ticket.number)
        for job in reversed(jobs.values()):
            if job.ticket.settled is None:
                self.queue.push_front(job, job.ticket.claim.lane, job.ticket.claim.connection)
        if self._stopping:
            return
        self.restarts += 1
        if worker.greeted:
            self._spawn(worker)
        else:
            self._died_early(worker, exit_)

    def _died_early(self, worker: Worker, exit_: Exit) -> None:
        self._early_deaths += 1
        if self._early_deaths >= EARLY_DEATHS:
            self._on_broken(EngineError(f"decoders end before they are ready: {exit_.last_words or exit_}"))
        else:
            self._loop.call_later(EARLY_DELAY * self._early_deaths, self._spawn, worker)

    def _suspect(self, job: DecodeJob, *, overdue: bool) -> None:
        """The file a decoder was on when it ended: tried once more alone, then it is to blame."""
        if overdue:
            job.ticket.fail(CodedError("decode_timeout", f"decoding took longer than {self._timeout:g} seconds"))
            return
        job.deaths += 1
        if job.deaths >= DEATHS_BEFORE_BLAME:
            job.ticket.fail(CodedError("decoder_died"))
        else:
            self._suspects.append(job)

    def _look(self) -> None:
        """Kill the decoders that have been on one image for too long."""
        self._watch = self._loop.call_later(WATCH_INTERVAL, self._look)
        now = time.monotonic()
        for worker in self._workers:
            note = self._arena.note(worker.number)
            if note is None or worker.child is None:
                continue
            number, started = note
            if number in worker.jobs and now - started > self._timeout:
                worker.overdue = number
                worker.child.kill()
