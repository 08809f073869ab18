"""``memory``: the share of every process, and what remains of a million requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import daemon, figures, machine
from bench.ceiling import SERIAL, RawLoop
from bench.load import Load, Ndjson
from bench.overhead import NOWHERE
from bench.session import Session

NOTE = (
    "Growth: from the first reading to the last, after the warm-up. Raw loop: one process that decodes and scores with "
    "the same engine, without a server."
)
FIRST = 10_000
"""Requests after which a growth counts: pools and caches have their size by then."""


def measure(session: Session) -> None:
    """Print proportional set sizes and growth."""
    models = session.echo_models()
    rows = []
    with daemon.Nsfwd(session.directory, bundle="echo", models_dir=models, engine="echo", null_decoder=True) as null:
        null.wait_ready()
        rows.append(_grown(session, null, "echo", NOWHERE, FIRST, session.count(1_000_000), depth=64))
    with daemon.Nsfwd(
        session.directory, bundle=session.bundle, models_dir=session.models_dir, flags=session.flags
    ) as real:
        real.wait_ready()
        pictures = session.pictures("small")
        first, most = (400, 2_000) if session.quick else (2_000, 20_000)
        row = _grown(session, real, session.bundle, pictures, first, most, depth=8)
        with RawLoop(session, SERIAL) as loop:
            loop.run(pictures[:100])
            least = machine.memory_mb(loop.processes)
        rows.append({**row, "raw loop": least, "by raw loop": float(str(row["tree"])) / least})
    session.report("memory (PSS, MB)", rows, NOTE)


def _grown(
    session: Session, server: daemon.Nsfwd, name: str, paths: Sequence[Path], first: int, most: int, *, depth: int
) -> dict[str, object]:
    started = machine.memory_mb(server.processes())
    load = Load(server.unix, Ndjson(), 8)
    _ask(load, paths, first, depth)
    readings = [_reading(server)]
    for step in range(4):
        session.say(f"memory: {name}, {step + 1} of 4")
        _ask(load, paths, (most - first) // 4, depth)
        readings.append(_reading(server))
    load.close()
    return {
        "engine": name,
        "images": most,
        "server": readings[-1][0],
        "tree at start": started,
        "tree": readings[-1][1],
        "growth of server %": figures.growth([one[0] for one in readings]) * 100,
        "growth of tree %": figures.growth([one[1] for one in readings]) * 100,
    }


def _ask(load: Load, paths: Sequence[Path], count: int, depth: int) -> None:
    while count > 0:
        some = (list(paths) * 20)[: min(count, 20_000)]
        load.closed(some, depth=depth)
        count -= len(some)


def _reading(server: daemon.Nsfwd) -> tuple[float, float]:
    return machine.memory_mb([server.pid]), machine.memory_mb(server.processes())
