"""``connections``: what ten thousand idle connections cost in memory, and what they cost a request among them."""

from __future__ import annotations

import resource
import socket

from bench import daemon, echo, figures, machine
from bench.load import Load, Ndjson
from bench.noop import NOWHERE
from bench.session import Session

IDLE = 10_000
SPARE = 500
"""Descriptors that are needed beside the connections."""


def measure(session: Session) -> None:
    """Print memory and latency without and with them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = min(IDLE, hard - SPARE)
    models = echo.bundle(session.directory / "models")
    with daemon.Nsfwd(session.directory, bundle=echo.NAME, models_dir=models, engine="echo", blank=True) as server:
        server.wait_ready()
        load = Load(server.unix, Ndjson(), 1)
        before, fast = machine.memory_mb([server.pid]), _latency(session, load)
        idle: list[socket.socket] = []
        try:
            for number in range(wanted):
                if number % 2000 == 0:
                    session.say(f"connections: {number} of {wanted}")
                idle.append(daemon.connect(server.unix))
            among = _latency(session, load)
            after = machine.memory_mb([server.pid])
        finally:
            for one in idle:
                one.close()
            load.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    row = {
        "idle connections": wanted,
        "MB more": after - before,
        "KB each": (after - before) * 1000 / wanted,
        "p50 us alone": fast * 1e6,
        "p50 us among them": among * 1e6,
        "ratio": among / fast,
    }
    session.report("idle connections", [row])


def _latency(session: Session, load: Load) -> float:
    """The median of single requests: the better of two tries, since a busy neighbour only ever adds."""
    paths = NOWHERE[: max(500, session.count(1000))]
    return min(figures.percentile(load.closed(paths).latencies, 0.5) for _ in range(2))
