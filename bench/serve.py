"""``serve``: the daemon against the bare limit, round by round: closed loop at c = 1, 8, 64, 512, then an open loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import daemon, figures, machine
from bench.limit import SERIAL, Bare, Measured, choose
from bench.load import Load, Ndjson
from bench.session import Session

CONCURRENCY = (1, 8, 64, 512)
OPEN_SHARES = (0.5, 0.8)
"""Rates of the open loop, as shares of the limit."""


def measure(session: Session) -> None:
    """Print ratios to the limit for each kind of pictures."""
    flags = (*session.flags, "--queue", "16384")
    with daemon.Nsfwd(session.directory, bundle=session.bundle, models_dir=session.models_dir, flags=flags) as server:
        server.wait_ready()
        for kind in session.kinds:
            _closed_and_open(session, server, kind)


def _closed_and_open(session: Session, server: daemon.Nsfwd, kind: str) -> None:
    paths = session.pictures(kind)
    best, _ = choose(session, kind)
    limit: list[Measured] = []
    serial: list[Measured] = []
    ours: dict[int, list[Measured]] = {c: [] for c in CONCURRENCY}
    own: dict[int, list[float]] = {c: [] for c in CONCURRENCY}
    loads = {c: Load(server.unix, Ndjson(), c) for c in CONCURRENCY}
    with Bare(session, SERIAL) as alone, Bare(session, best) as crowd:
        for c in CONCURRENCY:
            loads[c].closed(paths[: max(20, min(c, 64))])
        for number in range(session.rounds):
            session.say(f"serve: {kind}, round {number + 1} of {session.rounds}")
            serial.append(alone.run(paths[: session.count(300)]))
            for c in CONCURRENCY:
                some = (paths * 4)[: max(session.count(300 if c == 1 else 1000), c + c // 4)]
                limit_now = crowd.run(some) if c > 1 else serial[-1]
                if c > 1:
                    limit.append(limit_now)
                found, of_server = _round(server, loads[c], some)
                ours[c].append(found)
                own[c].append(of_server)
    limits = {c: [limit[i * 3 + at] for i in range(session.rounds)] for at, c in enumerate(CONCURRENCY[1:])}
    rows = [_row(kind, c, ours[c], limits.get(c, serial), own[c]) for c in CONCURRENCY]
    session.report(
        f"served, {kind} pictures",
        rows,
        f"Limit: {best.name} (c = 1: serial). Ratios are medians of {session.rounds} interleaved rounds.",
    )
    _open(session, loads[64], kind, figures.median([one.rate for one in limit]))
    for load in loads.values():
        load.close()


def _round(server: daemon.Nsfwd, load: Load, paths: Sequence[Path]) -> tuple[Measured, float]:
    tree = server.processes()
    before, own = machine.cpu_seconds(tree), machine.cpu_seconds([server.pid])
    result = load.closed(paths)
    cpu = (machine.cpu_seconds(tree) - before) / len(paths)
    return Measured(result.rate, cpu, result.latencies), (machine.cpu_seconds([server.pid]) - own) / len(paths)


def _row(kind: str, c: int, ours: list[Measured], limit: list[Measured], own: list[float]) -> Mapping[str, object]:
    latencies = [x for one in ours for x in one.latencies]
    p50 = figures.percentile(latencies, 0.5)
    row: dict[str, object] = {
        "pictures": kind,
        "c": c,
        "img/s": figures.median([one.rate for one in ours]),
        "limit img/s": figures.median([one.rate for one in limit]),
        "rate ratio": figures.median_ratio([one.rate for one in ours], [one.rate for one in limit]),
        "p50 ms": p50 * 1e3,
        "p99 ms": figures.percentile(latencies, 0.99) * 1e3,
        "p50 ratio": None,
        "CPU ms/img": figures.median([one.cpu for one in ours]) * 1e3,
        "limit CPU ms/img": figures.median([one.cpu for one in limit]) * 1e3,
        "server us/img": figures.median(own) * 1e6,
    }
    if c == 1:
        row["p50 ratio"] = figures.median_ratio(
            [figures.percentile(one.latencies, 0.5) for one in ours],
            [figures.percentile(one.latencies, 0.5) for one in limit],
        )
    return row


def _open(session: Session, load: Load, kind: str, limit: float) -> None:
    rows = []
    paths = session.pictures(kind)
    for share in OPEN_SHARES:
        session.say(f"serve: {kind}, open loop at {share:.0%} of the limit")
        result = load.open((paths * 4)[: session.count(1500)], rate=share * limit)
        rows.append(
            {
                "pictures": kind,
                "offered img/s": share * limit,
                "share of limit": share,
                "p50 ms": figures.percentile(result.latencies, 0.5) * 1e3,
                "p99 ms": figures.percentile(result.latencies, 0.99) * 1e3,
            }
        )
    session.report(f"open loop, {kind} pictures", rows)
