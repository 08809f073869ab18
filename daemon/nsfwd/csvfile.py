"""CSV tables: one writer for all tables of nsfwd, and one reader for tables that people edit.

The writer uses commas, UTF-8 and LF, and quotes every cell with a line end. A text that a spreadsheet would take for a
formula (``=1+1``, ``@SUM``) gets an apostrophe in front, and the reader removes it again. The reader also accepts the
variants that spreadsheets save: a byte order mark, UTF-16, Windows-1252, semicolons or tabs, a first line ``sep=;``,
headings in capitals, empty rows and columns. Knows no column.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from nsfwd.quantities import format_size

LONGEST = 256 * 1024 * 1024
"""Most bytes of a table or list that is read; it is held in memory."""

_DELIMITERS = ",;\t|"
_GUARDED = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""Source: OWASP, CSV Injection; the apostrophes make it reversible."""

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class TableError(ValueError):
    """A table or list cannot be read. Its author's fault; the message names the line where there is one."""


def row(cells: Iterable[object]) -> str:
    """Return one row with its line end; None is an empty cell, true and false are written as JSON writes them."""
    line = io.StringIO(newline="")
    csv.writer(line).writerow(map(_cell, cells))  # its line end is CR LF, so a cell with either of them is quoted
    return line.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return "'" + value if isinstance(value, str) and _GUARDED.match(value) else value


def read_text(source: BinaryIO) -> str:
    """Read a text that people edit, in the encodings of usual programs.

    Raises:
        TableError: it is too long or not a text.
    """
    data = source.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise TableError(f"longer than {format_size(LONGEST)}; split it")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    for name in (encoding,) if encoding else ("utf-8", "cp1252"):
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise TableError("not a text in UTF-8, UTF-16 or Windows-1252")


def read(source: BinaryIO, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table that people edit, each with the number of its last line; empty cells are left out.

    Args:
        required: columns that it must have.

    Raises:
        TableError: while iterating: the table is invalid.
    """
    text = read_text(source)
    declared = re.match(r'"?sep=(.)"?\r?\n', text, re.IGNORECASE)  # for spreadsheets; no other program knows it
    before = 1 if declared else 0
    text = text[declared.end() :] if declared else text
    delimiter = declared[1] if declared else _delimiter(text, required)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    try:
        for cells in table:
            if not any(map(str.strip, cells)):
                continue
            if names is None:
                names = _heading(cells, required)
            else:
                yield table.line_num + before, _named(names, cells, table.line_num + before)
    except csv.Error as error:
        raise TableError(f"after line {table.line_num + before - 1}: {error}") from error


def _delimiter(text: str, required: Sequence[str]) -> str:
    """Return the delimiter that gives the heading most of the required columns."""
    heading = next((line for line in re.split(r"[\r\n]+", text) if line.strip(_DELIMITERS + " ")), "")

    def fitting(delimiter: str) -> int:
        return len({name.strip(' "').lower() for name in heading.split(delimiter)} & set(required))

    return max(_DELIMITERS, key=fitting)


def _heading(cells: Sequence[str], required: Sequence[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    for name in required:
        if name not in names:
            raise TableError(f"the column {name} is missing in the heading")
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise TableError(f"the heading has the column {min(twice)} twice")
    return names


def _named(names: Sequence[str], cells: Sequence[str], line: int) -> dict[str, str]:
    if any(cells[len(names) :]) or any(cell for name, cell in zip(names, cells, strict=False) if not name):
        raise TableError(f"line {line}: more cells than the heading has")
    return {name: _unguarded(cell) for name, cell in zip(names, cells, strict=False) if cell}


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _GUARDED.match(cell) else cell
