"""The score stage: images with pixels wait in lanes, the engine process scores them in batches.

Work-conserving: a free engine takes all that is ready up to its ceiling and never waits for more. Some batches are
always in flight, so that the device never waits for the host. It knows nothing of files or verdicts.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from nsfwd.errors import CodedError, EngineError
from nsfwd.ipc import child_messages
from nsfwd.ipc.child import Child, Exit
from nsfwd.ipc.process_start import ProcessStarter, tell_end
from nsfwd.pipeline.infer.batch_size import BatchSizer
from nsfwd.pipeline.infer.cost_curve import CostCurve
from nsfwd.pipeline.infer.engine_restarts import DEATH_WINDOW, MOST_DEATHS, Restarts
from nsfwd.pipeline.infer.score_job import ScoreJob
from nsfwd.pipeline.infer.unpacking import MOST_SCORES, unpack
from nsfwd.pipeline.queueing.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nsfwd.ipc.arena import Arena
    from nsfwd.pipeline.queueing.slots import Slots
    from nsfwd.pipeline.queueing.tickets import Ticket

STUCK = 60.0
"""Seconds without an answer after which a warm engine that holds a batch is killed: a device that hangs would otherwise
hold every image until its deadline, for ever. The slowest batch, InceptionV3 on one slow core, takes a few seconds."""

_log = logging.getLogger("nsfwd.pipeline")

_ENGINE = "nsfwd.engines.engine_process"
_MESSAGES = msgspec.msgpack.Decoder(
    child_messages.EngineReady
    | child_messages.EngineNote
    | child_messages.EngineFailed
    | child_messages.EngineLost
    | child_messages.Scores
)


class ScoreStage:
    """The engine and what waits for it.

    Args:
        arena: where the pixels lie.
        slots: who holds which of its slots.
        setup: what the engine is told first.
        labels: how many scores an image has.
        on_device_loss: ``refuse`` or ``cpu``: what to do when a GPU that has scored is lost for good.
        on_warm: called each time an engine has loaded and warmed; only the self-test is scored until ``trust``.
        on_broken: called once when the engine cannot be built, or dies too often.

    Attributes:
        starts: engines started so far; another number means another engine.
    """

    def __init__(
        self,
        arena: Arena,
        slots: Slots,
        setup: child_messages.EngineSetup,
        *,
        labels: int,
        on_device_loss: str = "refuse",
        on_warm: Callable[[], None],
        on_broken: Callable[[EngineError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._arena = arena
        self._slots = slots
        self._setup = setup
        self._labels = labels
        self._on_device_loss = on_device_loss
        self._on_gpu = False
        self._loss = ""
        self._on_warm = on_warm
        self._on_broken = on_broken
        self.queue: FairQueue[ScoreJob] = FairQueue()
        self._sizing = BatchSizer()
        self._probes: deque[ScoreJob] = deque()
        self._suspects: deque[ScoreJob] = deque()
        self._batches: dict[int, list[ScoreJob]] = {}
        self._number = 0
        self._most_images = MOST_SCORES // labels
        self._deaths = Restarts()
        self._useful = False
        self._child: Child | None = None
        self._starter = ProcessStarter(self._loop, on_broken)
        self._restart: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._stopping = False
        self.engine: child_messages.EngineReady | None = None
        self.trusted = False
        self.starts = 0
        self.restarts = 0
        self.batches = 0
        self.images = 0
        self.sizes: dict[int, int] = {}
        self.rechecked = 0
        self.infer_seconds = 0.0
        self.cost = CostCurve()
        self.padded = 0

    def start(self) -> None:
        """Start the engine process; ``on_warm`` or ``on_broken`` follows."""
        child = Child(
            _ENGINE,
            name="engine",
            fds=[self._arena.fd],
            on_message=self._receive,
            on_exit=self._reaped,
        )
        if self._stopping or not self._starter.start(child, self.start):
            return
        self._child = child
        self.starts += 1
        child.send(child_messages.encode(self._setup))

    async def stop(self, timeout: float) -> None:
        """End the engine. Tickets must have been settled before."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._patience is not None:
            self._patience.cancel()
        if self._child is not None:
            await self._child.stop(timeout)

    def trust(self) -> None:
        """The goldens agree: from now on everybody's images are scored."""
        self.trusted = True
        self.dispatch()

    async def score(self, ticket: Ticket) -> Sequence[float]:
        """Score the pixels in ``ticket.lease``; those of the self-test at once, also by an engine not trusted yet.

        Returns:
            float32 values, one a label, unchecked.

        Raises:
            CodedError: ``engine_died``, ``engine_failed``, or what settled the ticket.
        """
        claim, now = ticket.claim, time.monotonic()
        entry = ScoreJob(ticket, now)
        if entry.probe:
            self._probes.append(entry)
        else:
            self._sizing.asked(claim, now)
            self.queue.push(entry, claim.lane, claim.asker)
        self.dispatch()
        try:
            scores: Sequence[float] = await ticket.wait()
        except BaseException:
            self.queue.discard(entry, claim.lane, claim.asker)
            raise
        return scores

    def restart(self) -> None:
        """End the engine process; another one is started, and proved before it is trusted."""
        self.trusted = False
        if self._child is not None:
            self._child.kill()

    def processes(self) -> list[int]:
        """Process id of the engine, if it lives."""
        return [self._child.pid] if self._child is not None and self._child.alive else []

    @property
    def busy(self) -> bool:
        """Whether the engine holds a batch."""
        return bool(self._batches)

    def count_on(self, former: ScoreStage) -> None:
        """Go on counting where a stage that is replaced stands; the cost of a batch is measured anew."""
        self.restarts += former.restarts
        self.batches += former.batches
        self.images += former.images
        self.padded += former.padded
        self.rechecked += former.rechecked
        self.infer_seconds += former.infer_seconds
        for size, count in former.sizes.items():
            self.sizes[size] = self.sizes.get(size, 0) + count

    # -- batching ----------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Fill the engine with what is ready."""
        if self.engine is None:
            return
        now = time.monotonic()
        while room := self._sizing.room(self.engine, self._batches.values(), now):
            batch = self._next_batch(min(room, self._most_images))
            if not batch:
                return
            self._send(batch, now)

    def _next_batch(self, ceiling: int) -> list[ScoreJob]:
        """What goes next: the self-test; then a suspect, alone, so that a second end has one author; then the lanes."""
        if any(entry.suspect for batch in self._batches.values() for entry in batch):
            return []
        batch = self._take(self._probes, ceiling)
        if batch or not self.trusted:
            return batch
        if self._suspects and self._batches:
            return []
        batch = self._take(self._suspects, 1)
        if batch:
            return batch
        while len(batch) < ceiling and (entry := self.queue.pop()) is not None:
            if entry.ticket.settled is None:
                batch.append(entry)
        return batch

    @staticmethod
    def _take(waiting: deque[ScoreJob], most: int) -> list[ScoreJob]:
        batch: list[ScoreJob] = []
        while waiting and len(batch) < most:
            entry = waiting.popleft()
            if entry.ticket.settled is None:
                batch.append(entry)
        return batch

    def _send(self, batch: list[ScoreJob], now: float) -> None:
        assert self._child is not None
        self._number += 1
        self._batches[self._number] = batch
        slots: list[int] = []
        for entry in batch:
            entry.ticket.time.wait += now - entry.ready
            slots.append(entry.hand_over().slot)
        self._child.send(child_messages.encode(child_messages.Batch(self._number, slots)))
        if len(self._batches) == 1:
            self._heard = self._loop.time()
        if self._patience is None:
            self._patience = self._loop.call_later(STUCK, self._look)

    def _look(self) -> None:
        """Kill the engine if it holds a batch and has not answered for long. One timer does for many batches."""
        self._patience = None
        left = self._heard + STUCK - self._loop.time()
        if self._child is None or not self._batches:
            return
        if left > 0:
            self._patience = self._loop.call_later(left, self._look)
            return
        _log.error("the engine has not answered for %g seconds and is killed", STUCK)
        self._child.kill()

    def _receive(self, packet: bytes) -> None:
        assert self._child is not None
        try:
            message = _MESSAGES.decode(packet)
        except msgspec.MsgspecError:
            self._child.kill()
            return
        if isinstance(message, child_messages.Scores):
            self._deliver(message)
            self.dispatch()
        elif isinstance(message, child_messages.EngineReady):
            self._greeted(message)
            self._on_warm()
            self.dispatch()
        elif isinstance(message, child_messages.EngineNote):
            self._noted(message)
        elif isinstance(message, child_messages.EngineLost) or self._on_gpu:
            self._device_lost(message.message, running=isinstance(message, child_messages.EngineLost))
        else:
            self._give_up(message.message)

    def _greeted(self, ready: child_messages.EngineReady) -> None:
        """An engine is warm. One that has a GPU is never followed by one without, unless the setting allows it."""
        self._on_gpu = not ready.device.startswith("cpu")
        if self._on_gpu:
            self._setup = msgspec.structs.replace(self._setup, device="gpu")
        self.engine = msgspec.structs.replace(ready, note=self._with_loss(ready.note))

    def _noted(self, message: child_messages.EngineNote) -> None:
        """Tell the operator; once it is warm, what it says holds from now on."""
        _log.warning("engine: %s", message.note)
        if self.engine is not None:
            note = self._with_loss(message.note)
            self.engine = msgspec.structs.replace(self.engine, note=note, buckets=message.buckets)

    def _with_loss(self, note: str) -> str:
        """A note after what is to be said of a GPU that was lost."""
        return "; ".join(filter(None, (self._loss, note)))

    def _device_lost(self, why: str, *, running: bool) -> None:
        """The GPU is gone: start an engine that may find it again, and end when it does not; or go on upon the CPU.

        Args:
            running: it was lost by an engine that had it; otherwise a new engine has not found it.
        """
        if self._on_device_loss != "cpu":
            if running:
                _log.error("the GPU was lost: %s; the engine is started again", why)
                self.restart()
            else:
                self._give_up(f"the GPU was lost: {why}; mend it and restart, or set on_device_loss = cpu")
            return
        self._loss = f"the GPU was lost ({why}): running on the CPU"
        _log.error("%s", self._loss)
        self._on_gpu = False
        self._setup = msgspec.structs.replace(self._setup, device="cpu")

    def _give_up(self, why: str) -> None:
        self._stopping = True
        self._on_broken(EngineError(why))

    def _deliver(self, message: child_messages.Scores) -> None:
        batch = self._batches.get(message.number)
        if batch is None:
            return
        try:
            rows = unpack(message, len(batch), self._labels)
        except ValueError:
            self.restart()
            return
        del self._batches[message.number]
        self._heard = self._loop.time()
        self._count(batch, message)
        for entry in batch:
            entry.ticket.time.infer += message.seconds
        if rows is None:
            why = message.message or "the engine returned another number of scores"
            self._return(batch, CodedError("engine_failed", why), alone=len(batch) == 1)
            return
        self._useful = self._useful or self.trusted
        for entry, row in zip(batch, rows, strict=True):
            self._slots.release(entry.take_back())
            entry.ticket.resolve(row)

    def _count(self, batch: list[ScoreJob], message: child_messages.Scores) -> None:
        self.batches += 1
        self.images += len(batch)
        self.rechecked += message.rechecked
        self.sizes[len(batch)] = self.sizes.get(len(batch), 0) + 1
        self.infer_seconds += message.seconds
        self.cost.add(len(batch), message.seconds)
        if self.engine is not None:
            self.padded += next((size for size in self.engine.buckets if size >= len(batch)), len(batch)) - len(batch)

    # -- deaths ------------------------------------------------------------------------------------------------------

    def _reaped(self, exit_: Exit) -> None:
        child, self._child = self._child, None
        self.engine, self.trusted = None, False
        batches, self._batches = self._batches, {}
        entries = [entry for batch in batches.values() for entry in batch]
        self._return(entries, CodedError("engine_died"), alone=len(entries) == 1)
        self._abandon_probes()
        if self._stopping:
            return
        if child is not None:
            tell_end(child, exit_)
        self.restarts += 1
        delay = self._deaths.delay(self._loop.time(), useful=self._useful)
        self._useful = False
        if delay is None:
            words = exit_.last_words or str(exit_)
            if exit_.signal == signal.SIGKILL:
                words += " (too little memory? free some, or serve a smaller bundle)"
            self._on_broken(EngineError(f"the engine died {MOST_DEATHS + 1} times in {DEATH_WINDOW:g} s: {words}"))
            return
        self._restart = self._loop.call_later(delay, self.start)

    def _return(self, entries: list[ScoreJob], error: CodedError, *, alone: bool) -> None:
        """What becomes of images in an engine that died or whose batch failed: each is tried again, alone.

        Args:
            error: for an image that is to blame, because nothing else was in the engine.
            alone: there was one image. When an engine dies that may be by chance, so it is tried once more as well.
        """
        died = error.code == "engine_died"
        for entry in entries:
            lease, ticket = entry.take_back(), entry.ticket
            if ticket.settled is not None:
                self._slots.release(lease)
                continue
            ticket.lease = lease
            if entry.probe or (alone and (entry.suspect or not died)):
                ticket.fail(error)
            else:
                entry.suspect = True
                self._suspects.append(entry)

    def _abandon_probes(self) -> None:
        """The self-test was to prove this engine: the next one is proved anew."""
        while self._probes:
            self._probes.popleft().ticket.fail(CodedError("engine_died"))
