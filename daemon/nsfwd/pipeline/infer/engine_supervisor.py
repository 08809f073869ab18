"""The engine process of a score stage: started, watched, ended when it hangs, replaced when it dies.

An engine that has scored an image of a request works, and is replaced at once each time that it ends. One that ends
before it was of use may never be, so each such end delays the next start, and too many end the daemon. The stage
decides the fate of the images in an engine that ended.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from nsfwd.backoff import ENGINE_RESTART
from nsfwd.errors import EngineError
from nsfwd.ipc import child_messages
from nsfwd.ipc.child import Child, Exit
from nsfwd.ipc.process_start import ProcessStarter, tell_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from nsfwd.pipeline.infer.score_stage import ScoreStage

STUCK = 60.0
"""Seconds without an answer after which a warm engine that holds a batch is killed: a device that hangs would otherwise
hold every image until its deadline, for ever. The slowest batch, InceptionV3 on one slow core, takes a few seconds."""

MOST_DEATHS = 5
DEATH_WINDOW = 60.0
"""More than ``MOST_DEATHS`` without use in this many seconds: the engine is broken and the daemon gives up."""

_log = logging.getLogger("nsfwd.pipeline")

_ENGINE = "nsfwd.engines.engine_process"
_MESSAGES = msgspec.msgpack.Decoder(
    child_messages.EngineReady
    | child_messages.EngineNote
    | child_messages.EngineFailed
    | child_messages.EngineLost
    | child_messages.Scores
)


class EngineSupervisor:
    """The engine of one stage.

    Args:
        stage: gets its scores, and hears of its beginning and its end.
        arena_fd: where the pixels lie.
        setup: its first message.
        on_device_loss: ``refuse`` or ``cpu``: what to do when a GPU that has scored is lost for good.
        on_broken: called once when the engine cannot be built, or dies too often.

    Attributes:
        engine: as it reported itself once it was warm; None while there is none.
        useful: it has scored an image of a request.
        starts: engines started so far; another number means another engine.
        restarts: how many have ended.
    """

    def __init__(
        self,
        stage: ScoreStage,
        arena_fd: int,
        setup: child_messages.EngineSetup,
        *,
        on_device_loss: str,
        on_broken: Callable[[EngineError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stage = stage
        self._arena_fd = arena_fd
        self._setup = setup
        self._on_device_loss = on_device_loss
        self._on_gpu = False
        self._loss = ""
        self._on_broken = on_broken
        self._useless_ends: deque[float] = deque()
        self._child: Child | None = None
        self.starter = ProcessStarter(self._loop, on_broken)
        self._restart: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._stopping = False
        self.engine: child_messages.EngineReady | None = None
        self.useful = False
        self.starts = 0
        self.restarts = 0

    def start(self) -> None:
        """Start the engine process; it reports itself to the stage, or the generation is broken."""
        child = Child(_ENGINE, name="engine", fds=[self._arena_fd], on_message=self._receive, on_exit=self._reaped)
        if self._stopping or not self.starter.start(child, self.start):
            return
        self._child = child
        self.starts += 1
        child.send(child_messages.encode(self._setup))

    async def stop(self, timeout: float) -> None:
        """End the engine."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._patience is not None:
            self._patience.cancel()
        if self._child is not None:
            await self._child.stop(timeout)

    def kill(self) -> None:
        """End the engine process; another one is started."""
        if self._child is not None:
            self._child.kill()

    def processes(self) -> list[int]:
        """Process id of the engine, if it lives."""
        return [self._child.pid] if self._child is not None and self._child.alive else []

    def send(self, batch: child_messages.Batch, *, first: bool) -> None:
        """Have a batch scored; ``first`` if the engine held none."""
        assert self._child is not None
        self._child.send(child_messages.encode(batch))
        if first:
            self._heard = self._loop.time()
        if self._patience is None:
            self._patience = self._loop.call_later(STUCK, self._look)

    def _look(self) -> None:
        """Kill the engine if it holds a batch and has not answered for long. One timer does for many batches."""
        self._patience = None
        left = self._heard + STUCK - self._loop.time()
        if self._child is None or not self._stage.busy:
            return
        if left > 0:
            self._patience = self._loop.call_later(left, self._look)
            return
        _log.error("the engine has not answered for %g seconds and is killed", STUCK)
        self._child.kill()

    # -- what it says ------------------------------------------------------------------------------------------------

    def _receive(self, packet: bytes) -> None:
        assert self._child is not None
        try:
            message = _MESSAGES.decode(packet)
        except msgspec.MsgspecError:
            self._child.kill()
            return
        if isinstance(message, child_messages.Scores):
            if self._stage.scored(message):
                self._heard = self._loop.time()
            return
        if isinstance(message, child_messages.EngineReady):
            self._greeted(message)
            self._stage.engine_ready()
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
        """The GPU is gone: start an engine that may find it again, and end when it does not; or go on with the CPU.

        Args:
            running: it was lost by an engine that had it; otherwise a new engine has not found it.
        """
        if self._on_device_loss != "cpu":
            if running:
                _log.error("the GPU was lost: %s; the engine is started again", why)
                self._stage.distrust()
                self.kill()
            else:
                self._give_up(f"the GPU was lost: {why}; repair it and restart, or set on_device_loss = cpu")
            return
        self._loss = f"the GPU was lost ({why}): running on the CPU"
        _log.error("%s", self._loss)
        self._on_gpu = False
        self._setup = msgspec.structs.replace(self._setup, device="cpu")

    def _give_up(self, why: str) -> None:
        self._stopping = True
        self._on_broken(EngineError(why))

    def _reaped(self, exit_: Exit) -> None:
        child, self._child = self._child, None
        self.engine = None
        self._stage.engine_ended()
        if self._stopping:
            return
        if child is not None:
            tell_end(child, exit_)
        self.restarts += 1
        delay = self._delay(self._loop.time())
        self.useful = False
        if delay is None:
            words = exit_.last_words or str(exit_)
            if exit_.signal == signal.SIGKILL:
                words += " (too little memory? free some, or serve a smaller bundle)"
            self._on_broken(EngineError(f"the engine died {MOST_DEATHS + 1} times in {DEATH_WINDOW:g} s: {words}"))
            return
        self._restart = self._loop.call_later(delay, self.start)

    def _delay(self, now: float) -> float | None:
        """Seconds until the restart after an end at ``now``; None when there have been too many without use."""
        if self.useful:
            self._useless_ends.clear()
            return 0.0
        self._useless_ends.append(now)
        while self._useless_ends[0] < now - DEATH_WINDOW:
            self._useless_ends.popleft()
        if len(self._useless_ends) > MOST_DEATHS:
            return None
        return ENGINE_RESTART.delay(len(self._useless_ends) - 1)
