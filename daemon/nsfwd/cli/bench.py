"""``nsfwd bench``: throughput and latency of a running daemon, measured by a client.

A closed loop keeps a number of requests in flight; an open loop sends at a fixed rate, and counts a
request's time from when it was due, so that a daemon that falls behind does not look fast.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nsfwd.cli.options import exit_codes
from nsfwd.cli.options.daemon_commands import connect_option
from nsfwd.cli.options.param_types import FiniteRange

if TYPE_CHECKING:
    from nsfwd.client import AsyncClient

PERCENTILES = (50, 90, 99, 99.9)


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@connect_option
@click.option(
    "--seconds",
    metavar="SECONDS",
    type=FiniteRange(0.1),
    default=10.0,
    show_default=True,
    help="Duration of the measurement.",
)
@click.option(
    "--concurrency",
    metavar="NUMBER",
    type=click.IntRange(1, 64),
    default=16,
    show_default=True,
    help="Closed loop: requests in flight.",
)
@click.option(
    "--rate", metavar="NUMBER", type=FiniteRange(0.1), help="Open loop: requests per second, at random moments."
)
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
def bench(
    paths: tuple[Path, ...], connect: str | None, seconds: float, concurrency: int, rate: float | None, style: str
) -> int:
    """Measure throughput and latency of the daemon.

    The files at PATH, and in directories at PATH, are scanned again and again. Exit 1 when a request ended without
    scores: the times of failures mean nothing.

    \b
    Example:
      nsfwd bench /srv/pictures                 (closed loop: highest throughput)
      nsfwd bench /srv/pictures --rate 100      (open loop: latency at this rate)
    """
    files = [str(file.absolute()) for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [file for file in files if Path(file).is_file()]
    if not files:
        raise click.UsageError("no file found at PATH")
    report = asyncio.run(_measure(connect, files, seconds, concurrency, rate))
    click.echo(json.dumps(report) if style == "json" else _text(report))
    return exit_codes.OK if set(report["outcomes"]) == {"ok"} else exit_codes.FAILED


async def _measure(
    connect: str | None, files: list[str], seconds: float, concurrency: int, rate: float | None
) -> dict[str, Any]:
    from nsfwd.client import AsyncClient

    bench = _Bench(itertools.cycle(files))
    async with AsyncClient(connect) as client:
        await bench.ask(client, time.perf_counter(), counted=False)  # connects, and warms nothing but the connection
        started = time.perf_counter()
        if rate is None:
            await asyncio.gather(*(bench.closed(client, started + seconds) for _ in range(concurrency)))
        else:
            await bench.open(client, rate, seconds)
        elapsed = time.perf_counter() - started
    times = sorted(bench.times)
    return {
        "loop": "closed" if rate is None else "open",
        "concurrency": concurrency if rate is None else None,
        "asked_rate": rate,
        "seconds": round(elapsed, 3),
        "requests": len(times),
        "rate": round(len(times) / elapsed, 2),
        "latency": {f"p{share:g}": round(percentile(times, share), 6) for share in PERCENTILES},
        "outcomes": dict(bench.outcomes),
    }


class _Bench:
    """Scans one file after the other and records how long each takes."""

    def __init__(self, files: Iterator[str]) -> None:
        self._files = files
        self.times: list[float] = []
        self.outcomes: Counter[str] = Counter()

    async def ask(self, client: AsyncClient, due: float, *, counted: bool = True) -> None:
        reply = await client.scan(next(self._files))
        if counted:
            self.times.append(time.perf_counter() - due)
            self.outcomes[reply.code or str(reply.status)] += 1

    async def closed(self, client: AsyncClient, end: float) -> None:
        while (now := time.perf_counter()) < end:
            await self.ask(client, now)

    async def open(self, client: AsyncClient, rate: float, seconds: float) -> None:
        chance, due = random.Random(1), 0.0
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while (due := due + chance.expovariate(rate)) < seconds:
                await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
                group.create_task(self.ask(client, started + due))


def percentile(times: list[float], share: float) -> float:
    """Return the time within which ``share`` per cent of the requests ended; ``times`` is sorted. 0.0 for none."""
    return times[min(int(len(times) * share / 100), len(times) - 1)] if times else 0.0


def _text(report: dict[str, Any]) -> str:
    closed = report["loop"] == "closed"
    loop = f"{report['concurrency']} in flight" if closed else f"{report['asked_rate']:g} per second requested"
    latency = ", ".join(f"{name} {1000 * value:.1f}" for name, value in report["latency"].items())
    outcomes = ", ".join(f"{name} {count}" for name, count in report["outcomes"].items())
    head = f"{report['loop']} loop, {loop}: {report['requests']} requests in {report['seconds']:.1f} s"
    return f"{head}\nrate         {report['rate']:.1f} per second\nlatency, ms  {latency}\noutcomes     {outcomes}"
