"""The pipeline's numbers, as ``stats`` tells them and the metrics name them. Counts and changes nothing itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsfwd.pipeline.accounts import CostCurve
    from nsfwd.pipeline.pipeline import Pipeline


def stats(pipeline: Pipeline) -> dict[str, Any]:
    """Every number by its place in the reply to ``stats``."""
    generation, admission = pipeline.generation, pipeline.admission
    decoding, scoring = generation.decoding, generation.scoring
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
        "queues": {"decode": decoding.queue.depths(), "score": scoring.queue.depths()},
        "slots": {"total": generation.slots.count, "free": generation.slots.free},
        "cache": generation.known(),
        "overrides": {**generation.overriding.stats(), "applied": pipeline.accounts.overridden},
        "decoders": {
            "processes": decoding.crew.processes(),
            "restarts": decoding.crew.restarts,
            "abandoned": len(decoding.crew.abandoned),
            "poisoned": len(pipeline.poison.entries()),
            "decoded": decoding.decoded,
            "applied": decoding.crew.applied,
            "missing": decoding.crew.missing,
        },
        "lister": {
            "processes": pipeline.lister.processes(),
            "restarts": pipeline.lister.restarts,
            "abandoned": len(pipeline.lister.abandoned),
            "applied": pipeline.lister.applied,
            "missing": pipeline.lister.missing,
        },
        "engine": {
            "processes": scoring.processes(),
            "restarts": scoring.restarts,
            "name": scoring.engine.engine if scoring.engine else None,
            "device": scoring.engine.device if scoring.engine else None,
            "precision": scoring.engine.precision if scoring.engine else None,
            "note": scoring.engine.note if scoring.engine else "",
            "buckets": scoring.engine.buckets if scoring.engine else [],
            "batches": scoring.batches,
            "images": scoring.images,
            "rechecked": scoring.rechecked,
            "rechecked_share": round(scoring.rechecked / scoring.images, 6) if scoring.images else 0.0,
            "padded": scoring.padded,
            "sizes": {str(size): count for size, count in sorted(scoring.sizes.items())},
            "seconds": round(scoring.infer_seconds, 6),
            "cost": _cost(scoring.cost),
        },
    }


def _cost(curve: CostCurve) -> dict[str, float] | None:
    fitted = curve.fit()
    return None if fitted is None else {"fixed": round(fitted[0], 6), "each": round(fitted[1], 6)}
