"""``nsfwd top``: a live view of a daemon, computed from two readings of ``stats``."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from nsfwd.cli.options.daemon_commands import TIMEOUT, connect_option
from nsfwd.cli.options.param_types import FiniteRange

CLEAR = "\x1b[H\x1b[J"
"""Moves the cursor to the top and clears the screen below."""

_STAGES = ("queue", "decode", "wait", "infer", "total")

Stats = dict[str, Any]


@click.command()
@connect_option
@click.option(
    "--interval",
    metavar="SECONDS",
    type=FiniteRange(0.2, 3600),
    default=2.0,
    show_default=True,
    help="Time between views.",
)
@click.option(
    "--count",
    metavar="NUMBER",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Number of views; 0 for no limit.",
)
def top(connect: str | None, interval: float, count: int) -> None:
    """Show the activity of the daemon, live.

    On a terminal each view replaces the last one; elsewhere they follow each other.

    Example: nsfwd top --interval 5
    """
    from nsfwd.client import Client

    with Client(connect, timeout=TIMEOUT, patience=0) as client:
        before, shown = client.stats(), 0
        while count == 0 or shown < count:
            time.sleep(interval)
            now = client.stats()
            click.echo((CLEAR if sys.stdout.isatty() else "") + view(str(client.address), before, now))
            before, shown = now, shown + 1


def view(address: str, before: Stats, now: Stats) -> str:
    """Return the activity between two readings of ``stats`` as text."""
    seconds = max(now["uptime"] - before["uptime"], 1e-3)
    engine, decoders = now["engine"], now["decoders"]

    def grown(section: str, key: str) -> float:
        return float(now[section].get(key, 0)) - float(before[section].get(key, 0))

    images = sum(grown("images", status) for status in now["images"])
    batches, scored = grown("engine", "batches"), grown("engine", "images")
    per_image = (f"{stage} {1000 * grown('seconds', stage) / images:.1f}" for stage in _STAGES if images)
    waiting = ", ".join(f"{stage} {sum(lanes.values())}" for stage, lanes in now["queues"].items())
    lines = [
        f"{address}  up {now['uptime']:.0f} s  {images / seconds:.1f} images/s  {now['in_flight']} in flight",
        "outcomes per second " + ", ".join(f"{name} {grown('images', name) / seconds:.1f}" for name in now["images"]),
        "ms per image        " + (", ".join(per_image) or "-"),
        f"waiting             {waiting}; slots {now['slots']['free']} of {now['slots']['total']} free",
        f"engine              {engine['name'] or 'loading'} on {engine['device'] or '-'}, "
        f"{scored / batches if batches else 0:.1f} images per batch, "
        f"busy {100 * grown('engine', 'seconds') / seconds:.0f} %",
        f"processes           {len(decoders['processes'])} decoders, {len(engine['processes'])} engine; "
        f"replaced {decoders['restarts']} and {engine['restarts']}; reloads {now['reloads']}",
        f"connections         {now['server']['connections']} open, {now['server']['connections_total']} in total",
    ]
    return "\n".join(lines)
