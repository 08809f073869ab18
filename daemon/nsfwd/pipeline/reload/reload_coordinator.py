"""How one generation follows another at a reload: beside it, or after its end where memory does not hold both.

Beside: the successor proves itself while the old one serves; then one reference is swapped, and the old one closes with
its last ticket. After its end: what is asked meanwhile waits at a gate under its deadline, so no request fails either.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from nsfwd.errors import CodedError, NsfwdError
from nsfwd.pipeline.reload import memory_headroom
from nsfwd.pipeline.reload.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.config import Settings
    from nsfwd.pipeline.decode.list_stage import ListStage
    from nsfwd.pipeline.generation import Generation
    from nsfwd.pipeline.pipeline import Pipeline
    from nsfwd.pipeline.queueing.tickets import Ticket

STOP_TIMEOUT = 2.0
"""Seconds a child may take to end once its link is closed; then it is killed."""

_log = logging.getLogger("nsfwd.pipeline")


class ReloadCoordinator:
    """The reloads of one pipeline, one at a time.

    Attributes:
        gate: where tickets wait while nothing serves; None while something does.
        done: reloads that took over.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._successor: tuple[Generation, asyncio.Future[None]] | None = None
        self._retired: dict[asyncio.Task[None], tuple[Generation, ListStage]] = {}
        self.gate: Gate | None = None
        self.done = 0

    async def reload(self, settings: Settings, bundles: Sequence[Bundle]) -> str:
        """Let new settings and bundles take over once their engine is warm and their goldens agree.

        Returns:
            How: ``beside`` what served before, or ``drain``: after its end.

        Raises:
            NsfwdError: why not; what served before serves on. The operator's to mend, or the daemon is stopping.
        """
        async with self._turn:
            successor = self._pipeline.build(settings, bundles)
            mode = self._mode(settings)
            if mode == "drain":
                await self._drain_first(successor)
            else:
                await self._prove(successor)
                self._take_over(successor)
            self.done += 1
            return mode

    async def enter(self, ticket: Ticket) -> Generation:
        """Wait until something serves, and tell what.

        Raises:
            CodedError: the ticket was settled meanwhile.
        """
        while self.gate is not None:
            await self.gate.wait(ticket)
        return self._pipeline.generation

    def settle(self, generation: Generation, error: NsfwdError | None = None) -> bool:
        """Hear that a generation has proved itself, or why it cannot; tell whether it is the one that is awaited."""
        if self._successor is None or generation is not self._successor[0]:
            return False
        proven = self._successor[1]
        if not proven.done():
            if error is None:
                proven.set_result(None)
            else:
                proven.set_exception(error)
        return True

    def drain(self) -> None:
        """The daemon is about to stop: nothing takes over any more."""
        if self._successor is not None:
            self.settle(self._successor[0], CodedError("draining"))

    async def stop(self, timeout: float) -> None:
        """End what was replaced, once a reload that was cut short has ended its own."""
        for task in self._retired:
            task.cancel()
        async with self._turn:
            await asyncio.gather(*(part.stop(timeout) for parts in self._retired.values() for part in parts))

    # -- how ---------------------------------------------------------------------------------------------------------

    def _mode(self, settings: Settings) -> str:
        if settings.reload_mode != "auto":
            return settings.reload_mode
        old = self._pipeline.generation
        return (
            "beside"
            if memory_headroom.holds_two((*old.scoring.processes(), *old.decoding.crew.processes()))
            else "drain"
        )

    async def _prove(self, successor: Generation) -> None:
        """Start its processes and wait until its goldens agree; where they do not, it has ended again."""
        proven: asyncio.Future[None] = self._loop.create_future()
        self._successor = successor, proven
        try:
            if self._pipeline.admission.draining:
                raise CodedError("draining")
            successor.start()
            await proven
        except BaseException:
            await successor.stop(STOP_TIMEOUT)
            raise
        finally:
            self._successor = None

    async def _drain_first(self, successor: Generation) -> None:
        """End what serves, once nothing is in it any more; then let the successor take over."""
        pipeline = self._pipeline
        old, self.gate = pipeline.generation, Gate()
        _log.warning("memory for one engine: what is asked waits until the new one is ready")
        try:
            await old.empty()
            if pipeline.admission.draining:
                await successor.stop(STOP_TIMEOUT)
                raise CodedError("draining")
            pipeline.ready.clear()
            await old.stop(STOP_TIMEOUT)
            await self._prove_or_return(successor, old)
        finally:
            gate, self.gate = self.gate, None
            gate.open()

    async def _prove_or_return(self, successor: Generation, old: Generation) -> None:
        """Let the successor take over; where it cannot, what served before, started anew."""
        try:
            await self._prove(successor)
        except NsfwdError as error:
            if self._pipeline.admission.draining:
                self._pipeline.expire_all()
            else:
                _log.error("the new engine cannot serve, the one before is started again: %s", error)
                await self._return(old)
            raise
        self._take_over(successor)

    async def _return(self, old: Generation) -> None:
        """Start anew what has ended; where that cannot be, the daemon has to end."""
        again = self._pipeline.build(old.settings, old.bundles)
        try:
            await self._prove(again)
        except NsfwdError as error:
            self._pipeline.broken(old, error)
            raise
        self._take_over(again)

    # -- what was replaced -------------------------------------------------------------------------------------------

    def _take_over(self, successor: Generation) -> None:
        old, lister = self._pipeline.adopt(successor)
        successor.count_on(old)
        task = self._loop.create_task(self._retire(old, lister))
        self._retired[task] = (old, lister)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            del self._retired[task]

    async def _retire(self, generation: Generation, lister: ListStage) -> None:
        """End what nobody is left in. A listing that is under way keeps only its lister."""
        await generation.empty()
        await generation.stop(STOP_TIMEOUT)
        await lister.unused()
        await lister.stop(STOP_TIMEOUT)
