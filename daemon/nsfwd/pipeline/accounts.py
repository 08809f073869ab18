"""What the pipeline counts about images and batches: plain numbers, read by ``stats`` and by the metrics.

Counts in one thread and never asks the time. Knows nothing of how an image was scored.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from nsfwd.errors import Status
from nsfwd.protocol.messages import Outcome, Timing

STAGES = tuple(stage.name for stage in fields(Timing))
"""Where an image's seconds go, in the order of its way."""


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


@dataclass(slots=True)
class CostCurve:
    """What a batch costs: the line ``seconds = a + b * size`` of least squares over all batches."""

    count: int = 0
    sizes: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def add(self, size: int, seconds: float) -> None:
        """One batch of ``size`` images took ``seconds``."""
        self.count += 1
        self.sizes += size
        self.seconds += seconds
        self.squares += size * size
        self.products += size * seconds

    def fit(self) -> tuple[float, float] | None:
        """Return a and b, both in seconds; None until batches of two sizes were seen."""
        spread = self.count * self.squares - self.sizes**2
        if spread <= 0:
            return None
        slope = (self.count * self.products - self.sizes * self.seconds) / spread
        return (self.seconds - slope * self.sizes) / self.count, slope
