"""A generation: everything that a change of settings or bundles replaces together.

Settings, bundles, arena, decoders and engines belong to each other: decoders write pixels for these recipes into slots
of this size, which these engines read. A ticket keeps the generation it has entered; a reload swaps one reference.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from nsfwd.bundles.manifest import FrameSampling
from nsfwd.bundles.verdict import Judge, overruled, verdicts
from nsfwd.errors import CodedError, NsfwdError
from nsfwd.ipc import child_messages
from nsfwd.ipc.arena import Arena
from nsfwd.pipeline.decode.coalescing import Coalescing
from nsfwd.pipeline.decode.decode_stage import MOST_PENDING, DecodeStage
from nsfwd.pipeline.decode.decoder_pool import DecoderPlan
from nsfwd.pipeline.decode.result_cache import ResultCache
from nsfwd.pipeline.infer import views
from nsfwd.pipeline.infer.batch_size import BATCHES_IN_FLIGHT, default_max_batch
from nsfwd.pipeline.infer.served_model import RecipeGroup, ServedModel, by_recipe
from nsfwd.pipeline.queueing.scored import Directory, Hit
from nsfwd.pipeline.queueing.slots import Slots
from nsfwd.protocol.messages import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.bundles.manifest import Recipe
    from nsfwd.config import Settings
    from nsfwd.overrides.override_watcher import OverrideWatcher
    from nsfwd.pipeline.decode.poison_list import PoisonList
    from nsfwd.pipeline.queueing.scored import Scored
    from nsfwd.pipeline.queueing.tickets import Ticket
    from nsfwd.protocol.messages import FileIdentity, Image, Judgement

Found = child_messages.Decoded | Hit | Directory
"""What an image comes to before it is scored: its first view is decoded, its scores are known, or it is none."""

CHANNELS = 3
"""Pixels are uint8 (height, width, 3), RGB."""

_log = logging.getLogger("nsfwd.pipeline")


class EngineTest(Protocol):
    """The test that each engine of a generation has to pass before it scores an image of a request."""

    def start(self) -> None:
        """Prepare it, and go on testing the engine that serves."""

    def stop(self) -> None:
        """Test nothing more."""

    def warm(self, model: ServedModel) -> None:
        """The engine of this model has warmed: prove it."""

    def doubt(self) -> str:
        """Why it is not certain that images are scored; empty when it is."""


class Generation:
    """One set of settings, bundles and processes.

    Args:
        settings: of the operator.
        bundles: the models, first the one whose label replies show.
        workers: decoder processes.
        poison: files that are known to crash decoders; it outlives the generation.
        overriding: the overrides in force; it may outlive the generation.
        self_test: makes its self-test.
        on_proven: called each time an engine has passed the self-test and scores images from now on.
        on_broken: called with the reason why this generation will never (again) score.

    Attributes:
        models: as the bundles, each with its engine.
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
        self.settings = settings
        self.tickets: set[Ticket] = set()
        self._left: asyncio.Future[None] | None = None
        self.bundles = tuple(bundles)
        self._judge = Judge({bundle.name: bundle for bundle in bundles})
        self._alarms = verdicts(bundles)
        self._strange: set[str] = set()
        self.overriding = overriding
        self._frames = {bundle.name: bundle.manifest.recipe.frames for bundle in bundles}
        self._on_proven = on_proven
        self._on_broken = on_broken
        recipes, places = _decoder_recipes(bundles)
        max_batch = settings.max_batch or default_max_batch(settings.device)
        count = (BATCHES_IN_FLIGHT + 1) * max_batch * len(bundles) + workers * MOST_PENDING
        own = sum(len(bundle.manifest.goldens) + 1 for bundle in bundles)
        self.arena = Arena.create(count + own, max(one.width * one.height for one in recipes) * CHANNELS, workers)
        self.slots = Slots(count, lambda: self.decoding.slot_freed(), own=own)
        setup = self._decoder_setup(recipes)
        plan = DecoderPlan(self.arena, self.slots, setup, workers, settings.decode_timeout, poison)
        self.decoding = DecodeStage(plan, on_broken=self.broken)
        self.decoding.identify = lambda: self.cache is not None or bool(self.overriding.known)
        self.cache = ResultCache(settings.cache_entries) if settings.cache == "on" else None
        if self.cache is not None:
            self.decoding.coalescing = Coalescing()
        self.models = tuple(self._models(places, max_batch))
        self._groups = by_recipe(self.models)
        self.self_test = self_test(self)

    def start(self) -> None:
        """Start the processes; the engines load while the decoders already work."""
        self.overriding.start(self)
        self.decoding.start()
        self.self_test.start()
        for model in self.models:
            model.scoring.start()

    async def stop(self, timeout: float) -> None:
        """End the decoders, then the engines."""
        self.overriding.stop(self)
        self.self_test.stop()
        await self.decoding.stop(timeout)
        await asyncio.gather(*(model.scoring.stop(timeout) for model in self.models))
        self.arena.close()

    @property
    def trusted(self) -> bool:
        """Whether every engine has passed the self-test, so that images are scored."""
        return all(model.scoring.trusted for model in self.models)

    def processes(self) -> list[int]:
        """Process ids of engines and decoders."""
        engines = (process for model in self.models for process in model.scoring.supervisor.processes())
        return [*engines, *self.decoding.pool.processes()]

    def proven(self) -> None:
        """An engine has passed the self-test and scores images from now on."""
        if self.trusted:
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

    def cached_or_decoded(self, image: Image, ticket: Ticket) -> Coroutine[Any, Any, Found]:
        """Return the scores of an image that was scored before or is being scored for another; else its first view.

        Raises:
            CodedError: it cannot be opened, read or decoded.
        """
        if self.cache is not None:
            return self._cached_or_decoded(self.cache, image, ticket)
        return self.decoding.decode(image, ticket, recipe=self._asked(ticket)[0].recipe)

    async def _cached_or_decoded(self, cache: ResultCache, image: Image, ticket: Ticket) -> Found:
        hit = await cache.find(self.decoding, image, ticket)
        if hit is not None:
            return hit
        return await self.decoding.decode(image, ticket, recipe=self._asked(ticket)[0].recipe)

    def infer(self, image: Image, ticket: Ticket, decoded: child_messages.Decoded) -> Coroutine[Any, Any, Scored]:
        """Have the models of the ticket's claim score an image whose first view is decoded (``views.infer``)."""
        return views.infer(self._asked(ticket), self.decoding.decode_next, image, ticket, decoded)

    def _asked(self, ticket: Ticket) -> tuple[RecipeGroup, ...]:
        """The models that the ticket's claim asks, by recipe.

        Raises:
            CodedError: a reload has replaced them all.
        """
        names = ticket.claim.models
        if not names:
            return self._groups
        groups = by_recipe(tuple(model for model in self.models if model.name in names))
        if not groups:
            raise CodedError("bad_request", f"no such model: {', '.join(names)}")
        return groups

    def remember(self, ticket: Ticket, identity: FileIdentity | None, scored: Scored) -> None:
        """Keep scores in the cache, if there is one, and give them to all requests that the image was decoded for."""
        if self.cache is not None and self.decoding.coalescing is not None and identity is not None:
            self.cache.keep(identity.sha256, ticket.claim, scored)
            self.decoding.coalescing.share(ticket, Hit("coalesced", scored, identity))

    def inherit_counters(self, former: Generation) -> None:
        """Add the counts of a generation that is replaced."""
        self.decoding.inherit_counters(former.decoding)
        for model, replaced in zip(self.models, former.models, strict=False):
            model.scoring.inherit_counters(replaced.scoring)
        if self.cache is not None and former.cache is not None:
            self.cache.inherit_counters(former.cache)
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
        judgement, decisive = self._judge.judge_views(scored.views, self._frames)
        return judgement, Frame(decisive.frame, scored.frames, scored.sampled, decisive.background)

    def override(self, judgement: Judgement, identity: FileIdentity | None) -> Judgement:
        """Return the judgement that holds: a person's decision about this content wins over the policy.

        Args:
            identity: of the file that was opened, where it was hashed.
        """
        override = self.overriding.find(identity) if identity is not None else None
        if override is None:
            return judgement
        if override.verdict not in self._alarms and override.verdict not in self._strange:
            self._strange.add(override.verdict)
            known = ", ".join(self._alarms)
            _log.warning(
                'override verdict "%s" is in no policy (%s); it is treated as an alarm', override.verdict, known
            )
        return overruled(judgement, override, self._alarms)

    def _decoder_setup(self, recipes: Sequence[Recipe]) -> child_messages.DecoderSetup:
        settings = self.settings
        limits = child_messages.ImageLimits(
            settings.max_bytes, settings.max_pixels, settings.min_side, settings.max_frames, settings.decoder_memory
        )
        roots = tuple(root.encode("utf-8", "surrogateescape") for root in settings.roots)
        plain = [msgspec.to_builtins(recipe) for recipe in recipes]
        return child_messages.DecoderSetup(0, self.arena.slot_bytes, plain, roots, limits)

    def _models(self, places: Sequence[int], max_batch: int) -> Iterator[ServedModel]:
        """Make the models; the self-test's slots follow those of the images, one model's after the other's."""
        first_slot = 0
        for bundle, recipe in zip(self.bundles, places, strict=True):
            yield ServedModel(
                bundle,
                self.settings,
                recipe=recipe,
                max_batch=max_batch,
                arena=self.arena,
                slots=self.slots,
                first_slot=first_slot,
                on_warm=lambda model: self.self_test.warm(model),
                on_broken=self.broken,
            )
            first_slot += len(bundle.manifest.goldens) + 1


def _decoder_recipes(bundles: Sequence[Bundle]) -> tuple[list[Recipe], list[int]]:
    """The different recipes of these bundles as decoders need them, and the place of each bundle's among them.

    Parts that make no other pixels are left out: the engine's, and how frames are combined.
    """
    theirs = [_decoder_recipe(bundle.manifest.recipe) for bundle in bundles]
    recipes = list(dict.fromkeys(theirs))
    return recipes, [recipes.index(one) for one in theirs]


def _decoder_recipe(recipe: Recipe) -> Recipe:
    frames = FrameSampling(sample=recipe.frames.sample)
    return msgspec.structs.replace(recipe, channels="rgb", scale=1.0, mean=(), std=(), frames=frames, reason="")
