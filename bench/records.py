"""A run as it is kept: JSON lines, a note or a row of a table in each. Pure but for reading the file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import figures

STAMP = ("table", "run", "bundle", "quick", "note")
"""Keys that every line has beside the row's own; ``note`` is of a line without a row."""


@dataclass
class Table:
    """One table of a run: a note and its rows."""

    note: str = ""
    rows: Sequence[Mapping[str, object]] = ()

    def __str__(self) -> str:
        """As Markdown."""
        return (f"{self.note}\n\n" if self.note else "") + figures.table(self.rows)


Tables = dict[str, Table]


def lines(stamp: Mapping[str, object], rows: Sequence[Mapping[str, object]], note: str) -> str:
    """The JSON lines that are kept of a table."""
    told = [{"note": note}] if note else []
    return "".join(json.dumps({**stamp, **figures.flat(one)}, default=str) + "\n" for one in (*told, *rows))


def read(source: Path) -> Tables:
    """The tables of one run, in the order in which they were measured.

    Raises:
        OSError: it cannot be read.
    """
    found: Tables = {}
    for line in source.read_text("utf-8").splitlines():
        told = json.loads(line)
        table = found.setdefault(told["table"], Table())
        if "note" in told:
            table.note = told["note"]
        else:
            row = figures.raised({key: value for key, value in told.items() if key not in STAMP})
            table.rows = [*table.rows, row]
    return found
