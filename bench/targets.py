"""The targets, and the figures that a run reached: the claims of ``docs/performance.md``, each held to its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench import figures
from bench.records import Table, Tables

NAME = "targets"
NOTE = "**Bold** misses its target; *italic* does by its median, but not by more than the rounds are apart."


@dataclass(frozen=True)
class Figure:
    """Figures of one table that have one bound.

    Attributes:
        table: its name.
        column: of the figures.
        where: cells that the rows have.
        least: they are to be no less.
        most: they are to be no more.
        said: the words before them.
    """

    table: str
    column: str
    where: Mapping[str, object]
    least: float | None = None
    most: float | None = None
    said: str = ""

    def found(self, tables: Tables) -> str:
        """The figures as a cell has them; empty where they were not measured."""
        rows = tables[self.table].rows if self.table in tables else []
        chosen = [row for row in rows if all(row.get(key) == value for key, value in self.where.items())]
        told = [self._spelled(row[self.column]) for row in chosen if row.get(self.column) is not None]
        return f"{self.said} {', '.join(told)}".strip() if told else ""

    def _spelled(self, value: object) -> str:
        one = value if isinstance(value, figures.Spread) else figures.Spread(*[float(str(value))] * 3)
        told = figures.spelled(one.median)
        if self._holds(one.median):
            return told
        return f"*{told}*" if self._holds(one.high if self.least is not None else one.low) else f"**{told}**"

    def _holds(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


KINDS = ("small", "large", "photos")
CONCURRENCY = (1, 8, 64, 512)
PEERS = ("mosec", "litserve", "bentoml", "ray")
NOOP = "noop: echo engine, decoders that open nothing"
BUNDLE = "nsfw-mobilenet-v2-140"
MEMORY = "memory (PSS, MB)"


def _served(column: str, *concurrency: int, least: float | None = None, most: float | None = None) -> list[Figure]:
    return [
        Figure(f"served, {kind}", column, {"c": c}, least, most, f"{kind}, c = {c}:")
        for kind in KINDS
        for c in concurrency
    ]


def _peers(column: str, who: str, least: float, said: str, **where: object) -> list[Figure]:
    return [
        Figure(f"peers, {kind}", column, {"who": who, **where}, least=least, said=f"{kind}, {said}:") for kind in KINDS
    ]


TARGETS: dict[str, list[Figure]] = {
    "c = 64 and 512: rate at least 0.95 of the ceiling": _served("rate ratio", 64, 512, least=0.95),
    "c = 8: rate at least 0.92 of it": _served("rate ratio", 8, least=0.92),
    "c = 1: p50 at most 1.15 of decoding and inference in one process": _served("p50 ratio", 1, most=1.15),
    "(no target, but steadier than rates) processor time an image, by the ceiling's": _served(
        "CPU ratio", *CONCURRENCY
    ),
    "never behind another server on the same engine (rate by theirs, c = 1, 8, 64)": [
        one for who in PEERS for one in _peers("rate by theirs", who, 1.0, who)
    ],
    "at least 6 times the naive server's p50 at c = 1 and 7 times its rate at c = 64": [
        *_peers("p50 by ours", "the naive server", 6.0, "p50", c=1),
        *_peers("rate by theirs", "the naive server", 7.0, "rate", c=64),
    ],
    "int8: end to end at least 1.2 times bf16": [
        Figure(f"precisions end to end, {kind}", "rate / bf16", {"precision": "int8"}, least=1.2) for kind in KINDS
    ],
    "noop: 15,000 requests a second in bulk, at most 60 us of the server's CPU": [
        one
        for flight in ("1 x 64", "8 x 64")
        for one in (
            Figure(NOOP, "requests/s", {"batch": 64, "in flight": flight}, least=15_000, said=f"{flight}:"),
            Figure(NOOP, "server us/img", {"batch": 64, "in flight": flight}, most=60, said="us:"),
        )
    ],
    "memory: server at most 60 MB, whole tree 350 MB, neither grows by more than 2 %": [
        Figure(MEMORY, "server", {"engine": BUNDLE}, most=60, said="server:"),
        Figure(MEMORY, "tree", {"engine": BUNDLE}, most=350, said="tree:"),
        Figure(MEMORY, "growth of server %", {}, most=2, said="growth of server, %:"),
        Figure(MEMORY, "growth of tree %", {}, most=2, said="of tree:"),
    ],
    "cold: `ping` answered within 0.4 s, the first image within 1.5 s": [
        Figure("cold start", "seconds", {"what": "first ping"}, most=0.4),
        Figure("cold start", "seconds", {"what": "first right answer"}, most=1.5),
    ],
    "10,000 idle connections: at most 150 MB more, a request at most 1.5 times as long": [
        Figure("idle connections", "MB more", {}, most=150),
        Figure("idle connections", "among / alone", {}, most=1.5),
    ],
    "beside a crowd of 2,000 in flight a single client's p99: three idle medians and a batch (1 and 32 connections)": [
        Figure("fairness", "p99 / promised", {"who": "one of the same lane"}, most=1, said="same lane:"),
        Figure("fairness", "p99 / promised", {"who": "interactive, beside a sweep"}, most=1, said="beside a sweep:"),
    ],
    "a sweep beside a crowd gets a tenth": [Figure("fairness: share of a sweep", "share", {}, least=0.1)],
    "`nsfwd scan --help` within 120 ms of a bare interpreter, a file within 150 ms of its scan": [
        Figure("command line: starts", "more ms", {"command": "nsfwd scan --help"}, most=120),
        Figure("command line: starts", "more ms", {"command": "nsfwd scan FILE"}, most=150),
    ],
    "`nsfwd scan -r` within 3 % of the daemon's own rate": [
        Figure("command line: a directory", "ratio", {}, least=0.97)
    ],
    "a first sweep within 5 % of the daemon's own rate": [
        Figure("first sweep", "ratio", {"bundle": BUNDLE}, least=0.95),
        Figure("first sweep", "ratio", {"bundle": "echo"}, least=0.95, said="echo:"),
    ],
    "a repeated sweep of 200,000 files: 50,000 a second": [
        Figure("repeated sweep, nothing changed", "files/s", {"tree": "200,000 files"}, least=50_000)
    ],
    "a directory of a million names within 50 MB of the smallest": [
        Figure(
            "repeated sweep, nothing changed",
            "above the smallest MB",
            {"tree": "1,000,000 files, one directory"},
            most=50,
        )
    ],
    "a million rows judged again in a minute": [
        Figure("index", "s", {"what": "rejudge", "rows": 1_000_000}, most=60, said="s:")
    ],
}


def reached(tables: Tables) -> Iterator[dict[str, object]]:
    """A row for each target of which the run has figures."""
    for target, figures_ in TARGETS.items():
        told = [one for one in (figure.found(tables) for figure in figures_) if one]
        if told:
            yield {"target": target, "reached": "; ".join(told)}


def merged(before: Table, now: Table) -> Table:
    """The rows that the page had, replaced by those of this run: a run need not measure every target."""
    rows = {str(row["target"]): row for row in (*before.rows, *now.rows)}
    order = {target: number for number, target in enumerate(TARGETS)}
    return Table(
        now.note,
        sorted((row for target, row in rows.items() if target in order), key=lambda row: order[str(row["target"])]),
    )
