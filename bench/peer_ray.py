"""Ray Serve: one replica a core, each with an engine, behind its HTTP proxy. No dashboard."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import ray
from ray import serve

from bench import machine
from bench.shared import Scorer


class Scan:
    """Path to scores."""

    def __init__(self) -> None:
        self.scorer = Scorer.of_environment()

    async def __call__(self, request: Any) -> dict[str, list[float]]:
        """Decode and score one picture."""
        return {"scores": self.scorer.scan((await request.json())["path"])}


def main() -> None:
    """Serve until a signal."""
    # The proxy and the controller want a core of their own; told of twice the cores, Ray grants them.
    ray.init(num_cpus=2 * machine.cores(), include_dashboard=False, configure_logging=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    layout = serve.deployment(num_replicas=machine.cores(), max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
    serve.run(layout(Scan).bind(), route_prefix="/predict")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())  # only now: Ray sets a handler of its own, which aborts
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
