"""``noop``: the cost of protocol and pipeline for an image without decoding and model, beside line servers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import daemon, figures, machine
from bench.load import Load, Ndjson
from bench.session import Session

SHAPES = ((1, 1), (1, 64), (8, 64))
"""(connections, requests in flight on each)."""
BATCHES = (8, 64)
NOWHERE = [Path(f"/srv/pictures/{number:05}.jpg") for number in range(1000)]

NOTE = (
    "CPU of the server process is the steady figure: client, decoders and engine share the cores with it. Line server: "
    "a loop that understands each line and writes a reply of the same keys; two hops: the same by way of two "
    "processes, as the daemon's images go through a decoder and the engine. All three in turn, in rounds."
)


@dataclass
class Side:
    """One server, and what each round of one shape came to."""

    server: daemon.Nsfwd | daemon.LineServer
    load: Load
    rates: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)

    def ask(self, paths: Sequence[Path], depth: int) -> None:
        """One round."""
        tree = self.server.processes()
        before, before_all = machine.cpu_seconds([self.server.pid]), machine.cpu_seconds(tree)
        result = self.load.closed(paths, depth=depth)
        self.own.append((machine.cpu_seconds([self.server.pid]) - before) / len(paths))
        self.all.append((machine.cpu_seconds(tree) - before_all) / len(paths))
        self.rates.append(result.rate)
        self.p50.append(figures.percentile(result.latencies, 0.5))


def measure(session: Session) -> None:
    """Print requests a second and CPU an image, ours and the least that they could be."""
    models = session.echo_models()
    rows = []
    with daemon.LineServer(session.directory) as line, daemon.LineServer(session.directory, hops=2) as hops:
        for most in BATCHES:
            flags = ("--max-batch", str(most))
            with daemon.Nsfwd(
                session.directory,
                bundle="echo",
                models_dir=models,
                engine="echo",
                null_decoder=True,
                flags=flags,
            ) as ours:
                for server in (line, hops, ours):
                    server.wait_ready()
                rows += [{"batch": most, **_shape(session, (ours, hops, line), *shape)} for shape in SHAPES]
    session.report("noop: echo engine, decoders that open nothing", rows, NOTE)


def _shape(
    session: Session, servers: Sequence[daemon.Nsfwd | daemon.LineServer], connections: int, depth: int
) -> Mapping[str, object]:
    count = session.count(50_000 if depth > 1 else 2500)
    paths = (NOWHERE * (count // len(NOWHERE) + 1))[:count]
    with contextlib.ExitStack() as stack:
        sides = [Side(server, Load(server.unix, Ndjson(), connections)) for server in servers]
        for side in sides:
            stack.callback(side.load.close)
            side.load.closed(paths[:2000], depth=depth)
        for number in range(session.rounds):
            session.say(f"noop: {connections} x {depth} in flight, round {number + 1} of {session.rounds}")
            for side in figures.shuffled(sides, seed=number):
                side.ask(paths, depth)
    ours, hops, line = sides
    return {
        "in flight": f"{connections} x {depth}",
        "requests/s": figures.spread(ours.rates),
        "by two hops": figures.ratio(ours.rates, hops.rates),
        "by line server": figures.ratio(ours.rates, line.rates),
        "server us/img": figures.median(ours.own) * 1e6,
        "two hops us/img": figures.median(hops.own) * 1e6,
        "line server us/img": figures.median(line.own) * 1e6,
        "server us by two hops": figures.ratio(ours.own, hops.own),
        "all us/img": figures.median(ours.all) * 1e6,
        "p50 ms": figures.median(ours.p50) * 1e3,
    }
