"""The generation that serves, and its replacement: beside it, or after its end where memory does not hold both.

Beside: the successor proves itself while the old one serves; then one reference is swapped, and the old one closes with
its last ticket. After its end: requests in between wait at a gate under their deadlines, so none fails either.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from nsfwd.errors import CodedError, EngineError, NsfwdError, SettingsError
from nsfwd.ipc.child_messages import ListerSetup
from nsfwd.overrides.override_watcher import OverrideWatcher
from nsfwd.pipeline.decode.list_stage import CHUNK, ListStage
from nsfwd.pipeline.generation import EngineTest, Generation
from nsfwd.pipeline.reload import memory_headroom
from nsfwd.pipeline.stats import LONGEST_LOAD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.config import Settings
    from nsfwd.pipeline.decode.poison_list import PoisonList
    from nsfwd.pipeline.queueing.admission import Admission
    from nsfwd.pipeline.queueing.tickets import Ticket

STOP_TIMEOUT = 2.0
"""Seconds a child may take to end once its link is closed; then it is killed."""

_log = logging.getLogger("nsfwd.pipeline")


class Gate:
    """Where admitted images wait while nothing serves. Closed from its making on; opened once."""

    def __init__(self) -> None:
        self._waiting: set[Ticket] = set()

    async def wait(self, ticket: Ticket) -> None:
        """Wait until it is opened, or until the ticket is settled.

        Raises:
            CodedError: the ticket was settled: its deadline, a cancel, the end of the daemon.
        """
        self._waiting.add(ticket)
        try:
            await ticket.wait()
        finally:
            self._waiting.discard(ticket)

    def open(self) -> None:
        """Let all tickets go on."""
        for ticket in self._waiting:
            if ticket.settled is None:
                ticket.resolve(None)


class ReloadCoordinator:
    """The generation and the lister that serve, and their replacement, one reload at a time.

    Args:
        settings, bundles: of the first generation.
        admission: the tickets in flight.
        poison: files that are known to crash decoders.
        self_test: makes the self-test of a generation.

    Attributes:
        generation, lister: they serve; a ticket keeps the generation it has entered.
        gate: where tickets wait while nothing serves; None while something does.
        ready: an engine is warm and the goldens agree.
        failed: ends with the error for which the daemon must stop; never with a result.
        done: reloads that took over.
    """

    def __init__(
        self,
        settings: Settings,
        bundles: Sequence[Bundle],
        admission: Admission,
        poison: PoisonList,
        self_test: Callable[[Generation], EngineTest],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._admission = admission
        self._poison = poison
        self._self_test = self_test
        self._overriding = OverrideWatcher.load(settings.overrides)
        self._lock = asyncio.Lock()
        self._successor: tuple[Generation, asyncio.Future[None]] | None = None
        self._retired: dict[asyncio.Task[None], tuple[Generation, ListStage]] = {}
        self.gate: Gate | None = None
        self.ready = asyncio.Event()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self.done = 0
        self.generation = self.build(settings, bundles)
        self.lister = self.build_lister(settings)

    def start(self) -> None:
        """Start decoders, lister and engine; returns at once. ``ready`` or ``failed`` follows."""
        self.generation.start()
        self.lister.start()

    def build(self, settings: Settings, bundles: Sequence[Bundle]) -> Generation:
        """Make a generation, which is not started yet.

        Raises:
            SettingsError: it would need more than one bundle.
            OverridesFailure: the store of overrides is another one, and cannot be read.
        """
        if len(bundles) != 1:
            raise SettingsError("models: this version serves exactly one bundle at a time")
        self._overriding = self._overriding.at(settings.overrides)
        return Generation(
            settings,
            bundles,
            workers=settings.decoders or len(os.sched_getaffinity(0)),
            poison=self._poison,
            overriding=self._overriding,
            self_test=self._self_test,
            on_proven=self.proven,
            on_broken=self.broken,
        )

    def build_lister(self, settings: Settings) -> ListStage:
        """Make the lister that goes with a generation, which is not started yet."""
        roots = tuple(os.fsencode(root) for root in settings.roots)
        setup = ListerSetup(roots, settings.max_depth, settings.max_entries, CHUNK)
        return ListStage(setup, patience=settings.decode_timeout)

    async def enter(self, ticket: Ticket) -> Generation:
        """Wait until a generation serves; return it.

        Raises:
            CodedError: the ticket was settled first.
        """
        while self.gate is not None:
            await self.gate.wait(ticket)
        return self.generation

    async def reload(self, settings: Settings, bundles: Sequence[Bundle]) -> str:
        """Let new settings and bundles take over once their engine is warm and their goldens agree.

        Returns:
            ``beside`` when the former ones served until then, ``drain`` when they had to end first.

        Raises:
            NsfwdError: the new ones cannot serve, which the operator has to fix, or the daemon is stopping; the former
                ones serve.
        """
        async with self._lock:
            successor = self.build(settings, bundles)
            mode = self._mode(settings)
            if mode == "drain":
                await self._drain_first(successor)
            else:
                await self._prove(successor)
                self._take_over(successor)
            self.done += 1
            return mode

    def drain(self) -> None:
        """The daemon is about to stop: nothing takes over any more."""
        if self._successor is not None:
            self.settle(self._successor[0], CodedError("draining"))

    async def stop(self) -> None:
        """End all processes, once a reload that was cut short has ended its own. Tickets must have been settled."""
        for task in self._retired:
            task.cancel()
        async with self._lock:
            retired = [part for parts in self._retired.values() for part in parts]
            await asyncio.gather(*(part.stop(STOP_TIMEOUT) for part in retired))
        await self.generation.stop(STOP_TIMEOUT)
        await self.lister.stop(STOP_TIMEOUT)

    # -- what a generation reports ------------------------------------------------------------------------------------

    def proven(self, generation: Generation) -> None:
        """A generation has passed its self-test: it serves, or is about to."""
        if not self.settle(generation) and generation is self.generation:
            self.ready.set()

    def broken(self, generation: Generation, error: NsfwdError) -> None:
        """A generation will not score any more: the present one ends the daemon, a successor its reload."""
        if generation is self.generation:
            self.ready.clear()
            if not self.failed.done():
                self.failed.set_exception(error)
        elif not self.settle(generation, error):
            _log.error("the processes that a reload replaced broke with %d images: %s", len(generation.tickets), error)
            for ticket in tuple(generation.tickets):
                ticket.fail(CodedError("engine_failed", str(error)))

    def settle(self, generation: Generation, error: NsfwdError | None = None) -> bool:
        """Pass a report on to the reload that waits for it; return whether one does."""
        if self._successor is None or generation is not self._successor[0]:
            return False
        proven = self._successor[1]
        if not proven.done():
            if error is None:
                proven.set_result(None)
            else:
                proven.set_exception(error)
        return True

    # -- how ---------------------------------------------------------------------------------------------------------

    def _mode(self, settings: Settings) -> str:
        if settings.reload_mode != "auto":
            return settings.reload_mode
        return "beside" if memory_headroom.holds_two(self.generation.processes()) else "drain"

    async def _prove(self, successor: Generation) -> None:
        """Start its processes and wait until its goldens agree; where they do not, it has ended again."""
        proven: asyncio.Future[None] = self._loop.create_future()
        self._successor = successor, proven
        try:
            if self._admission.draining:
                raise CodedError("draining")
            successor.start()
            try:
                async with asyncio.timeout(LONGEST_LOAD):
                    await proven
            except TimeoutError:
                raise EngineError(f"the new engine was not ready within {LONGEST_LOAD:g} s") from None
        except BaseException:
            await successor.stop(STOP_TIMEOUT)
            raise
        finally:
            self._successor = None

    async def _drain_first(self, successor: Generation) -> None:
        """End what serves, once nothing is in it any more; then let the successor take over."""
        old, self.gate = self.generation, Gate()
        _log.warning("memory for one engine only: requests are queued until the new engine is ready")
        try:
            await old.empty()
            if self._admission.draining:
                await successor.stop(STOP_TIMEOUT)
                raise CodedError("draining")
            self.ready.clear()
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
            if self._admission.draining:
                self._admission.expire_all()
            else:
                _log.error("the new engine cannot serve; the previous one is started again: %s", error)
                await self._return(old)
            raise
        self._take_over(successor)

    async def _return(self, old: Generation) -> None:
        """Start anew what has ended; where that cannot be, the daemon has to end."""
        again = self.build(old.settings, old.bundles)
        try:
            await self._prove(again)
        except NsfwdError as error:
            self.broken(old, error)
            raise
        self._take_over(again)

    # -- what was replaced -------------------------------------------------------------------------------------------

    def _take_over(self, successor: Generation) -> None:
        """Swap the reference by which a new ticket finds its processes; the former ones end with their last ticket."""
        old, lister = self.generation, self.lister
        self.generation, self.lister = successor, self.build_lister(successor.settings)
        self._admission.budget.limit = successor.settings.queue
        self.lister.start()
        self.ready.set()
        successor.inherit_counters(old)
        task = self._loop.create_task(self._retire(old, lister))
        self._retired[task] = (old, lister)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            del self._retired[task]

    async def _retire(self, generation: Generation, lister: ListStage) -> None:
        """End a generation once its last ticket has left. A listing that is under way keeps only its lister."""
        await generation.empty()
        await generation.stop(STOP_TIMEOUT)
        await lister.unused()
        await lister.stop(STOP_TIMEOUT)
