"""One model of a generation: its bundle, its engine, and the goldens that the engine has to score as they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nsfwd.bundles.verdict import borders
from nsfwd.errors import BundleError
from nsfwd.ipc import child_messages
from nsfwd.pipeline.infer.score_stage import MOST_SCORES, ScoreStage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.bundles.verdict import ModelOutput
    from nsfwd.config import Settings
    from nsfwd.errors import EngineError
    from nsfwd.ipc.arena import Arena
    from nsfwd.pipeline.queueing.slots import Slots
    from nsfwd.pipeline.queueing.tickets import Ticket


class ServedModel:
    """A bundle and the engine that serves it.

    Args:
        settings: which engine, on what.
        max_batch: most images that the engine is given at once.
        arena, slots: where the pixels lie, and the leases of its slots.
        on_warm: called each time its engine has loaded and warmed.
        on_broken: called once when its engine cannot be built, or dies too often.

    Attributes:
        name: its short name in requests and replies.
        recipe: place of its preprocessing among those of all models.
        first_slot: of the self-test's slots the first that is for this model: one for each golden, one for the canary.
        goldens: pictures with known scores, and where they lie.
        scoring: its engine and what waits for it.

    Raises:
        BundleError: it has more labels than an engine's reply can hold scores.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        *,
        recipe: int,
        max_batch: int,
        arena: Arena,
        slots: Slots,
        first_slot: int,
        on_warm: Callable[[ServedModel], None],
        on_broken: Callable[[EngineError], None],
    ) -> None:
        labels = len(bundle.manifest.output.labels)
        if labels > MOST_SCORES:
            raise BundleError(f"{bundle.name} has {labels} labels; at most {MOST_SCORES} can be served")
        self.bundle = bundle
        self.name = bundle.name
        self.recipe = recipe
        self.first_slot = first_slot
        self.goldens = tuple(bundle.golden_files())
        self.scoring = ScoreStage(
            arena,
            slots,
            _engine_setup(bundle, settings, max_batch, arena.slot_bytes),
            labels=labels,
            on_device_loss=settings.on_device_loss,
            on_warm=lambda: on_warm(self),
            on_broken=on_broken,
        )


class RecipeGroup(NamedTuple):
    """The models that look at the same pixels.

    Attributes:
        recipe: place of their preprocessing among those of all models.
        models: name, ``ScoreStage.score`` and its argument ``keep``; all but the last leave the pixels to the next.
    """

    recipe: int
    models: tuple[tuple[str, Callable[[Ticket, bool], Awaitable[ModelOutput]], bool], ...]


def by_recipe(models: tuple[ServedModel, ...]) -> tuple[RecipeGroup, ...]:
    """Group models by their recipe, in the order in which recipes first occur."""
    groups: dict[int, list[ServedModel]] = {}
    for model in models:
        groups.setdefault(model.recipe, []).append(model)
    return tuple(
        RecipeGroup(recipe, tuple((model.name, model.scoring.score, model is not group[-1]) for model in group))
        for recipe, group in groups.items()
    )


def _engine_setup(bundle: Bundle, settings: Settings, max_batch: int, slot_bytes: int) -> child_messages.EngineSetup:
    return child_messages.EngineSetup(
        str(bundle.directory),
        settings.engine,
        settings.device,
        settings.backend,
        bundle.precision,
        max_batch,
        slot_bytes,
        settings.cache_dir,
        settings.gpu_memory,
        _recheck(bundle),
        bundle.model_identity,
    )


def _recheck(bundle: Bundle) -> child_messages.Recheck | None:
    """The rule for images that a reduced precision may judge wrongly, under the policy that is served."""
    if not bundle.drift:
        return None
    thresholds, contest = borders(bundle)
    return child_messages.Recheck(bundle.drift, thresholds, contest)
