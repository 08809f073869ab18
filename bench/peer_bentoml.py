"""BentoML: one worker a core, each with an engine."""

from __future__ import annotations

import bentoml

from bench import machine
from bench.shared import Scorer


@bentoml.service(workers=machine.cores(), traffic={"timeout": 120})
class Scan:
    """Path to scores."""

    def __init__(self) -> None:
        self.scorer = Scorer.of_environment()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, path: str) -> list[float]:
        """Decode and score one picture."""
        return self.scorer.scan(path)
