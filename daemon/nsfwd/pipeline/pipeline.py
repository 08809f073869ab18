"""The way of one image from admission to its outcome: read ``Pipeline.scan``; everything else is called from there.

The pipeline lives in the server process's event loop. It knows nothing of sockets or dialects.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nsfwd.budgets import LISTINGS, Budget
from nsfwd.errors import CodedError, Status
from nsfwd.ipc.child_messages import Decoded
from nsfwd.ipc.fd_closer import close_foreign
from nsfwd.pipeline.decode.decode_job import identity_of
from nsfwd.pipeline.decode.poison_list import PoisonList
from nsfwd.pipeline.queueing.admission import Admission
from nsfwd.pipeline.queueing.scored import Directory, Hit
from nsfwd.pipeline.queueing.tickets import Claim, Ticket
from nsfwd.pipeline.reload.reload_coordinator import ReloadCoordinator
from nsfwd.pipeline.self_test import SelfTest
from nsfwd.pipeline.stats import PipelineStatus
from nsfwd.protocol.messages import Image, Lane, Outcome, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.config import Settings
    from nsfwd.pipeline.generation import Generation
    from nsfwd.pipeline.queueing.fair_queue import FlowKey


class Pipeline:
    """All images in flight.

    Args:
        settings: what the operator wants.
        bundles: the opened bundles.

    Attributes:
        admission: the tickets in flight.
        serving: the processes that score, and their replacement at a reload.
        status: numbers and health.
        ready, failed: of ``serving``.
    """

    def __init__(self, settings: Settings, bundles: Sequence[Bundle]) -> None:
        self._loop = asyncio.get_running_loop()
        self.admission = Admission(settings.queue, self._loop)
        poison = PoisonList(Path(settings.cache_dir))
        self_test = partial(SelfTest, own_ticket=self.admission.own_ticket)
        self.serving = ReloadCoordinator(settings, bundles, self.admission, poison, self_test)
        self.ready, self.failed = self.serving.ready, self.serving.failed
        self._listings = Budget("listings", LISTINGS)
        self.status = PipelineStatus(self.serving, self.admission, poison, self._listings)
        self._count = self.status.counters.count

    async def scan(self, image: Image, claim: Claim) -> Outcome | Directory:
        """Score one image; an error on the way is its outcome.

        Args:
            image: a path of the server or a descriptor with encoded bytes, which is closed here.
            claim: of the request.

        Returns:
            The one outcome; of a directory only that it is one.
        """
        identity, ticket, serving = None, None, self.serving
        generation = serving.generation
        try:
            ticket = self.admission.admit(claim)
            if serving.gate is not None:
                generation = await serving.enter(ticket)
            generation.tickets.add(ticket)
            found = await generation.cached_or_decoded(image, ticket)
            if isinstance(found, Decoded):
                identity, cached = identity_of(found.identity) if found.identity else None, ""
                scored = await generation.infer(image, ticket, found)
            elif isinstance(found, Hit):
                identity, cached, scored = found.file, found.by, found.scored
            else:
                return found
            judgement, frame = generation.judge(scored)
            judgement = generation.override(judgement, identity)
            generation.remember(ticket, identity, scored)
            seen = claim.visible_identity(identity)
            reply = Outcome(image.path, Status.OK, ticket.time, judgement, identity=seen, frame=frame, cached=cached)
        except CodedError as error:
            spent = ticket.time if ticket else Timing()
            reply = Outcome.failed(image.path, error, spent, claim.visible_identity(identity))
        finally:
            self._leave(image, ticket, generation)
        self._count(reply)
        return reply

    def _leave(self, image: Image, ticket: Ticket | None, generation: Generation) -> None:
        """Give back all that is held on the image's behalf."""
        if image.descriptor is not None:
            (close_foreign if image.foreign else os.close)(image.descriptor)
        if ticket is not None:
            generation.leave(ticket)
            self.admission.leave(ticket)

    def claim(
        self,
        *,
        flow: FlowKey,
        lane: Lane = Lane.NORMAL,
        deadline: float | None = None,
        identity: bool = False,
        frames: int = 0,
        roots: tuple[bytes, ...] = (),
    ) -> Claim:
        """Make the claim under which the images of one request are scored.

        Args:
            flow: the flow that takes turns within the lane (``fair_queue.FlowKey``).
            deadline: seconds for the whole request; None gives each image the default of its lane (none in background).
            frames: how many frames of each image to look at most; 0 for as many as the bundle says.
            roots: below which its files must lie, beside the daemon's own; none for no further limit.
        """
        each = self.serving.generation.settings.deadline
        time_limit = None if lane is Lane.BACKGROUND or deadline is not None else each
        until = None if deadline is None else self._loop.time() + deadline
        return Claim(flow, lane, deadline=until, time_limit=time_limit, identity=identity, frames=frames, roots=roots)

    async def listing(self, path: bytes, claim: Claim, *, recursive: bool = False) -> AsyncGenerator[bytes, None]:
        """Name the regular files of a directory, pulled a chunk at a time; close it with ``contextlib.aclosing``.

        Raises:
            CodedError: while iterating: the directory cannot be listed to its end, or (``busy``) too many are already.
        """
        peer = claim.flow[0]
        if not self._listings.fits(peer, 1):
            self._listings.refused += 1
            raise CodedError("busy", "too many directories are being listed", retry_after=1.0)
        self._listings.add(peer, 1)
        try:
            async with aclosing(self.serving.lister.files(path, claim, recursive=recursive)) as files:
                async for file in files:
                    yield file
        finally:
            self._listings.add(peer, -1)

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start decoders, lister and engine; returns at once. ``ready`` or ``failed`` follows."""
        self.serving.start()

    def drain(self) -> None:
        """Refuse all further images."""
        self.admission.draining = True
        self.serving.drain()

    async def drained(self) -> None:
        """Wait until every admitted image has its outcome."""
        await self.admission.empty()

    def expire_all(self) -> None:
        """Give every admitted image the outcome ``draining``: not scored, a retry is safe."""
        self.admission.expire_all()

    async def stop(self) -> None:
        """End all child processes: decoders, engines, lister. Tickets must have been settled before."""
        await self.serving.stop()
