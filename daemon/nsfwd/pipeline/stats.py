"""The pipeline's numbers and its health, as ``stats`` and ``ready`` report them and the metrics name them.

Outcomes are counted here, in one thread; all else is counted where it happens, and only read here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from nsfwd.budgets import row
from nsfwd.errors import Status
from nsfwd.protocol.messages import Outcome, Timing

if TYPE_CHECKING:
    import asyncio

    from nsfwd.budgets import Budget
    from nsfwd.overrides.override_watcher import OverrideWatcher
    from nsfwd.pipeline.decode.decode_stage import DecodeStage
    from nsfwd.pipeline.decode.list_stage import ListStage
    from nsfwd.pipeline.decode.poison_list import PoisonList
    from nsfwd.pipeline.infer.cost_curve import CostCurve
    from nsfwd.pipeline.infer.score_stage import ScoreStage
    from nsfwd.pipeline.infer.served_model import ServedModel
    from nsfwd.pipeline.queueing.admission import Admission
    from nsfwd.pipeline.queueing.slots import Slots

STAGES = tuple(stage.name for stage in fields(Timing))
"""Where an image's seconds go, in the order of its way."""

STANDSTILL = 30.0
"""Seconds in which a stage with work has to get something done: three decode timeouts, many times the longest batch."""

LONGEST_LOAD = 600.0
"""Seconds that an engine may take to load, warm and prove itself before this counts as a standstill."""


@dataclass(slots=True)
class OutcomeCounters:
    """Outcomes so far.

    Attributes:
        images: by status.
        codes: by code, for every outcome that has one.
        seconds: summed over all images, by stage.
        overridden: images whose verdict is a person's.
    """

    images: dict[str, int] = field(
        default_factory=lambda: {status.value: 0 for status in Status if status is not Status.DONE}
    )
    codes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    overridden: int = 0

    def count(self, outcome: Outcome) -> None:
        """One image has its outcome."""
        self.images[outcome.status] += 1
        if outcome.code:
            self.codes[outcome.code] = self.codes.get(outcome.code, 0) + 1
        elif outcome.judgement is not None and outcome.judgement.override is not None:
            self.overridden += 1
        seconds, time = self.seconds, outcome.time
        seconds["queue"] += time.queue
        seconds["decode"] += time.decode
        seconds["wait"] += time.wait
        seconds["infer"] += time.infer
        seconds["total"] += time.total


class _Doubts(Protocol):
    def doubt(self) -> str: ...


class _Generation(Protocol):
    """The processes that serve."""

    decoding: DecodeStage
    models: tuple[ServedModel, ...]
    slots: Slots
    overriding: OverrideWatcher

    @property
    def trusted(self) -> bool: ...

    @property
    def self_test(self) -> _Doubts: ...

    def cache_stats(self) -> dict[str, int] | None: ...


class _Serving(Protocol):
    """The source of what serves at present (``reload_coordinator.ReloadCoordinator``)."""

    @property
    def generation(self) -> _Generation: ...

    lister: ListStage
    ready: asyncio.Event
    done: int


class PipelineStatus:
    """The pipeline as operators and the service manager see it.

    Args:
        serving: the source of what serves at present.
        listings: the directories that are being listed.
    """

    def __init__(self, serving: _Serving, admission: Admission, poison: PoisonList, listings: Budget) -> None:
        self._serving = serving
        self._admission = admission
        self._poison = poison
        self._listings = listings
        self._started = time.monotonic()
        self.counters = OutcomeCounters()

    def readiness(self) -> dict[str, Any]:
        """Whether images are being scored, and if not, why."""
        generation = self._serving.generation
        if self._admission.draining:
            return {"ready": False, "why": "draining"}
        if not self._serving.ready.is_set() or not generation.trusted:
            problems = (model.scoring.supervisor.starter.problem for model in generation.models)
            return {"ready": False, "why": next(filter(None, problems), "the engine is loading")}
        if doubt := generation.self_test.doubt():
            return {"ready": False, "why": doubt}
        pool, lister, trouble = generation.decoding.pool, self._serving.lister, generation.overriding.trouble
        if pool.starter.problem and not pool.processes():
            return {"ready": False, "why": pool.starter.problem}
        why = pool.starter.problem or lister.starter.problem or (f"overrides: {trouble}" if trouble else "")
        return {"ready": True, "why": why} if why else {"ready": True}

    def work(self) -> dict[str, tuple[int, float] | None]:
        """Stage -> a number that changes as it gets work done, and how long it may stand still; None without work."""
        decoding, models = self._serving.generation.decoding, self._serving.generation.models
        patience = STANDSTILL if all(model.scoring.trusted for model in models) else LONGEST_LOAD
        restarted = decoding.pool.restarts
        done = {"decoders": (decoding.decoded + restarted, patience) if len(decoding.queue) else None}
        return done | {f"engine of {model.name}": _engine_work(model.scoring) for model in models}

    def poisoned(self) -> list[dict[str, Any]]:
        """The files that crashed decoders and are not decoded again for a while."""
        return self._poison.describe()

    def clear_poison(self) -> int:
        """Forget them; return how many there were."""
        count = self._poison.clear()
        self._serving.generation.decoding.spread_poison()
        return count

    def stats(self) -> dict[str, Any]:
        """Every number by its place in the reply to ``stats``."""
        generation, admission, counters = self._serving.generation, self._admission, self.counters
        engines = [{"model": model.name, **_engine(model.scoring)} for model in generation.models]
        return {
            "uptime": round(time.monotonic() - self._started, 3),
            "rate": round(admission.rate.value, 2),
            "in_flight": len(admission.tickets),
            "admitted": admission.admitted,
            "refused": dict(admission.refused),
            "images": dict(counters.images),
            "codes": dict(counters.codes),
            "seconds": {stage: round(total, 6) for stage, total in counters.seconds.items()},
            "reloads": self._serving.done,
            "queues": {"decode": generation.decoding.queue.depths(), "score": _score_queues(generation.models)},
            "slots": {"total": generation.slots.count, "free": generation.slots.free},
            "budgets": {
                "queue": admission.budget.stats(),
                "slots": row(generation.slots.count, generation.slots.count - generation.slots.free),
                "listings": self._listings.stats(),
            },
            "cache": generation.cache_stats(),
            "overrides": {**generation.overriding.stats(), "applied": counters.overridden},
            "decoders": _decoders(generation.decoding) | {"poisoned": len(self._poison.entries())},
            "lister": _lister(self._serving.lister),
            "engine": engines[0],
            "engines": engines,
        }


def _decoders(decoding: DecodeStage) -> dict[str, Any]:
    return {
        "processes": decoding.pool.processes(),
        "restarts": decoding.pool.restarts,
        "abandoned": len(decoding.pool.abandoned),
        "problem": decoding.pool.starter.problem,
        "decoded": decoding.decoded,
        "applied": decoding.pool.applied,
        "missing": decoding.pool.missing,
    }


def _lister(lister: ListStage) -> dict[str, Any]:
    return {
        "processes": lister.processes(),
        "restarts": lister.restarts,
        "abandoned": len(lister.abandoned),
        "problem": lister.starter.problem,
        "applied": lister.applied,
        "missing": lister.missing,
    }


def _score_queues(models: tuple[ServedModel, ...]) -> dict[str, int]:
    """Images waiting for an engine, in each lane."""
    depths = [model.scoring.queue.depths() for model in models]
    return {lane: sum(depth[lane] for depth in depths) for lane in depths[0]}


def _engine_work(scoring: ScoreStage) -> tuple[int, float] | None:
    if not scoring.trusted:
        return scoring.batches + scoring.supervisor.restarts, LONGEST_LOAD
    return (scoring.batches + scoring.supervisor.restarts, STANDSTILL) if scoring.busy else None


def _engine(scoring: ScoreStage) -> dict[str, Any]:
    ready = scoring.supervisor.engine
    return {
        "processes": scoring.supervisor.processes(),
        "restarts": scoring.supervisor.restarts,
        "problem": scoring.supervisor.starter.problem,
        "name": ready.engine if ready else None,
        "device": ready.device if ready else None,
        "precision": ready.precision if ready else None,
        "note": ready.note if ready else "",
        "buckets": ready.buckets if ready else [],
        "batches": scoring.batches,
        "images": scoring.images,
        "rechecked": scoring.rechecked,
        "rechecked_share": round(scoring.rechecked / scoring.images, 6) if scoring.images else 0.0,
        "padded": scoring.padded,
        "sizes": {str(size): count for size, count in sorted(scoring.sizes.items())},
        "seconds": round(scoring.infer_seconds, 6),
        "cost": _cost(scoring.cost),
    }


def _cost(curve: CostCurve) -> dict[str, float] | None:
    fitted = curve.fit()
    return None if fitted is None else {"fixed": round(fitted[0], 6), "each": round(fitted[1], 6)}
