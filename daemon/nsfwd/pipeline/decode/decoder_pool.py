"""The decoder processes: started, watched, killed when an image takes too long, replaced when they die.

The pool knows which jobs each of them holds. Its stage decides the fate of the image that a decoder was on when it
ended.
A decoder notes in the arena which job it is about to open, so that only this one is suspected.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from nsfwd.backoff import SPAWN
from nsfwd.errors import CodedError, EngineError
from nsfwd.ipc import child_messages
from nsfwd.ipc.child import LEAN, Child, Exit
from nsfwd.ipc.process_start import KILL_PATIENCE, ProcessStarter, most_abandoned, tell_end
from nsfwd.pipeline.decode.decode_job import DecodeJob, DecoderWorker
from nsfwd.pipeline.decode.poison_list import CRASHES

if TYPE_CHECKING:
    from collections.abc import Callable

    from nsfwd.ipc.arena import Arena
    from nsfwd.pipeline.decode.decode_stage import DecodeStage
    from nsfwd.pipeline.decode.poison_list import PoisonList
    from nsfwd.pipeline.queueing.slots import Slots

EARLY_DEATHS = 5
"""So many decoders in one place ended before saying Hello, with no word from any other: decoding is broken for good."""

BRIEF = 1.0
"""Seconds of life below which a decoder that has answered nothing was of no use."""

START_PATIENCE = 60.0
"""Seconds a decoder may take to say Hello; it takes a tenth of one, on a machine that swaps a few. One that images wait
for while another works has as long as a decoder that says nothing: it was stopped, or is stuck."""

WATCH_INTERVAL = 0.25
"""Seconds between looks at what each decoder is on."""

DECODER = "nsfwd.imaging.decoder"
_MESSAGES = msgspec.msgpack.Decoder(child_messages.Hello | child_messages.DecodedGroup | child_messages.Suspected)

_log = logging.getLogger("nsfwd.pipeline")


@dataclass(frozen=True, slots=True)
class DecoderPlan:
    """The things that all decoders of one stage have in common.

    Attributes:
        arena: where they write pixels, and note what they are on.
        slots: the leases of its slots.
        setup: the first message of every decoder (the pool fills in its ``worker``).
        workers: how many there are.
        timeout: seconds one image may take, all its views together; then its decoder is killed.
        poison: files that are known to crash decoders.
    """

    arena: Arena
    slots: Slots
    setup: child_messages.DecoderSetup
    workers: int
    timeout: float
    poison: PoisonList


class DecoderPool:
    """All decoders of one stage.

    Args:
        stage: gets their results, and the jobs that they leave behind.
        on_broken: called once when decoders cannot be started at all.

    Attributes:
        workers: each with the jobs it holds.
        abandoned: decoders that were killed, do not end, and were replaced.
        restarts: how many have ended.
        applied, missing: measures of the sandbox that are active, and those that this system does not have.
    """

    def __init__(self, stage: DecodeStage, plan: DecoderPlan, *, on_broken: Callable[[EngineError], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stage = stage
        self._plan = plan
        self._on_broken = on_broken
        self.starter = ProcessStarter(self._loop, on_broken)
        self._stopping = False
        self._early_deaths: Counter[int] = Counter()
        self._watch: asyncio.TimerHandle | None = None
        self.workers = [DecoderWorker(number) for number in range(plan.workers)]
        self.abandoned: list[DecoderWorker] = []
        self.restarts = 0
        self.applied: list[str] = []
        self.missing: list[str] = []

    def start(self) -> None:
        """Start every decoder. They count as present at once; images wait in their links until they say Hello."""
        for worker in self.workers:
            self._spawn(worker)
        self._watch = self._loop.call_later(WATCH_INTERVAL, self._look)

    async def stop(self, timeout: float) -> None:
        """End every decoder."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
        await asyncio.gather(*(worker.child.stop(timeout) for worker in self.workers if worker.child is not None))

    def broadcast(self, packet: bytes) -> None:
        """Send every decoder this packet."""
        for worker in self.workers:
            if worker.child is not None:
                worker.child.send(packet)

    def processes(self) -> list[int]:
        """Process ids of the live decoders."""
        return [worker.child.pid for worker in self.workers if worker.child is not None and worker.child.alive]

    def _receive(self, worker: DecoderWorker, packet: bytes) -> None:
        try:
            message = _MESSAGES.decode(packet)
        except msgspec.MsgspecError:
            worker.kill(self._loop.time())  # not a message: it is out of control
            return
        self._early_deaths.clear()
        if isinstance(message, child_messages.DecodedGroup):
            if any(result.number in worker.jobs for result in message.results):  # else it only keeps itself alive
                worker.heard = time.monotonic()
                worker.useful = True
            self._stage.finished(worker, message.results)
        elif isinstance(message, child_messages.Hello):
            self._greet(worker, message)
        elif message.number in worker.jobs:
            worker.jobs[message.number].digest = (message.size, message.sha256)

    def _greet(self, worker: DecoderWorker, hello: child_messages.Hello) -> None:
        if not worker.greeted:
            worker.greeted = True
            worker.heard = time.monotonic()
            self._stage.schedule()
        if (hello.applied, hello.missing) != (self.applied, self.missing):
            _log.debug("decoder sandbox: %s active", ", ".join(hello.applied))
            if hello.missing:
                _log.warning("decoder sandbox incomplete: %s", "; ".join(hello.missing))
        self.applied, self.missing = hello.applied, hello.missing

    def _spawn(self, worker: DecoderWorker) -> None:
        if self._stopping:
            return
        worker.renew()
        child = Child(
            DECODER,
            name=f"decoder {worker.number}",
            fds=[self._plan.arena.fd],
            environment=LEAN,
            on_message=lambda packet: self._receive(worker, packet),
            on_exit=lambda exit_: self._reaped(worker, exit_),
        )
        if not self.starter.start(child, lambda: self._spawn(worker)):
            return
        worker.child = child
        setup = msgspec.structs.replace(self._plan.setup, worker=worker.number, poison=self._plan.poison.digests())
        child.send(child_messages.encode(setup))
        self._stage.schedule()

    def _reaped(self, worker: DecoderWorker, exit_: Exit) -> None:
        child, worker.child = worker.child, None
        if worker in self.abandoned:
            self._found(worker)
            return
        culprit = self._take_back(worker)
        if culprit is not None:
            assert culprit.lease is not None
            self._plan.slots.release(culprit.lease)
            culprit.lease = None
            self._stage.suspect(culprit, exit_, overdue=worker.overdue == culprit.ticket.number)
        if self._stopping:
            return
        self.restarts += 1
        brief = time.monotonic() - worker.started < BRIEF
        worker.futile = worker.futile + 1 if brief and not worker.useful and culprit is None else 0
        if child is not None:
            tell_end(child, exit_, self.too_late().message if worker.overdue is not None else "")
        if worker.greeted or not self._hopeless(worker, exit_):
            self._replace(worker)
        else:
            self._on_broken(EngineError(f"decoders end before they are ready: {exit_.last_words or exit_}"))

    def _take_back(self, worker: DecoderWorker) -> DecodeJob | None:
        """The decoder does no more work: jobs that it had not begun wait again. Return the job that it was on."""
        note = self._plan.arena.note(worker.number)
        self._plan.arena.clear_note(worker.number)
        jobs, worker.jobs = worker.jobs, {}
        culprit = jobs.pop(note[0], None) if note is not None else None
        if worker.alone and jobs:
            _, culprit = jobs.popitem()  # also when it noted none: it held nothing else
        for job in reversed(jobs.values()):
            assert job.lease is not None
            self._plan.slots.release(job.lease)
            job.lease = None
            self._stage.put_back(job, held=worker.greeted)
        return culprit

    def _abandon(self, worker: DecoderWorker) -> None:
        """Leave a decoder behind that the kernel does not let end (a stalled mount), and put another in its place.

        Only the slot that it may be writing to stays taken until it has ended; it never runs another instruction of its
        own, so its number and note are free.
        """
        _log.error("decoder %d was killed but does not end; it is abandoned", worker.number)
        self.abandoned.append(worker)
        culprit = self._take_back(worker)
        if culprit is not None:
            worker.lost, culprit.lease = culprit.lease, None
            culprit.ticket.fail(self.too_late())  # unless that was said when it was killed
        successor = self.workers[worker.number] = DecoderWorker(worker.number)
        self._spawn(successor)

    def _found(self, worker: DecoderWorker) -> None:
        """An abandoned decoder has ended after all."""
        self.abandoned.remove(worker)
        if worker.lost is not None:
            self._plan.slots.release(worker.lost)

    def _hopeless(self, worker: DecoderWorker, exit_: Exit) -> bool:
        """Whether a decoder that ended before it was ready is one too many.

        One that was killed from outside says nothing of the others as long as one of them works.
        """
        self._early_deaths[worker.number] += 1
        killed = exit_.signal is not None and exit_.signal not in CRASHES
        if killed and self._one_works():
            return False
        return self._early_deaths[worker.number] >= EARLY_DEATHS

    def _one_works(self) -> bool:
        return any(worker.greeted and worker.working for worker in self.workers)

    def _replace(self, worker: DecoderWorker) -> None:
        """Start another in its place: at once, unless one after the other ends before it is of use."""
        if worker.futile < 2:
            self._spawn(worker)
        else:
            self._loop.call_later(SPAWN.delay(worker.futile - 2), self._spawn, worker)

    def exhausted(self, job: DecodeJob) -> bool:
        """Tell whether the views before it have used up the time that the image may take."""
        return job.spent >= self._plan.timeout

    def too_late(self) -> CodedError:
        """The error of an image that takes longer than it may."""
        return CodedError("decode_timeout", f"decoding took longer than {self._plan.timeout:g} seconds")

    def _look(self) -> None:
        """Kill decoders that are too long on one image, or do not begin with any; abandon those that do not end."""
        self._watch = self._loop.call_later(WATCH_INTERVAL, self._look)
        now = time.monotonic()
        for worker in tuple(self.workers):
            if worker.child is None:
                continue
            if worker.killed is not None:
                if self._loop.time() - worker.killed > KILL_PATIENCE and len(self.abandoned) < most_abandoned():
                    self._abandon(worker)
            elif not worker.greeted:
                if now - worker.heard > (self._plan.timeout if worker.jobs and self._one_works() else START_PATIENCE):
                    worker.kill(self._loop.time())
            elif worker.jobs:
                self._look_at(worker, now)

    def _look_at(self, worker: DecoderWorker, now: float) -> None:
        """Kill a decoder that is too long on an image, by its note or because it has answered nothing for longer."""
        number, began = self._plan.arena.note(worker.number) or (None, now)
        silent = now - worker.heard > self._plan.timeout + WATCH_INTERVAL
        job = worker.jobs.get(number) if number is not None else None
        if job is not None and (silent or now - began > self._plan.timeout - job.spent):
            worker.overdue = number
            job.ticket.fail(self.too_late())  # its end may be long in coming
            worker.kill(self._loop.time())
        elif silent:
            worker.kill(self._loop.time())  # stopped, or stuck before any image: no file is to blame
