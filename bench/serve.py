"""``serve``: the daemon against the ceiling, round by round: closed loop at c = 1, 8, 64, 512, then an open loop."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import daemon, figures, machine
from bench.ceiling import SERIAL, Measured, RawLoop, choose
from bench.load import Load, Ndjson
from bench.session import Session

CONCURRENCY = (1, 8, 64, 512)
OPEN_SHARES = (0.5, 0.8)
"""Rates of the open loop, as shares of the ceiling."""


@dataclass
class Pair:
    """One concurrency: ours and the ceiling, one right after the other in each round."""

    load: Load
    ceiling: RawLoop
    paths: Sequence[Path]
    ours: list[Measured] = field(default_factory=list)
    theirs: list[Measured] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def round(self, server: daemon.Nsfwd, number: int) -> None:
        """Measure both; the other one first every other time."""
        for ours in (number % 2 == 0, number % 2 == 1):
            if ours:
                self._ours(server)
            else:
                self.theirs.append(self.ceiling.run(self.paths))

    def _ours(self, server: daemon.Nsfwd) -> None:
        meter, own = machine.Meter(server.processes()), machine.cpu_seconds([server.pid])
        result = self.load.closed(self.paths)
        cpu, others = meter.read()
        self.own.append((machine.cpu_seconds([server.pid]) - own) / len(self.paths))
        self.ours.append(Measured(result.rate, cpu / len(self.paths), result.latencies))
        self.others.append(others)


def measure(session: Session) -> None:
    """Print ratios to the ceiling for each kind of pictures."""
    flags = (*session.flags, "--queue", "16384")
    with daemon.Nsfwd(session.directory, bundle=session.bundle, models_dir=session.models_dir, flags=flags) as server:
        server.wait_ready()
        for kind in session.kinds:
            _closed_and_open(session, server, kind)


def _closed_and_open(session: Session, server: daemon.Nsfwd, kind: str) -> None:
    paths = session.pictures(kind)
    best, _ = choose(session, kind)
    with contextlib.ExitStack() as stack:
        alone, crowd = (stack.enter_context(RawLoop(session, setting)) for setting in (SERIAL, best))
        pairs = {}
        for c in CONCURRENCY:
            load = Load(server.unix, Ndjson(), c)
            stack.callback(load.close)
            count = max(session.count(200 if c == 1 else 500), c + c // 4)
            pairs[c] = Pair(load, crowd if c > 1 else alone, (paths * 4)[:count])
            load.closed(paths[: max(20, min(c, 64))])
        for loop in (alone, crowd):
            loop.run(paths[:20])
        for number in range(session.rounds):
            session.say(f"serve: {kind}, round {number + 1} of {session.rounds}")
            for c in figures.shuffled(CONCURRENCY, seed=number):
                if c < CONCURRENCY[-1] or session.rarely(number):
                    pairs[c].round(server, number)
        session.report(
            f"served, {kind}",
            [_row(c, pair) for c, pair in pairs.items()],
            f"Ceiling: {best.name} (c = 1: serial). Ratios are ours by the ceiling's: median and quartiles of "
            f"{session.rounds} rounds (c = 512: every third of them)."
            + figures.crowded([share for pair in pairs.values() for share in pair.others]),
        )
        rate = figures.median([one.rate for one in pairs[64].theirs])
        _open(session, pairs[64].load, kind, rate)


def _row(c: int, pair: Pair) -> Mapping[str, object]:
    latencies = [x for one in pair.ours for x in one.latencies]
    row: dict[str, object] = {
        "c": c,
        "img/s": figures.median([one.rate for one in pair.ours]),
        "ceiling img/s": figures.median([one.rate for one in pair.theirs]),
        "rate ratio": figures.ratio([one.rate for one in pair.ours], [one.rate for one in pair.theirs]),
        "p50 ms": figures.percentile(latencies, 0.5) * 1e3,
        "p99 ms": figures.percentile(latencies, 0.99) * 1e3,
        "p50 ratio": None,
        "CPU ms/img": figures.median([one.cpu for one in pair.ours]) * 1e3,
        "ceiling CPU ms/img": figures.median([one.cpu for one in pair.theirs]) * 1e3,
        "CPU ratio": figures.ratio([one.cpu for one in pair.ours], [one.cpu for one in pair.theirs]),
        "server us/img": figures.median(pair.own) * 1e6,
        "others %": figures.median(pair.others) * 100,
    }
    if c == 1:
        row["p50 ratio"] = figures.ratio(
            [figures.percentile(one.latencies, 0.5) for one in pair.ours],
            [figures.percentile(one.latencies, 0.5) for one in pair.theirs],
        )
    return row


def _open(session: Session, load: Load, kind: str, ceiling: float) -> None:
    rows = []
    paths = session.pictures(kind)
    for share in OPEN_SHARES:
        session.say(f"serve: {kind}, open loop at {share:.0%} of the ceiling")
        result = load.open((paths * 4)[: session.count(1500)], rate=share * ceiling)
        rows.append(
            {
                "pictures": kind,
                "offered img/s": share * ceiling,
                "share of ceiling": share,
                "p50 ms": figures.percentile(result.latencies, 0.5) * 1e3,
                "p99 ms": figures.percentile(result.latencies, 0.99) * 1e3,
            }
        )
    session.report(f"open loop, {kind}", rows)
