"""Draws a run from its JSON lines, so that an old run can be drawn again. Needs matplotlib (the extra ``bench``)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import records
from bench.figures import Spread, spelled
from bench.records import Tables

Rows = Sequence[Mapping[str, Any]]
Panel = Callable[[Any, Tables], bool]
"""Draws on one pair of axes what the run has for it; whether it has anything."""

TARGET = {1: 1 / 1.15, 8: 0.92, 64: 0.95, 512: 0.95}
"""Share of the ceiling that is the target, by requests in flight; for one, of its p50."""


def draw(runs: Sequence[Path]) -> None:
    """Write ``RUN.png`` beside the figures of the last of them; without matplotlib say so."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install -c requirements.lock -e '.[bench]' brings matplotlib", file=sys.stderr)
        return
    matplotlib.use("Agg")
    target = runs[-1].with_suffix(".png")
    tables: Tables = {}
    for run in runs:
        tables.update(records.read(run))
    if plot(tables, target):
        print(f"plot: {target}", file=sys.stderr)


def plot(tables: Tables, target: Path) -> bool:
    """Draw what is there, a panel for each question. Return whether there was anything."""
    from matplotlib import pyplot

    blank = pyplot.figure()
    panels = [panel for panel in PANELS if panel(blank.add_subplot(), tables)]
    pyplot.close(blank)
    if not panels:
        return False
    wide = min(3, len(panels))
    high = -(-len(panels) // wide)
    figure = pyplot.figure(figsize=(5.2 * wide, 4.2 * high), layout="constrained")
    for number, panel in enumerate(panels):
        panel(figure.add_subplot(high, wide, number + 1), tables)
    figure.suptitle(_title(tables), fontsize=10)
    figure.savefig(target, dpi=120)
    pyplot.close(figure)
    return True


def _title(tables: Tables) -> str:
    told = {row["what"]: row["is"] for row in tables["machine"].rows} if "machine" in tables else {}
    return ", ".join(str(told[key]) for key in ("cpu", "run") if key in told) + f"; {told.get('cores', '?')} cores"


def _of(tables: Tables, start: str) -> dict[str, Rows]:
    """The tables whose names begin so, by the rest of their names."""
    return {name.removeprefix(start): table.rows for name, table in tables.items() if name.startswith(start)}


def _middle(value: Any) -> float:
    return value.median if isinstance(value, Spread) else float(value)


def _bars(values: Sequence[Any]) -> list[list[float]]:
    """How far the quartiles lie below and above the medians."""
    spreads = [one if isinstance(one, Spread) else Spread(one, one, one) for one in values]
    return [[one.median - one.low for one in spreads], [one.high - one.median for one in spreads]]


def _served(axes: Any, tables: Tables) -> bool:
    served = _of(tables, "served, ")
    for number, (kind, rows) in enumerate(served.items()):
        values = [row["rate ratio"] for row in rows]
        at = [place + (number - (len(served) - 1) / 2) * 0.15 for place in range(len(rows))]
        drawn = axes.errorbar(at, list(map(_middle, values)), yerr=_bars(values), fmt="o", capsize=3, label=kind)
        cheap = [1 / _middle(row["CPU ratio"]) for row in rows]
        axes.plot(at, cheap, "s", fillstyle="none", color=drawn[0].get_color(), label=f"{kind}, by processor time")
        axes.set_xticks(range(len(rows)), [str(row["c"]) for row in rows])
        for place, row in enumerate(rows):
            axes.hlines(TARGET.get(row["c"], 1.0), place - 0.4, place + 0.4, "grey", ":", linewidth=1)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(title="Rate by that of the ceiling", xlabel="requests in flight (dotted: target)")
    _legend(axes)
    return bool(served)


def _peers(axes: Any, tables: Tables) -> bool:
    for kind, rows in list(_of(tables, "peers, ").items())[:1]:
        who = list(dict.fromkeys(row["who"] for row in rows))
        for number, name in enumerate(who):
            some = [row for row in rows if row["who"] == name]
            at = [place + (number - (len(who) - 1) / 2) * 0.13 for place in range(len(some))]
            axes.bar(at, [_middle(row["img/s"]) for row in some], 0.13, label=name)
            axes.set_xticks(range(len(some)), [str(row["c"]) for row in some])
        axes.set(title=f"Images a second, {kind}", xlabel="requests in flight")
        _legend(axes, columns=2)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
        return True
    return False


def _beside(axes: Any, tables: Tables) -> bool:
    rows = tables["fairness"].rows if "fairness" in tables else []
    for at, row in enumerate(rows):
        for key, colour in (("idle p50 ms", "C2"), ("p50 ms", "C0"), ("p99 ms", "C1"), ("promised ms", "grey")):
            axes.plot([_middle(row[key])], [at], "|" if key == "promised ms" else "o", color=colour, markersize=9)
    if rows:
        names = ("idle p50", "p50", "p99", "promised")
        for name, colour in zip(names, ("C2", "C0", "C1", "grey"), strict=True):
            axes.plot([], [], "|" if name == "promised" else "o", color=colour, label=name)
        said = {"one of the same lane": "same lane", "interactive, beside a sweep": "beside a sweep"}
        labels = [f"{said.get(str(row['who']), row['who'])},\ncrowd on {row['crowd connections']}" for row in rows]
        axes.set_yticks(range(len(rows)), labels, fontsize=8)
        axes.set(title="One client beside 2,000 in flight", xlabel="ms", xlim=(0, None))
        axes.set_ylim(len(rows) - 0.5, -1.3)
        _legend(axes, columns=4)
    return bool(rows)


def _noop(axes: Any, tables: Tables) -> bool:
    rows = [row for rows in _of(tables, "noop").values() for row in rows]
    parts = (("nsfwd", "server us/img"), ("two hops", "two hops us/img"), ("line server", "line server us/img"))
    for number, (name, column) in enumerate(parts):
        at = [place + (number - 1) * 0.1 for place in range(len(rows))]
        values = [_middle(row[column]) for row in rows]
        axes.plot(at, values, "o", label=name)
        for x, value in zip(at, values, strict=True):
            axes.annotate(spelled(value), (x, value), (5, 0), textcoords="offset points", fontsize=7, va="center")
    axes.set_xticks(range(len(rows)), [f"{row['in flight']}\nbatch {row['batch']}" for row in rows], fontsize=7)
    axes.set(title="CPU of the server process: no decoding, no model", ylabel="us an image", yscale="log")
    axes.margins(x=0.12, y=0.15)
    if rows:
        _legend(axes)
    return bool(rows)


def _curve(axes: Any, tables: Tables) -> bool:
    rows = [row for rows in _of(tables, "curve: cost").values() for row in rows]
    axes.plot([row["requests"] for row in rows], [_middle(row["server us/img"]) for row in rows], "o-")
    axes.set(title="CPU of the server by requests so far", xlabel="requests", ylabel="us an image")
    axes.set(xscale="log", ylim=(0, None))
    return bool(rows)


def _batches(axes: Any, tables: Tables) -> bool:
    rows = [row for rows in _of(tables, "curve: the engine").values() for row in rows]
    axes.plot([row["batch"] for row in rows], [_middle(row["img/s"]) for row in rows], "o-")
    axes.set(title="The engine alone by batch size", xlabel="images a batch", ylabel="images a second")
    if rows:
        axes.set_xscale("log", base=2)
        axes.set_xticks([row["batch"] for row in rows], [str(row["batch"]) for row in rows])
        axes.set_ylim(0, None)
    return bool(rows)


def _legend(axes: Any, columns: int = 1) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, ncols=columns)


PANELS: tuple[Panel, ...] = (_served, _peers, _beside, _noop, _curve, _batches)
