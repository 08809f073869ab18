"""mosec: a stage of decoders, one a core, and a stage with the engine. Its own batching, waiting at most 1 ms."""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker

from bench import machine
from bench.shared import Scorer


class Decode(Worker):  # type: ignore[misc]
    """Path to pixels."""

    def __init__(self) -> None:
        self.scorer = Scorer.of_environment(engine="echo")

    def forward(self, data: dict[str, Any]) -> Any:
        """One picture."""
        return self.scorer.decode(data["path"])


class Score(Worker):  # type: ignore[misc]
    """Pixels to scores."""

    def __init__(self) -> None:
        self.scorer = Scorer.of_environment()

    def forward(self, data: list[Any]) -> Any:
        """Some pictures."""
        return [{"scores": row} for row in self.scorer.engine.score([pixels.copy() for pixels in data]).tolist()]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decode, num=machine.cores())
    server.append_worker(Score, num=1, max_batch_size=8, max_wait_time=1)
    server.run()
