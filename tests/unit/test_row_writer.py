"""Rows as CSV, NDJSON and JSON: one writer for tables, exports, samples, lists and replies."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from nsfwd.row_writer import RowWriter, write_rows

ROWS: list[dict[str, Any]] = [
    {"path": "a\udcff.jpg", "alarm": True, "score": 0.5, "more": {"b": [1]}},
    {"path": "=1+1", "alarm": False, "score": None, "more": None},
]
COLUMNS = ("path", "alarm", "score", "more")


def written(form: str, *, rows: list[dict[str, Any]] = ROWS, nulls: bool = False) -> bytes:
    out = io.BytesIO()
    assert write_rows(rows, out, COLUMNS, form, nulls=nulls) == len(rows)
    return out.getvalue()


def test_csv_has_a_heading_and_the_bytes_of_names() -> None:
    assert written("csv") == b'path,alarm,score,more\na\xff.jpg,true,0.5,"{""b"":[1]}"\n\'=1+1,false,,\n'
    assert written("csv", rows=[]) == b"path,alarm,score,more\n"


def test_ndjson_leaves_out_what_is_none_or_writes_null() -> None:
    assert written("ndjson").splitlines()[1] == b'{"path":"=1+1","alarm":false}'
    assert json.loads(written("ndjson", nulls=True).splitlines()[1])["score"] is None
    assert written("ndjson", rows=[]) == b""


def test_json_is_one_array_also_when_it_is_empty() -> None:
    assert written("json", rows=[]) == b"[]\n"
    assert [row["alarm"] for row in json.loads(written("json").decode("utf-8", "replace"))] == [True, False]


class Watched(io.BytesIO):
    """Counts what is flushed."""

    flushed = 0

    def flush(self) -> None:
        self.flushed += 1


def test_json_is_valid_when_the_rows_are_cut_short_and_live_rows_are_shown_at_once() -> None:
    out = Watched()
    writer = RowWriter(out, COLUMNS, "json", live=True)
    writer.write(ROWS[1])
    assert out.flushed == 1
    writer.close()
    assert json.loads(out.getvalue()) == [{"path": "=1+1", "alarm": False}]


def test_rows_are_written_as_they_come() -> None:
    out = io.BytesIO()

    def rows() -> Iterator[dict[str, Any]]:
        yield ROWS[1]
        assert out.getvalue().count(b"\n") == 2
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_rows(rows(), out, COLUMNS, "csv")
