"""Writes the rows of a table to stdout as aligned text, JSON, NDJSON or CSV.

Knows cells and headings, not what they mean.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from nsfwd.escaping import escape

FORMATS = ("text", "json", "ndjson", "csv")

_Command = TypeVar("_Command", bound=Callable[..., Any])

_ALIGNED = 1000
"""Rows that are looked at for the widths of a text table; memory must not grow with it."""


def format_option(command: _Command) -> _Command:
    """Add ``--format``."""
    return click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)(command)


def write(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], form: str) -> None:
    """Write rows as they come, with the columns in this order."""
    out = sys.stdout.buffer
    if form != "text":
        from nsfwd.row_writer import write_rows

        write_rows(rows, out, columns, form)
        return
    for line in _text(rows, columns):
        out.write(line.encode("utf-8", "surrogateescape"))
    out.flush()


def _text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    waiting = iter(rows)
    first = [[_cell(row, column) for column in columns] for _, row in zip(range(_ALIGNED), waiting, strict=False)]
    heading = [column.upper().replace("_", " ") for column in columns]
    widths = [max(map(len, cells)) for cells in zip(heading, *first, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(aligned).rstrip() + "\n"

    yield line(heading)
    yield from map(line, first)
    for row in waiting:
        yield line([_cell(row, column) for column in columns])


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if column == "path" and "path_bytes" in row:
        return str(value)  # escaped already
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool | dict | list):
        return escape(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return escape(str(value))
