"""The score stage: images with pixels wait in lanes, the engine process scores them in batches.

Work-conserving: a free engine takes all that is ready up to its ceiling and never waits for more. Some batches are
always in flight, so that the device never waits for the host. It knows nothing of files or verdicts.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from typing import TYPE_CHECKING

from nsfwd.errors import CodedError
from nsfwd.ipc import child_messages
from nsfwd.ipc.link import MAX_PACKET
from nsfwd.pipeline.infer.batch_size import BatchSizer
from nsfwd.pipeline.infer.cost_curve import CostCurve
from nsfwd.pipeline.infer.engine_supervisor import EngineSupervisor
from nsfwd.pipeline.infer.score_job import ScoreJob
from nsfwd.pipeline.queueing.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from nsfwd.bundles.verdict import ModelOutput
    from nsfwd.errors import EngineError
    from nsfwd.ipc.arena import Arena
    from nsfwd.pipeline.queueing.slots import Slots
    from nsfwd.pipeline.queueing.tickets import Ticket


_FLOAT = 4
_ENVELOPE = 16 * 1024
"""Bytes of a packet that are left for all that is not scores, a long message included."""

MOST_SCORES = (MAX_PACKET - _ENVELOPE) // _FLOAT
"""Scores that one reply of an engine can hold: a batch of images of many labels must not be larger."""


class ScoreStage:
    """The engine and what waits for it.

    Args:
        arena: where the pixels lie.
        slots: the leases of its slots.
        setup: the first message of the engine.
        labels: how many scores an image has.
        on_device_loss: ``refuse`` or ``cpu``: what to do when a GPU that has scored is lost for good.
        on_warm: called each time an engine has loaded and warmed; only the self-test is scored until ``trust``.
        on_broken: called once when the engine cannot be built, or dies too often.

    Attributes:
        supervisor: the engine process.
        trusted: the engine has passed the self-test.
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
        self._slots = slots
        self._labels = labels
        self._on_warm = on_warm
        self.supervisor = EngineSupervisor(self, arena.fd, setup, on_device_loss=on_device_loss, on_broken=on_broken)
        self.queue: FairQueue[ScoreJob] = FairQueue()
        self._sizer = BatchSizer()
        self._self_test: deque[ScoreJob] = deque()
        self._suspects: deque[ScoreJob] = deque()
        self._batches: dict[int, list[ScoreJob]] = {}
        self._number = 0
        self._most_images = MOST_SCORES // labels
        self.trusted = False
        self.batches = 0
        self.images = 0
        self.sizes: dict[int, int] = {}
        self.rechecked = 0
        self.infer_seconds = 0.0
        self.cost = CostCurve()
        self.padded = 0

    def start(self) -> None:
        """Start the engine process; ``on_warm`` or ``on_broken`` follows."""
        self.supervisor.start()

    async def stop(self, timeout: float) -> None:
        """End the engine. Tickets must have been settled before."""
        await self.supervisor.stop(timeout)

    def trust(self) -> None:
        """The goldens agree: from now on the images of requests are scored."""
        self.trusted = True
        self.dispatch()

    async def score(self, ticket: Ticket, keep: bool = False) -> ModelOutput:
        """Score the pixels in ``ticket.lease``; those of the self-test at once, also by an engine not trusted yet.

        Args:
            keep: give the slot back to the ticket: another model is to score the same pixels.

        Returns:
            The model's output, unchecked.

        Raises:
            CodedError: ``engine_died``, ``engine_failed``, or what settled the ticket.
        """
        claim, now = ticket.claim, time.monotonic()
        entry = ScoreJob(ticket, now, keep)
        if claim.reserved_slot is not None:
            self._self_test.append(entry)
        else:
            self._sizer.asked(claim, now)
            self.queue.push(entry, claim.lane, claim.flow)
        self.dispatch()
        try:
            output: ModelOutput = await ticket.wait()
        except BaseException:
            self.queue.discard(entry, claim.lane, claim.flow)
            raise
        return output

    def distrust(self) -> None:
        """The engine scores no image of a request until it, or the next one, is proved."""
        self.trusted = False

    def restart(self) -> None:
        """End the engine process; another one is started, and proved before it is trusted."""
        self.distrust()
        self.supervisor.kill()

    @property
    def busy(self) -> bool:
        """Whether the engine holds a batch."""
        return bool(self._batches)

    def inherit_counters(self, former: ScoreStage) -> None:
        """Add the counts of a stage that is replaced; the cost of a batch is measured again."""
        self.supervisor.restarts += former.supervisor.restarts
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
        engine = self.supervisor.engine
        if engine is None:
            return
        now = time.monotonic()
        while size := self._sizer.next_size(engine, self._batches.values(), now):
            batch = self._next_batch(min(size, self._most_images))
            if not batch:
                return
            self._send(batch, now)

    def _next_batch(self, ceiling: int) -> list[ScoreJob]:
        """Take the next batch: the self-test; then a suspect, alone, so that one image is to blame; then the lanes."""
        if any(entry.suspect for batch in self._batches.values() for entry in batch):
            return []
        batch = self._take(self._self_test, ceiling)
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
        self._number += 1
        self._batches[self._number] = batch
        slots: list[int] = []
        for entry in batch:
            entry.ticket.time.wait += now - entry.ready
            slots.append(entry.hand_over().slot)
        self.supervisor.send(child_messages.Batch(self._number, slots), first=len(self._batches) == 1)

    # -- what the engine reports -------------------------------------------------------------------------------------

    def engine_ready(self) -> None:
        """An engine has loaded and warmed: it has to pass the self-test first."""
        self._on_warm()
        self.dispatch()

    def scored(self, message: child_messages.Scores) -> bool:
        """The engine has done a batch, or failed on it; return whether it held that batch."""
        batch = self._batches.get(message.number)
        if batch is None:
            return False
        try:
            rows = _unpack(message, len(batch), self._labels)
        except ValueError:
            self.restart()
            return False
        del self._batches[message.number]
        self._count(batch, message)
        for entry in batch:
            entry.ticket.time.infer += message.seconds
        if rows is None:
            why = message.message or "the engine returned the wrong number of scores"
            self._return(batch, CodedError("engine_failed", why), alone=len(batch) == 1)
            self.dispatch()
            return True
        self.supervisor.useful = self.supervisor.useful or self.trusted
        for entry, row in zip(batch, rows, strict=True):
            lease, ticket = entry.take_back(), entry.ticket
            if entry.keep and ticket.settled is None:
                ticket.lease = lease
            else:
                self._slots.release(lease)
            ticket.resolve(row)
        self.dispatch()
        return True

    def _count(self, batch: list[ScoreJob], message: child_messages.Scores) -> None:
        self.batches += 1
        self.images += len(batch)
        self.rechecked += message.rechecked
        self.sizes[len(batch)] = self.sizes.get(len(batch), 0) + 1
        self.infer_seconds += message.seconds
        self.cost.add(len(batch), message.seconds)
        engine = self.supervisor.engine
        if engine is not None:
            self.padded += next((size for size in engine.buckets if size >= len(batch)), len(batch)) - len(batch)

    def engine_ended(self) -> None:
        """The engine holds nothing any more: what it held is tried again, and the next one is proved anew."""
        self.trusted = False
        batches, self._batches = self._batches, {}
        entries = [entry for batch in batches.values() for entry in batch]
        self._return(entries, CodedError("engine_died"), alone=len(entries) == 1)
        while self._self_test:
            self._self_test.popleft().ticket.fail(CodedError("engine_died"))

    def _return(self, entries: list[ScoreJob], error: CodedError, *, alone: bool) -> None:
        """Try the images of an engine that died, or of a batch that failed, again, each alone.

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
            if entry.self_test or (alone and (entry.suspect or not died)):
                ticket.fail(error)
            else:
                entry.suspect = True
                self._suspects.append(entry)


def _unpack(message: child_messages.Scores, images: int, labels: int) -> list[list[float]] | None:
    """Return the scores of each image of a batch, unchecked; None where the engine failed or sent another number.

    Raises:
        ValueError: the time it took is not a duration: the sender is defective.
    """
    if not (math.isfinite(message.seconds) and message.seconds >= 0):
        raise ValueError(f"impossible duration of a batch: {message.seconds} seconds")
    if len(message.scores) != images * labels * _FLOAT:
        return None
    values = array("f", message.scores).tolist()
    return [values[first : first + labels] for first in range(0, len(values), labels)]
