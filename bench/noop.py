"""``noop``: what protocol and pipeline cost an image when decoding and the model cost nothing."""

from __future__ import annotations

from pathlib import Path

from bench import daemon, echo, figures, machine
from bench.load import Load, Ndjson
from bench.session import Session

SHAPES = ((1, 1), (1, 64), (8, 64))
"""(connections, requests in flight on each)."""

NOWHERE = [Path(f"/srv/pictures/{number:05}.jpg") for number in range(1000)]


def measure(session: Session) -> None:
    """Print requests a second and CPU an image of the server process alone and of all processes."""
    models = echo.bundle(session.directory / "models")
    rows = []
    for most in (8, 64):
        with daemon.Nsfwd(
            session.directory,
            bundle=echo.NAME,
            models_dir=models,
            engine="echo",
            blank=True,
            flags=("--max-batch", str(most)),
        ) as server:
            server.wait_ready()
            rows += [_shape(session, server, most, *shape) for shape in SHAPES]
    session.report(
        "noop: echo engine, decoders that open nothing",
        rows,
        "CPU of the server process is the steady figure: client, decoders and engine share the cores with it.",
    )


def _shape(session: Session, server: daemon.Nsfwd, most: int, connections: int, depth: int) -> dict[str, object]:
    session.say(f"noop: batches of {most}, {connections} x {depth} in flight")
    load = Load(server.unix, Ndjson(), connections)
    count = session.count(100_000 if depth > 1 else 10_000)
    paths = (NOWHERE * (count // len(NOWHERE) + 1))[:count]
    load.closed(paths[:2000], depth=depth)
    rates, own, all_, latencies = [], [], [], []
    for _ in range(session.rounds):
        tree = server.processes()
        before, before_all = machine.cpu_seconds([server.pid]), machine.cpu_seconds(tree)
        result = load.closed(paths, depth=depth)
        rates.append(result.rate)
        own.append((machine.cpu_seconds([server.pid]) - before) / count)
        all_.append((machine.cpu_seconds(tree) - before_all) / count)
        latencies.append(figures.percentile(result.latencies, 0.5))
    load.close()
    return {
        "batch": most,
        "in flight": f"{connections} x {depth}",
        "requests/s": figures.median(rates),
        "best": max(rates),
        "server us/img": figures.median(own) * 1e6,
        "all us/img": figures.median(all_) * 1e6,
        "p50 ms": figures.median(latencies) * 1e3,
    }
