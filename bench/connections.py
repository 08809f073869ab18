"""``connections``: the memory that ten thousand idle connections take, and their cost for a request among them."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import daemon, figures, machine
from bench.load import Load, Ndjson
from bench.overhead import NOWHERE
from bench.session import Session

IDLE = 10_000
SPARE = 500
"""Descriptors that are needed beside the connections."""


NOTE = (
    "Alone: the same request to a second server without them, in turn. Line server: one of a few lines "
    "(`bench/line_server.py`), which keeps no state of a client beside uvloop's."
)

Server = daemon.Nsfwd | daemon.LineServer


@dataclass
class Crowded:
    """The cost of the connections: MB more, and medians of single requests of each round, alone and among them."""

    memory: float
    alone: list[float]
    among: list[float]


def measure(session: Session) -> None:
    """Print memory and latency without and with them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = min(IDLE, hard - SPARE)
    models = session.echo_models()

    def ours(directory: Path) -> Server:
        return daemon.Nsfwd(directory, bundle="echo", models_dir=models, engine="echo", null_decoder=True)

    try:
        line = _crowded(session, "line", daemon.LineServer, wanted)
        nsfwd = _crowded(session, "nsfwd", ours, wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    row = {
        "idle connections": wanted,
        "MB more": nsfwd.memory,
        "KB each": nsfwd.memory * 1000 / wanted,
        "line server KB each": line.memory * 1000 / wanted,
        "KB by line server": nsfwd.memory / line.memory,
        "p50 us alone": figures.median(nsfwd.alone) * 1e6,
        "p50 us among them": figures.median(nsfwd.among) * 1e6,
        "among / alone": figures.ratio(nsfwd.among, nsfwd.alone),
        "line server among / alone": figures.ratio(line.among, line.alone),
    }
    session.report("idle connections", [row], NOTE)


def _crowded(session: Session, kind: str, server: Callable[[Path], Server], wanted: int) -> Crowded:
    paths = NOWHERE[: session.count(1000)]
    with contextlib.ExitStack() as stack:
        loads = []
        for name in ("alone", "among"):
            directory = session.directory / kind / name
            directory.mkdir(parents=True)
            crowded = server(directory)
            stack.enter_context(crowded)
            crowded.wait_ready()
            loads.append(Load(crowded.unix, Ndjson(), 1))
            stack.callback(loads[-1].close)
            loads[-1].closed(paths)
        before = machine.memory_mb([crowded.pid])
        for number in range(wanted):
            if number % 5000 == 0:
                session.say(f"connections: {number} of {wanted}")
            stack.enter_context(daemon.connect(crowded.unix))
        found: tuple[list[float], list[float]] = ([], [])
        for number in range(session.rounds):
            for which in figures.shuffled((0, 1), seed=number):
                found[which].append(figures.percentile(loads[which].closed(paths).latencies, 0.5))
        return Crowded(machine.memory_mb([crowded.pid]) - before, *found)
