"""Lists of overrides in NDJSON and CSV, to keep, to look through and to take to another store.

    {"sha256": "9f86...", "verdict": "safe", "reason": "a statue", "by": "eva", "time": 1760000000.0,
     "expires": null, "path": "/srv/a.jpg"}

CSV has the same names as its heading. A time is written in seconds since 1970, and read in ISO 8601 as well. What is
read may leave out everything but ``sha256`` and ``verdict``, and may have been saved by a spreadsheet. Knows no store.
"""

from __future__ import annotations

import base64
import binascii
import io
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, BinaryIO

from nsfwd import csvfile
from nsfwd.errors import CodedError, OverridesFailure
from nsfwd.escaping import escape_wire
from nsfwd.overrides.override_store import check, parse_digest
from nsfwd.protocol import jsonio
from nsfwd.protocol.messages import Override
from nsfwd.row_writer import write_rows

PATH_BYTES = "path_bytes"
"""The path in base64, where it is not UTF-8."""

COLUMNS = ("sha256", "verdict", "reason", "by", "time", "expires", "path", PATH_BYTES)
REQUIRED = COLUMNS[:2]


def write(overrides: Iterable[Override], out: BinaryIO, form: str) -> int:
    """Write a list as ``ndjson``, ``csv`` or ``json``; return how many there were."""
    return write_rows(map(as_dict, overrides), out, COLUMNS, form, nulls=True)


def read(source: BinaryIO, form: str) -> Iterator[Override]:
    """Read a list, ``ndjson`` or ``csv``.

    Raises:
        OverridesFailure: while iterating: a line is not an override; the message has its number.
    """
    number = 0
    try:
        for number, row in csvfile.read(source, REQUIRED) if form == "csv" else _objects(source):  # noqa: B007
            yield check(_override(row))
    except OverridesFailure as error:
        raise OverridesFailure(f"line {number}: {error}") from error
    except csvfile.TableError as error:
        raise OverridesFailure(str(error)) from error


def as_dict(override: Override) -> dict[str, Any]:
    """Return an override as a row of a list; a path that is not UTF-8 is given in base64 as well."""
    row = {
        "sha256": override.digest.hex(),
        "verdict": override.verdict,
        "reason": override.reason,
        "by": override.by,
        "time": override.time,
        "expires": override.expires,
        "path": "",
    }
    try:
        row["path"] = override.path.decode()
    except UnicodeDecodeError:
        row["path"] = escape_wire(override.path)
        row[PATH_BYTES] = base64.b64encode(override.path).decode()
    return row


def parse_time(text: str) -> float:
    """Read a time: seconds since 1970, or ISO 8601; without a zone it is local time.

    Raises:
        OverridesFailure: it is none.
    """
    try:
        return float(text.replace(",", "."))  # a spreadsheet writes the decimal comma of its country
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise OverridesFailure(f"invalid time {text!r}: write seconds since 1970 or 2031-12-24T18:00") from None


def _objects(source: BinaryIO) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(io.StringIO(csvfile.read_text(source)), 1):
        if line.strip():
            try:
                yield number, jsonio.loads(line.encode())
            except CodedError:
                yield number, None


def _override(row: Any) -> Override:
    if not isinstance(row, dict):
        raise OverridesFailure("not a JSON object")
    unknown = row.keys() - set(COLUMNS)
    if unknown:
        raise OverridesFailure(f"unknown name {min(unknown)!r}")
    for name in REQUIRED:
        if name not in row:
            raise OverridesFailure(f"{name} is missing")
    return Override(
        parse_digest(_text(row, "sha256")),
        _text(row, "verdict"),
        _text(row, "reason"),
        _text(row, "by"),
        _time(row, "time") or time.time(),
        _time(row, "expires"),
        _path(row),
    )


def _text(row: dict[str, Any], name: str) -> str:
    text = row.get(name, "")
    if not isinstance(text, str):
        raise OverridesFailure(f"{name} must be a text")
    return text


def _time(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        return parse_time(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OverridesFailure(f"{name} must be a time")
    return float(value)


def _path(row: dict[str, Any]) -> bytes:
    if PATH_BYTES not in row:
        return _text(row, "path").encode()
    try:
        return base64.b64decode(_text(row, PATH_BYTES), validate=True)
    except (binascii.Error, ValueError):
        raise OverridesFailure(f"{PATH_BYTES} must be base64") from None
