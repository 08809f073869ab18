"""The pipeline's numbers, as ``stats`` tells them and the metrics name them. Counts and changes nothing itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nsfwd.budgets import row

if TYPE_CHECKING:
    from nsfwd.pipeline.accounts import CostCurve
    from nsfwd.pipeline.decode.decode_stage import DecodeStage
    from nsfwd.pipeline.decode.list_stage import ListStage
    from nsfwd.pipeline.infer.score_stage import ScoreStage
    from nsfwd.pipeline.pipeline import Pipeline


def stats(pipeline: Pipeline) -> dict[str, Any]:
    """Every number by its place in the reply to ``stats``."""
    generation, admission = pipeline.generation, pipeline.admission
    return {
        "uptime": round(time.monotonic() - pipeline.started, 3),
        "rate": round(admission.rate.value, 2),
        "in_flight": len(admission.tickets),
        "admitted": admission.admitted,
        "refused": dict(admission.refused),
        "images": dict(pipeline.accounts.images),
        "codes": dict(pipeline.accounts.codes),
        "seconds": {stage: round(total, 6) for stage, total in pipeline.accounts.seconds.items()},
        "reloads": pipeline.reloads,
        "queues": {"decode": generation.decoding.queue.depths(), "score": generation.scoring.queue.depths()},
        "slots": {"total": generation.slots.count, "free": generation.slots.free},
        "budgets": {
            "queue": admission.budget.stats(),
            "slots": row(generation.slots.count, generation.slots.count - generation.slots.free),
            "listings": pipeline.listings.stats(),
        },
        "cache": generation.known(),
        "overrides": {**generation.overriding.stats(), "applied": pipeline.accounts.overridden},
        "decoders": _decoders(generation.decoding) | {"poisoned": len(pipeline.poison.entries())},
        "lister": _lister(pipeline.lister),
        "engine": _engine(generation.scoring),
    }


def _decoders(decoding: DecodeStage) -> dict[str, Any]:
    return {
        "processes": decoding.crew.processes(),
        "restarts": decoding.crew.restarts,
        "abandoned": len(decoding.crew.abandoned),
        "decoded": decoding.decoded,
        "applied": decoding.crew.applied,
        "missing": decoding.crew.missing,
    }


def _lister(lister: ListStage) -> dict[str, Any]:
    return {
        "processes": lister.processes(),
        "restarts": lister.restarts,
        "abandoned": len(lister.abandoned),
        "applied": lister.applied,
        "missing": lister.missing,
    }


def _engine(scoring: ScoreStage) -> dict[str, Any]:
    ready = scoring.engine
    return {
        "processes": scoring.processes(),
        "restarts": scoring.restarts,
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
