"""A generation: everything that a change of settings or bundles replaces together.

Settings, bundles, arena, decoders and engine belong to each other: decoders write pixels for this recipe into slots of
this size, which this engine reads. A ticket keeps the generation it was admitted with; a reload swaps one reference.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from nsfwd.bundles.verdict import Judge, borders, overruled, verdicts
from nsfwd.errors import BundleError, NsfwdError, SettingsError
from nsfwd.ipc import child_messages
from nsfwd.ipc.arena import Arena
from nsfwd.pipeline.decode.coalescing import Coalescing
from nsfwd.pipeline.decode.decode_stage import MOST_PENDING, DecodeStage
from nsfwd.pipeline.decode.decoder_pool import DecoderPlan
from nsfwd.pipeline.decode.result_cache import ResultCache
from nsfwd.pipeline.infer import views
from nsfwd.pipeline.infer.batch_size import BATCHES_IN_FLIGHT
from nsfwd.pipeline.infer.score_stage import ScoreStage
from nsfwd.pipeline.infer.unpacking import MOST_SCORES
from nsfwd.pipeline.queueing.scored import Hit
from nsfwd.pipeline.queueing.slots import Slots
from nsfwd.protocol.messages import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.config import Settings
    from nsfwd.overrides.override_watcher import OverrideWatcher
    from nsfwd.pipeline.decode.poison_list import PoisonList
    from nsfwd.pipeline.queueing.scored import Scored
    from nsfwd.pipeline.queueing.tickets import Ticket
    from nsfwd.protocol.messages import FileIdentity, Image, Judgement

CHANNELS = 3
"""Pixels are uint8 (height, width, 3), RGB."""

GPU_BATCH = 64
"""Largest batch on a GPU where no setting names one."""

IMAGES_A_CORE = 2
"""The same on a CPU, for each core. Two batches are in flight, so no core waits for the server; four a core were no
faster and only made others wait longer (docs/performance.md)."""

_NVIDIA = Path("/dev/nvidiactl")

_log = logging.getLogger("nsfwd.pipeline")


class EngineTest(Protocol):
    """The test that each engine of a generation has to pass before it scores anybody's image."""

    def start(self) -> None:
        """Prepare it, and go on testing the engine that serves."""

    def stop(self) -> None:
        """Test nothing more."""

    def warm(self) -> None:
        """An engine has warmed: prove it."""

    def doubt(self) -> str:
        """Why it is not certain that images are scored; empty when it is."""


class Generation:
    """One set of settings, bundles and processes.

    Args:
        settings: what the operator wants.
        bundles: the models, first the one whose label replies show.
        workers: decoder processes.
        poison: files that are known to crash decoders; it outlives the generation.
        overriding: what people decided, as of the settings; it may outlive the generation.
        self_test: makes its self-test.
        on_proven: called each time an engine has passed the self-test and scores images from now on.
        on_broken: called with the reason why this generation will never (again) score.

    Attributes:
        tickets: the images that were admitted to this generation and have no outcome yet.
        self_test: proves each engine, and goes on testing it.
    """

    def __init__(
        self,
        settings: Settings,
        bundles: Sequence[Bundle],
        *,
        workers: int,
        poison: PoisonList,
        overriding: OverrideWatcher,
        self_test: Callable[[Generation], EngineTest],
        on_proven: Callable[[Generation], None],
        on_broken: Callable[[Generation, NsfwdError], None],
    ) -> None:
        labels = _count_labels(bundles)
        self.settings = settings
        self.tickets: set[Ticket] = set()
        self._left: asyncio.Future[None] | None = None
        self.bundles = tuple(bundles)
        self.bundle = bundles[0]
        self._judge = Judge({bundle.name: bundle for bundle in bundles})
        self._alarms = verdicts(bundles)
        self._strange: set[str] = set()
        self.overriding = overriding
        recipe = self.bundle.manifest.recipe
        slot_bytes = recipe.width * recipe.height * CHANNELS
        self.max_batch = settings.max_batch or default_max_batch(settings.device)
        self._on_proven = on_proven
        self._on_broken = on_broken
        count = (BATCHES_IN_FLIGHT + 1) * self.max_batch + workers * MOST_PENDING
        own = len(self.bundle.manifest.goldens) + 1
        self.arena = Arena.create(count + own, slot_bytes, workers)
        self.slots = Slots(count, lambda: self.decoding.slot_freed(), own=own)
        plan = DecoderPlan(
            self.arena, self.slots, self._decoder_setup(slot_bytes), workers, settings.decode_timeout, poison
        )
        self.decoding = DecodeStage(plan, on_broken=self.broken)
        self.decoding.identify = lambda: self.cache is not None or bool(self.overriding.known)
        self.cache = ResultCache(settings.cache_entries) if settings.cache == "on" else None
        if self.cache is not None:
            self.decoding.coalescing = Coalescing()
        self.scoring = ScoreStage(
            self.arena,
            self.slots,
            self._engine_setup(slot_bytes),
            labels=labels,
            on_device_loss=settings.on_device_loss,
            on_warm=lambda: self.self_test.warm(),
            on_broken=self.broken,
        )
        self.self_test = self_test(self)

    def start(self) -> None:
        """Start the processes; the engine loads while the decoders already work."""
        self.overriding.start(self)
        self.decoding.start()
        self.self_test.start()
        self.scoring.start()

    async def stop(self, timeout: float) -> None:
        """End the decoders, then the engine."""
        self.overriding.stop(self)
        self.self_test.stop()
        await self.decoding.stop(timeout)
        await self.scoring.stop(timeout)
        self.arena.close()

    def proven(self) -> None:
        """An engine has passed the self-test and scores images from now on."""
        self._on_proven(self)

    def broken(self, error: NsfwdError) -> None:
        """A part of it will never (again) do its work."""
        self._on_broken(self, error)

    def leave(self, ticket: Ticket) -> None:
        """The ticket has its outcome and holds nothing any more."""
        self.decoding.leave(ticket)
        if ticket.lease is not None:
            self.slots.release(ticket.lease)
            ticket.lease = None
        self.tickets.discard(ticket)
        if not self.tickets and self._left is not None and not self._left.done():
            self._left.set_result(None)

    async def empty(self) -> None:
        """Wait until every ticket has left; no further one may join."""
        if self.tickets:
            self._left = asyncio.get_running_loop().create_future()
            await self._left

    def cached_or_decoded(self, image: Image, ticket: Ticket) -> Coroutine[Any, Any, Hit | child_messages.Decoded]:
        """Return the scores of an image that was scored before or is being scored for another; else its first view.

        Raises:
            CodedError: it cannot be opened, read or decoded.
        """
        if self.cache is not None:
            return self._cached_or_decoded(self.cache, image, ticket)
        return self.decoding.decode(image, ticket)

    async def _cached_or_decoded(
        self, cache: ResultCache, image: Image, ticket: Ticket
    ) -> Hit | child_messages.Decoded:
        hit = await cache.find(self.decoding, image, ticket)
        return hit if hit is not None else await self.decoding.decode(image, ticket)

    def infer(self, image: Image, ticket: Ticket, decoded: child_messages.Decoded) -> Coroutine[Any, Any, Scored]:
        """Score an image whose first view is decoded (``views.infer``)."""
        return views.infer(self.bundle.name, self.scoring, self.decoding.decode_next, image, ticket, decoded)

    def remember(self, ticket: Ticket, identity: FileIdentity | None, scored: Scored) -> None:
        """Keep the scores of what was just judged, and give them to all it was decoded for, where there is a cache."""
        if self.cache is not None and self.decoding.coalescing is not None and identity is not None:
            self.cache.keep(identity.sha256, ticket.claim.frames, scored)
            self.decoding.coalescing.share(ticket, Hit("coalesced", scored, identity))

    def count_on(self, former: Generation) -> None:
        """Go on counting where a generation that is replaced stands."""
        self.decoding.count_on(former.decoding)
        self.scoring.count_on(former.scoring)
        if self.cache is not None and former.cache is not None:
            self.cache.count_on(former.cache)
        if self.decoding.coalescing is not None and former.decoding.coalescing is not None:
            self.decoding.coalescing.shared += former.decoding.coalescing.shared

    def cache_stats(self) -> dict[str, int] | None:
        """The numbers of the cache; None where there is none."""
        if self.cache is None or self.decoding.coalescing is None:
            return None
        return self.cache.stats() | {"coalesced": self.decoding.coalescing.shared}

    def judge(self, scored: Scored) -> tuple[Judgement, Frame | None]:
        """Make a verdict of the views of one image together.

        Returns:
            The judgement, and which view decided; None for a picture of which there is only one.

        Raises:
            CodedError: ``bad_scores``: they are no probabilities; the daemon's fault, no retry helps.
        """
        if scored.plain:
            return self._judge.judge(scored.views[0].results), None
        judgement, decisive = self._judge.judge_views(scored.views, self.bundle.manifest.recipe.frames)
        return judgement, Frame(decisive.frame, scored.frames, scored.sampled, decisive.background)

    def override(self, judgement: Judgement, identity: FileIdentity | None) -> Judgement:
        """Return the judgement that holds: a person's decision about this content wins over the policy.

        Args:
            identity: of the file that was opened, where it was hashed.
        """
        override = self.overriding.find(identity)
        if override is None:
            return judgement
        if override.verdict not in self._alarms and override.verdict not in self._strange:
            self._strange.add(override.verdict)
            known = ", ".join(self._alarms)
            _log.warning(
                'override verdict "%s" is in no policy (%s); it is treated as an alarm', override.verdict, known
            )
        return overruled(judgement, override, self._alarms)

    def _decoder_setup(self, slot_bytes: int) -> child_messages.DecoderSetup:
        settings = self.settings
        limits = child_messages.ImageLimits(
            settings.max_bytes, settings.max_pixels, settings.min_side, settings.max_frames, settings.decoder_memory
        )
        roots = tuple(root.encode("utf-8", "surrogateescape") for root in settings.roots)
        recipe = msgspec.to_builtins(self.bundle.manifest.recipe)
        return child_messages.DecoderSetup(0, slot_bytes, recipe, roots, limits)

    def _engine_setup(self, slot_bytes: int) -> child_messages.EngineSetup:
        settings = self.settings
        return child_messages.EngineSetup(
            str(self.bundle.directory),
            settings.engine,
            settings.device,
            settings.backend,
            self.bundle.precision,
            self.max_batch,
            slot_bytes,
            settings.cache_dir,
            settings.gpu_memory,
            self._recheck(),
            self.bundle.model_identity,
        )

    def _recheck(self) -> child_messages.Recheck | None:
        """Which images a reduced precision may judge wrongly, under the policy that is served."""
        if not self.bundle.drift:
            return None
        thresholds, contest = borders(self.bundle)
        return child_messages.Recheck(self.bundle.drift, thresholds, contest)


def _count_labels(bundles: Sequence[Bundle]) -> int:
    """Check that these bundles can be served, and count the scores of an image."""
    if len(bundles) != 1:
        raise SettingsError("models: this version serves exactly one bundle at a time")
    labels = len(bundles[0].manifest.output.labels)
    if labels > MOST_SCORES:
        raise BundleError(f"{bundles[0].name} has {labels} labels; at most {MOST_SCORES} can be served")
    return labels


def default_max_batch(device: str) -> int:
    """The largest batch for a device as the setting names it; ``auto`` is a GPU where the kernel shows one."""
    if device == "gpu" or (device == "auto" and _NVIDIA.exists()):
        return GPU_BATCH
    return IMAGES_A_CORE * len(os.sched_getaffinity(0))
