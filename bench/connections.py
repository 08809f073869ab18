"""``connections``: what ten thousand idle connections cost in memory, and what they cost a request among them."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import daemon, echo, figures, machine
from bench.load import Load, Ndjson
from bench.noop import NOWHERE
from bench.session import Session

IDLE = 10_000
SPARE = 500
"""Descriptors that are needed beside the connections."""


NOTE = "Bare: a line server of a few lines (`bench/line.py`), which keeps nothing of a client but what uvloop does."


def measure(session: Session) -> None:
    """Print memory and latency without and with them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = min(IDLE, hard - SPARE)
    models = echo.bundle(session.directory / "models")
    try:
        with daemon.Line(session.directory) as line:
            line.wait_ready()
            bare = _crowded(session, line, wanted)
        with daemon.Nsfwd(session.directory, bundle=echo.NAME, models_dir=models, engine="echo", blank=True) as server:
            server.wait_ready()
            ours = _crowded(session, server, wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    row = {
        "idle connections": wanted,
        "MB more": ours.memory,
        "KB each": ours.memory * 1000 / wanted,
        "bare KB each": bare.memory * 1000 / wanted,
        "KB by bare": ours.memory / bare.memory,
        "p50 us alone": figures.median(ours.alone) * 1e6,
        "p50 us among them": figures.median(ours.among) * 1e6,
        "among / alone": figures.spread([figures.median(ours.among) / one for one in ours.alone]),
        "bare among / alone": figures.median(bare.among) / figures.median(bare.alone),
    }
    session.report("idle connections", [row], NOTE)


@dataclass
class Crowded:
    """What the connections came to: MB more, and medians of single requests before and among them."""

    memory: float
    alone: list[float]
    among: list[float]


def _crowded(session: Session, server: daemon.Nsfwd | daemon.Line, wanted: int) -> Crowded:
    load = Load(server.unix, Ndjson(), 1)
    paths = NOWHERE[: session.count(1000)]
    load.closed(paths)
    before, alone = machine.memory_mb([server.pid]), _latencies(session, load, paths)
    with _idle(session, server.unix, wanted):
        among = _latencies(session, load, paths)
        memory = machine.memory_mb([server.pid]) - before
    load.close()
    return Crowded(memory, alone, among)


@contextlib.contextmanager
def _idle(session: Session, address: daemon.Address, wanted: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for number in range(wanted):
            if number % 5000 == 0:
                session.say(f"connections: {number} of {wanted}")
            stack.enter_context(daemon.connect(address))
        yield


def _latencies(session: Session, load: Load, paths: Sequence[Path]) -> list[float]:
    return [figures.percentile(load.closed(paths).latencies, 0.5) for _ in range(session.rounds)]
