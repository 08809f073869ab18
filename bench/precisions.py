"""``precisions``: the daemon at each precision of the bundle, round by round, what is scored again included.

The network's own gain is in ``docs/engines.md``; here decoding, recheck and everything else weigh it down.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from bench import daemon, figures, machine
from bench.corpus import NoPhotos
from bench.load import Load, Ndjson
from bench.session import Session

IN_FLIGHT = 64
PRECISIONS = ("f32", "bf16", "int8")


@dataclass
class Served:
    """A daemon at one precision, and what each round came to."""

    precision: str
    server: daemon.Nsfwd
    load: Load
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure(session: Session) -> None:
    """Print rate, cost and share of images scored twice, by precision."""
    kind = "photos"
    try:
        paths = session.pictures(kind)
    except NoPhotos as error:
        kind = session.kinds[0]
        session.say(f"precisions: of {kind} pictures, of which none is scored twice: {error}")
        paths = session.pictures(kind)
    with contextlib.ExitStack() as stack:
        served = [one for precision in PRECISIONS if (one := _start(session, stack, precision, paths))]
        for number in range(session.rounds):
            for one in figures.shuffled(served, seed=number):
                session.say(f"precisions: {kind}, round {number + 1} of {session.rounds}, {one.precision}")
                _ask(one, (paths * 4)[: session.count(500)])
        session.report(f"precisions end to end, {kind}", [_row(one, served) for one in served])


def _start(session: Session, stack: contextlib.ExitStack, precision: str, paths: list[Path]) -> Served | None:
    directory = session.directory / precision
    directory.mkdir()
    server = stack.enter_context(
        daemon.Nsfwd(directory, bundle=session.bundle, models_dir=session.models_dir, flags=("--precision", precision))
    )
    try:
        server.wait_ready()
    except RuntimeError as error:
        session.say(f"precisions: {precision} is not measured: {str(error).splitlines()[-1]}")
        return None
    load = Load(server.unix, Ndjson(), IN_FLIGHT)
    stack.callback(load.close)
    load.closed(paths)  # all of them once: what is scored twice is counted from the start
    return Served(precision, server, load)


def _ask(one: Served, paths: list[Path]) -> None:
    before = machine.cpu_seconds(one.server.processes())
    one.rates.append(one.load.closed(paths).rate)
    one.cpu.append((machine.cpu_seconds(one.server.processes()) - before) / len(paths))


def _row(one: Served, served: list[Served]) -> dict[str, object]:
    row: dict[str, object] = {
        "precision": one.precision,
        "c": IN_FLIGHT,
        "img/s": figures.median(one.rates),
        "CPU ms/img": figures.median(one.cpu) * 1e3,
        "scored twice %": 100 * one.server.ask({"op": "stats"})["engine"].get("rechecked_share", 0.0),
    }
    for other in served:
        row[f"rate / {other.precision}"] = figures.ratio(one.rates, other.rates)
    for other in served:
        row[f"CPU / {other.precision}"] = figures.ratio(one.cpu, other.cpu)
    return row
