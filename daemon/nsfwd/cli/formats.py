"""How the replies of a scan are spelled on stdout: text, JSON, NDJSON, CSV. Each writer streams.

Knows replies, but neither the daemon nor what an exit code is.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Protocol

from nsfwd.logs import escape

if TYPE_CHECKING:
    from nsfwd.client.replies import Reply

COLUMNS = ("path", "status", "verdict", "alarm", "label", "score", "code", "message")


class Writer(Protocol):
    """Spells replies one by one; ``close`` ends the document."""

    def write(self, reply: Reply) -> None:
        """Spell one reply."""

    def close(self) -> None:
        """End the document."""


class _Stream:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def _put(self, text: str) -> None:
        """Write through at once; bytes of names that are no UTF-8 become again what they were."""
        self._out.write(text.encode("utf-8", "surrogateescape"))
        self._out.flush()

    def close(self) -> None:
        """Nothing to end."""


class TextWriter(_Stream):
    """One line an image for people; a name can neither forge a line nor reach the terminal's controls."""

    def write(self, reply: Reply) -> None:
        """Spell one reply."""
        if reply.scored:
            mark = " ALARM" if reply.alarm else ""
            what = f"{reply.verdict} ({reply.label} {reply.score:.1%}){mark}"
        else:
            what = f"{reply.status} {reply.code}: {reply.message}"
        self._put(f"{escape(reply.path)}: {escape(what)}\n")


class NdjsonWriter(_Stream):
    """One JSON object a line, as the daemon sent it, without the id."""

    def write(self, reply: Reply) -> None:
        """Spell one reply."""
        self._put(_json(reply) + "\n")


class JsonWriter(_Stream):
    """One JSON array of the same objects, valid also when the run is cut short by an error."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__(out)
        self._before = "["

    def write(self, reply: Reply) -> None:
        """Spell one reply."""
        self._put(f"{self._before}\n{_json(reply)}")
        self._before = ","

    def close(self) -> None:
        """End the array."""
        self._put("[]\n" if self._before == "[" else "\n]\n")


class CsvWriter(_Stream):
    """A table with a heading; names are written as they are, quoted where CSV needs it."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__(out)
        self._row(COLUMNS)

    def write(self, reply: Reply) -> None:
        """Spell one reply."""
        score = (
            (reply.verdict, str(reply.alarm).lower(), reply.label, reply.score) if reply.scored else ("", "", "", "")
        )
        self._row((reply.path, reply.status, *score, reply.code, reply.message))

    def _row(self, cells: tuple[object, ...]) -> None:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(cells)
        self._put(line.getvalue())


WRITERS: dict[str, Callable[[BinaryIO], Writer]] = {
    "text": TextWriter,
    "json": JsonWriter,
    "ndjson": NdjsonWriter,
    "csv": CsvWriter,
}


def _json(reply: Reply) -> str:
    keys = {key: value for key, value in reply.raw.items() if key not in ("id", "done")}
    return json.dumps(keys, ensure_ascii=False, separators=(",", ":"))
