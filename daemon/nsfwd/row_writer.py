"""``RowWriter``: writes rows as CSV, NDJSON or JSON, one by one, with memory that does not grow.

Bytes of names that are not UTF-8 are written as they were. Knows cells and headings, not what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from nsfwd import csvfile
from nsfwd.escaping import escape_json

Cells = Mapping[str, Any]


class RowWriter:
    """Writes rows to a file that stays the caller's.

    Args:
        columns: of CSV, in this order; JSON has the keys of each row.
        form: ``csv``, ``ndjson`` or ``json``, which is one array, valid also when ``close`` comes early.
        nulls: write a key whose value is None in JSON, instead of leaving it out.
        live: show each row at once.
    """

    def __init__(
        self, out: BinaryIO, columns: Sequence[str], form: str, *, nulls: bool = False, live: bool = False
    ) -> None:
        self._out, self._columns, self._form, self._nulls, self._live = out, columns, form, nulls, live
        self._before = "["
        if form == "csv":
            self._put(csvfile.row(columns))

    def write(self, row: Cells) -> None:
        """Write one row."""
        if self._form == "csv":
            self._put(csvfile.row(row.get(column) for column in self._columns))
        elif self._form == "json":
            self._put(f"{self._before}\n{self._object(row)}")
            self._before = ","
        else:
            self._put(self._object(row) + "\n")

    def close(self) -> None:
        """End the document."""
        if self._form == "json":
            self._put("[]\n" if self._before == "[" else "\n]\n")
        self._out.flush()

    def _object(self, row: Cells) -> str:
        kept = row if self._nulls else {key: value for key, value in row.items() if value is not None}
        return escape_json(json.dumps(kept, ensure_ascii=False, separators=(",", ":")))

    def _put(self, text: str) -> None:
        self._out.write(text.encode("utf-8", "surrogateescape"))
        if self._live:
            self._out.flush()


def write_rows(rows: Iterable[Cells], out: BinaryIO, columns: Sequence[str], form: str, *, nulls: bool = False) -> int:
    """Write rows as they come, and return how many they were; arguments as of ``RowWriter``."""
    writer, count = RowWriter(out, columns, form, nulls=nulls), 0
    for row in rows:
        writer.write(row)
        count += 1
    writer.close()
    return count
