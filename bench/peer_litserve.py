"""LitServe: one worker a core, each with an engine."""

from __future__ import annotations

import sys
from typing import Any

import litserve

from bench import machine
from bench.shared import Scorer


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Path to scores."""

    def setup(self, device: str) -> None:
        """Load, in a worker."""
        self.scorer = Scorer.of_environment()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads the annotations
        """Path to pixels."""
        return self.scorer.decode(request["path"])

    def predict(self, x: Any) -> Any:
        """Pixels to scores."""
        return self.scorer.engine.score([x])[0].tolist()

    def encode_response(self, output: Any) -> Any:
        """Scores to JSON."""
        return {"scores": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=machine.cores())
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
