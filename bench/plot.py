"""Draws a run: what is drawn is read from its JSON lines, so that an old run can be drawn again. Needs matplotlib."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.session import Session


def draw(session: Session) -> None:
    """Write ``RUN.png`` beside the run's figures; without matplotlib (the extra ``bench``) say so."""
    source = session.results / f"{session.started}.jsonl"
    try:
        import matplotlib
    except ImportError:
        session.say("no plot: pip install -c requirements.lock -e '.[bench]' brings matplotlib")
        return
    matplotlib.use("Agg")
    target = source.with_suffix(".png")
    if plot(read(source), target):
        session.say(f"plot: {target}")
    session.say(f"figures: {source}")


def read(source: Path) -> list[dict[str, Any]]:
    """The rows of one run."""
    return [json.loads(line) for line in source.read_text("utf-8").splitlines()]


def plot(rows: list[dict[str, Any]], target: Path) -> bool:
    """Draw what is there: rates against the limit, and latencies. Return whether there was anything."""
    from matplotlib import pyplot

    served = [row for row in rows if row["table"].startswith("served")]
    curve = [row for row in rows if row["table"].startswith("curve")]
    if not served and not curve:
        return False
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for kind in dict.fromkeys(row["pictures"] for row in served):
        some = [row for row in served if row["pictures"] == kind]
        axes[0].plot([row["c"] for row in some], [row["rate ratio"] for row in some], "o-", label=f"{kind} pictures")
    axes[0].axhline(1.0, color="grey", linewidth=0.8)
    axes[0].set(xscale="log", xlabel="requests in flight", ylabel="rate / bare limit", ylim=(0, 1.15))
    cost = [row for row in curve if "requests" in row]
    axes[1].plot(
        [row["requests"] for row in cost], [row["server us/img"] for row in cost], "o-", label="server process"
    )
    axes[1].set(xscale="log", xlabel="requests so far", ylabel="microseconds an image (noop)", ylim=(0, None))
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    figure.savefig(target, dpi=120)
    pyplot.close(figure)
    return True
