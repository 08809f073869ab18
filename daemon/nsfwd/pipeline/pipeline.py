"""THE story: how one image becomes an outcome. Read ``Pipeline.scan``; everything else is called from there.

The pipeline lives in the server process's event loop. It knows nothing of sockets or dialects.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsfwd.budgets import LISTINGS, Budget
from nsfwd.errors import CodedError, NsfwdError, Status
from nsfwd.ipc import child_messages
from nsfwd.ipc.fd_closer import close_foreign
from nsfwd.overrides.override_watcher import OverrideWatcher
from nsfwd.pipeline import stats
from nsfwd.pipeline.accounts import OutcomeCounters
from nsfwd.pipeline.canary import Canary
from nsfwd.pipeline.decode.decode_job import identity_of
from nsfwd.pipeline.decode.list_stage import CHUNK, ListStage
from nsfwd.pipeline.decode.poison_list import PoisonList
from nsfwd.pipeline.decode.result_cache import Hit
from nsfwd.pipeline.generation import Generation
from nsfwd.pipeline.infer import views
from nsfwd.pipeline.queueing.admission import Admission
from nsfwd.pipeline.queueing.tickets import Claim, Ticket
from nsfwd.pipeline.reload.reload_coordinator import STOP_TIMEOUT, ReloadCoordinator
from nsfwd.protocol.messages import Image, Lane, Outcome, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.config import Settings
    from nsfwd.pipeline.queueing.fair_queue import FlowKey

STANDSTILL = 30.0
"""Seconds in which a stage with work has to get something done: three decode timeouts, many times the longest batch."""

LONGEST_LOAD = 600.0
"""Seconds that an engine may take to load, warm and prove itself before this counts as a standstill."""

_log = logging.getLogger("nsfwd.pipeline")


class Pipeline:
    """All images in flight, whoever asked for them.

    Args:
        settings: what the operator wants.
        bundles: the opened bundles.

    Attributes:
        failed: ends with the error for which the daemon must stop; never with a result.
        started: ``time.monotonic()`` of the start.
        ready: an engine is warm and the goldens agree.
    """

    def __init__(self, settings: Settings, bundles: Sequence[Bundle]) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._settings = settings
        self.failed: asyncio.Future[None] = loop.create_future()
        self.ready = asyncio.Event()
        self.admission = Admission(settings.queue, loop)
        self.poison = PoisonList(Path(settings.cache_dir))
        self._overriding = OverrideWatcher.load(settings.overrides)
        self.generation = self.build(settings, bundles)
        self.lister = _lister(settings)
        self.listings = Budget("listings", LISTINGS)
        self._handover = ReloadCoordinator(self)
        self._canary = Canary(loop, lambda: self.generation)
        self.started = time.monotonic()
        self.accounts = OutcomeCounters()

    async def scan(self, image: Image, claim: Claim) -> Outcome:
        """Score one image.

        The way of every request: a ticket or a refusal; a decoder turns the file into pixels in a slot; the engine
        scores them in a batch; the policy makes a verdict. Whatever goes wrong on the way is the outcome.

        Args:
            image: a path of the server or a descriptor with encoded bytes, which is closed here.
            claim: on whose behalf.

        Returns:
            The one outcome. A directory comes back as an error with the code ``is_directory``.
        """
        identity, ticket, generation = None, None, self.generation
        try:
            ticket = self.admission.admit(claim)
            generation = await self._handover.enter(ticket) if self._handover.gate else generation
            generation.tickets.add(ticket)
            found = await generation.find(image, ticket)
            if isinstance(found, Hit):
                identity, scored, by = found.file, found.scored, found.by
            else:
                identity, by = identity_of(found.identity) if found.identity else None, ""
                if found.code:
                    return Outcome(image.path, Status.ERROR, ticket.time, code=found.code)
                scored = await views.score(generation, image, ticket, found)
            judgement, frame = views.judge(generation, scored, identity)
            generation.remember(ticket, identity, scored)
            told = claim.told(identity)
            outcome = Outcome(image.path, Status.OK, ticket.time, judgement, identity=told, frame=frame, cached=by)
        except CodedError as error:
            spent = ticket.time if ticket else Timing()
            outcome = Outcome.failed(image.path, error, spent, claim.told(identity))
        finally:
            self._leave(image, ticket, generation)
        self.accounts.count(outcome)
        return outcome

    def claim(
        self,
        *,
        asker: FlowKey,
        lane: Lane = Lane.NORMAL,
        deadline: float | None = None,
        identity: bool = False,
        frames: int = 0,
        roots: tuple[bytes, ...] = (),
    ) -> Claim:
        """On whose behalf the images of one request are scored.

        Args:
            asker: whose turn it is within the lane (``fair_queue.FlowKey``).
            deadline: seconds for the whole request; None gives each image the default of its lane (none in background).
            frames: how many frames of each image to look at most; 0 for as many as the bundle says.
            roots: below which its files must lie, beside the daemon's own; none for no further limit.
        """
        allowance = None if lane is Lane.BACKGROUND or deadline is not None else self._settings.deadline
        until = None if deadline is None else self._loop.time() + deadline
        return Claim(asker, lane, deadline=until, allowance=allowance, identity=identity, frames=frames, roots=roots)

    async def listing(self, path: bytes, claim: Claim, *, recursive: bool = False) -> AsyncGenerator[bytes, None]:
        """Name the regular files of a directory, pulled a chunk at a time; close it with ``contextlib.aclosing``.

        Raises:
            CodedError: while iterating: the directory cannot be listed to its end, or (``busy``) too many are already.
        """
        peer = claim.asker[0]
        if not self.listings.fits(peer, 1):
            self.listings.refused += 1
            raise CodedError("busy", "too many directories are being listed", retry_after=1.0)
        self.listings.add(peer, 1)
        try:
            async with aclosing(self.lister.files(path, claim, recursive=recursive)) as files:
                async for file in files:
                    yield file
        finally:
            self.listings.add(peer, -1)

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start decoders, lister and engine; returns at once. ``ready`` or ``failed`` follows."""
        self.generation.start()
        self.lister.start()
        self._canary.start()

    def readiness(self) -> dict[str, Any]:
        """Whether images are being scored, and if not, why."""
        if self.admission.draining:
            return {"ready": False, "why": "draining"}
        if not self.ready.is_set() or not self.generation.scoring.trusted:
            return {"ready": False, "why": "the engine is loading"}
        if doubt := self._canary.doubt():
            return {"ready": False, "why": doubt}
        trouble = self.generation.overriding.trouble
        return {"ready": True, "why": f"overrides: {trouble}"} if trouble else {"ready": True}

    def work(self) -> dict[str, tuple[int, float] | None]:
        """Stage -> a number that changes as it gets work done, and how long it may stand still; None without work."""
        decoding, scoring = self.generation.decoding, self.generation.scoring
        loading = not scoring.trusted
        patience = LONGEST_LOAD if loading else STANDSTILL
        return {
            "decoders": (decoding.decoded + decoding.crew.restarts, patience) if len(decoding.queue) else None,
            "engine": (scoring.batches + scoring.restarts, patience) if loading or scoring.busy else None,
        }

    def drain(self) -> None:
        """Refuse whatever comes from now on."""
        self.admission.draining = True
        self._handover.drain()

    async def drained(self) -> None:
        """Wait until every admitted image has its outcome."""
        await self.admission.empty()

    def expire_all(self) -> None:
        """Give every admitted image the outcome ``draining``: not scored, a retry is safe."""
        self.admission.expire_all()

    async def stop(self) -> None:
        """End all child processes: decoders, engines, lister. Tickets must have been settled before."""
        self._canary.stop()
        await self._handover.stop(STOP_TIMEOUT)
        await self.generation.stop(STOP_TIMEOUT)
        await self.lister.stop(STOP_TIMEOUT)

    # -- reload ------------------------------------------------------------------------------------------------------

    async def reload(self, settings: Settings, bundles: Sequence[Bundle]) -> str:
        """Let new settings and bundles take over; returns how (``ReloadCoordinator.reload``).

        Raises:
            NsfwdError: why not; what served before serves on.
        """
        return await self._handover.reload(settings, bundles)

    def adopt(self, successor: Generation) -> tuple[Generation, ListStage]:
        """Swap the one reference by which a new ticket finds its processes.

        Returns:
            What served before; it is the caller's to end.
        """
        former = self.generation, self.lister
        self.generation, self.lister = successor, _lister(successor.settings)
        self._settings = successor.settings
        self.admission.budget.limit = successor.settings.queue
        self.lister.start()
        self.ready.set()
        return former

    def build(self, settings: Settings, bundles: Sequence[Bundle]) -> Generation:
        """Make a generation, which is not started yet.

        Raises:
            SettingsError: the settings allow none.
            OverridesFailure: the store of overrides is another one, and cannot be read.
        """
        self._overriding = self._overriding.at(settings.overrides)
        return Generation(
            settings,
            bundles,
            workers=settings.decoders or len(os.sched_getaffinity(0)),
            poison=self.poison,
            overriding=self._overriding,
            own_ticket=self.admission.own_ticket,
            on_proven=self._proven,
            on_broken=self.broken,
        )

    def _proven(self, generation: Generation) -> None:
        """An engine has passed the self-test: its generation serves, or is about to."""
        self._canary.proven()
        if not self._handover.settle(generation) and generation is self.generation:
            self.ready.set()

    # -- accounts ----------------------------------------------------------------------------------------------------

    def _leave(self, image: Image, ticket: Ticket | None, generation: Generation) -> None:
        """Whatever the outcome: nothing is held any more on the image's behalf."""
        if image.descriptor is not None:
            (close_foreign if image.foreign else os.close)(image.descriptor)
        if ticket is not None:
            generation.leave(ticket)
            self.admission.leave(ticket)

    def broken(self, generation: Generation, error: NsfwdError) -> None:
        """A generation will not score any more: the present one ends the daemon, a successor its reload."""
        if generation is self.generation:
            self.ready.clear()
            if not self.failed.done():
                self.failed.set_exception(error)
        elif not self._handover.settle(generation, error):
            _log.error("the processes that a reload replaced broke with %d images: %s", len(generation.tickets), error)
            for ticket in tuple(generation.tickets):
                ticket.fail(CodedError("engine_failed", str(error)))

    def poisoned(self) -> list[dict[str, Any]]:
        """The files that crashed decoders and are not decoded again for a while."""
        return self.poison.describe()

    def clear_poison(self) -> int:
        """Forget them; return how many there were."""
        count = self.poison.clear()
        self.generation.decoding.spread_poison()
        return count

    @property
    def reloads(self) -> int:
        """How often changed settings and bundles took over."""
        return self._handover.done

    def stats(self) -> dict[str, Any]:
        """The pipeline's numbers, for ``stats``."""
        return stats.stats(self)


def _lister(settings: Settings) -> ListStage:
    roots = tuple(os.fsencode(root) for root in settings.roots)
    setup = child_messages.ListerSetup(roots, settings.max_depth, settings.max_entries, CHUNK)
    return ListStage(setup, patience=settings.decode_timeout)
