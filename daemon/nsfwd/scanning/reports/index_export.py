"""An index as a table: CSV, NDJSON or Parquet, row by row, with memory that does not grow.

A name that is not UTF-8 stands as what people can read of it, and its bytes (base64) beside it. Times are UTC. Reads
only.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, BinaryIO

from nsfwd.errors import NsfwdError
from nsfwd.extras import install_command
from nsfwd.row_writer import write_rows
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.stat_columns import utc
from nsfwd.scanning.reports.where import Condition
from nsfwd.scanning.trees.file_entry import join, path_fields
from nsfwd.sqlite_store import Row

COLUMNS: dict[str, type] = {
    "path": str,
    "path_bytes": str,
    "status": str,
    "code": str,
    "verdict": str,
    "alarm": bool,
    "label": str,
    "score": float,
    "scores": str,
    "override": str,
    "sha256": str,
    "size": int,
    "mtime": datetime,
    "time": datetime,
    "models": str,
    "policy": str,
    "attempts": int,
    "run": int,
    "gone": int,
}
"""Name -> type. ``scores``, ``override`` and ``models`` are JSON; ``run`` judged the file, ``gone`` found it gone."""

_JSON = frozenset({"scores", "override", "models"})

GROUP = 20_000
"""Rows of a Parquet row group: large enough to be packed well, a few megabytes in memory."""

Record = dict[str, Any]


def records(index: Index, condition: Condition | None = None, *, since: float | None = None) -> Iterator[Record]:
    """Yield files as records; only those that are there, unless the condition names ``gone``.

    Args:
        since: judged then or later, in seconds since 1970.
    """
    wanted, values = ["1"], list(condition.values if condition else ())
    if condition is not None:
        wanted.append(f"({condition.sql})")
    if condition is None or "gone" not in condition.columns:
        wanted.append("file.gone IS NULL")
    if since is not None:
        wanted.append("file.time >= ?")
        values.append(since)
    models = _Models(index)
    for row in index.read(f"{_QUERY} WHERE {' AND '.join(wanted)} ORDER BY file.id", values):
        yield _record(row, models)


_QUERY = """
    SELECT directory.path, name, status, file.code, verdict, alarm, label, score, override, digest, size, mtime_ns,
        file.time, models, policy.identity, attempts, file.run, gone
    FROM file JOIN directory ON directory.id = file.directory LEFT JOIN policy ON policy.id = file.policy
"""


class _Models:
    """The identities of models, and their scores of a content."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known = {
            number: (identity, json.loads(labels))
            for number, identity, labels in index.read("SELECT id, identity, labels FROM model")
        }

    def identities(self, models: str) -> dict[str, str]:
        """Short name -> identity."""
        return {name: self._known[number][0] for name, number in json.loads(models).items()}

    def scores(self, models: str, digest: bytes) -> dict[str, dict[str, float]]:
        """Short name -> label -> score, of those that are there."""
        scores = {}
        for name, number in json.loads(models).items():
            labels = self._known[number][1]
            row = self._index.one("SELECT scores FROM score WHERE digest = ? AND model = ?", (digest, number))
            if row is not None and len(row[0]) == 8 * len(labels):
                scores[name] = dict(zip(labels, struct.unpack(f"<{len(labels)}d", row[0]), strict=True))
        return scores


def _record(row: Row, models: _Models) -> Record:
    directory, name, status, code, verdict, alarm, label, score, override, digest, size, mtime, time, judged, *rest = (
        row
    )
    path = path_fields(join(directory, name))
    return {
        "path": path["path"],
        "path_bytes": path.get("path_bytes"),
        "status": status,
        "code": code,
        "verdict": verdict,
        "alarm": bool(alarm) if verdict is not None else None,
        "label": label,
        "score": score,
        "scores": models.scores(judged, digest) if judged and digest else None,
        "override": json.loads(override) if override else None,
        "sha256": digest.hex() if digest else None,
        "size": size,
        "mtime": utc(int(mtime)),
        "time": utc(round(time * 1e9)),
        "models": models.identities(judged) if judged else None,
        **dict(zip(("policy", "attempts", "run", "gone"), rest, strict=True)),
    }


def _plain(record: Record) -> Record:
    """Return a record with times in ISO 8601."""
    return record | {name: moment.isoformat() for name in ("mtime", "time") if (moment := record[name]) is not None}


def _flat(record: Record) -> Record:
    """Return a record with nested values as JSON."""
    return {
        name: json.dumps(value, ensure_ascii=False) if name in _JSON and value is not None else value
        for name, value in record.items()
    }


def write_parquet(rows: Iterable[Record], out: BinaryIO) -> None:
    """Write Parquet in row groups, compressed with zstd.

    Raises:
        NsfwdError: pyarrow, the extra ``parquet``, is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise NsfwdError(f"Parquet needs pyarrow; install it: {install_command('parquet')}") from None
    types = {str: arrow.string(), bool: arrow.bool_(), float: arrow.float64(), int: arrow.int64()}
    types[datetime] = arrow.timestamp("us", tz="UTC")
    schema = arrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    source = iter(rows)
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        while group := [_flat(record) for record in islice(source, GROUP)]:
            writer.write_table(arrow.Table.from_pylist(group, schema=schema))


def _write_rows(rows: Iterable[Record], out: BinaryIO, form: str) -> None:
    write_rows(map(_plain, rows), out, tuple(COLUMNS), form)


WRITERS: dict[str, Callable[[Iterable[Record], BinaryIO], None]] = {
    "csv": lambda rows, out: _write_rows(rows, out, "csv"),
    "ndjson": lambda rows, out: _write_rows(rows, out, "ndjson"),
    "parquet": write_parquet,
}
