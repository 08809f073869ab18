"""``ChangeDetector``: walks ahead of a sweep and compares the files it finds with the index; most are unchanged.

For a thread of its own, with a connection of its own that only reads: one query a directory, plain tuples compared, no
row written for what has not changed. Knows the walk and the index, no daemon.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.file_table import CULPRIT, SETTLED
from nsfwd.scanning.index.stat_columns import stored_identity
from nsfwd.scanning.trees.file_entry import FileEntry, join
from nsfwd.scanning.trees.file_io import is_there
from nsfwd.scanning.trees.walk import Entry, Walk, WalkedTree, WalkPart
from nsfwd.sqlite_store import Row

FILES = 256
"""Files of one batch."""

SECONDS = 0.1
"""Seconds after which a smaller batch is passed on: counts go on, and the run can stop."""

NAMES = 500
"""Names of a large directory that one query asks about."""

_COLUMNS = f"name, dev, ino, size, mtime_ns, ctime_ns, {SETTLED}, alarm, verdict, {CULPRIT}, id, gone IS NULL"
_HOLDS, _ALARM, _VERDICT, _CULPRIT, _ID, _THERE = range(6, 12)


@dataclass(frozen=True, slots=True)
class Ended:
    """A directory that was walked as far as possible.

    Attributes:
        code: of the error that kept it from being read to its end. ``gone``: rows of files that are no longer there.
    """

    directory: bytes
    code: str | None
    gone: Sequence[int] = ()


@dataclass(slots=True)
class ChangeBatch:
    """The files and directories that were found since the last batch.

    Attributes:
        files: to be looked at closely. ``unchanged``: files that are as the index knows them, of which ``alarms`` are
            one and ``unreported`` were left unscored by a run that was killed before it reported them.
        excluded: files that were left out. ``ended``: directories; after all their files in this and earlier batches.
    """

    files: list[FileEntry] = field(default_factory=list)
    unchanged: int = 0
    alarms: int = 0
    unreported: int = 0
    excluded: int = 0
    ended: list[Ended] = field(default_factory=list)


@dataclass(slots=True)
class _Large:
    """A directory of many parts: how many rows it had when it was begun, and how many of these were met."""

    number: int
    rows: int
    newest: int
    met: int = 0


class ChangeDetector:
    """One walk beside an index.

    Args:
        index: its file.
        present: the parameters of ``file_table.SETTLED``.
        wants: whether something is to be done about a verdict: such files are looked at closely, changed or not.
        unreported: runs that were killed before they reported what they left unscored.
    """

    def __init__(
        self,
        index: Path,
        tree: WalkedTree,
        present: Mapping[str, Any],
        *,
        wants: Callable[[str, bool], bool],
        unreported: frozenset[int] = frozenset(),
    ) -> None:
        self.walk = Walk(tree)
        self._path, self._present, self._unreported = index, present, unreported
        self._wants = wants
        self._wanted: dict[tuple[str | None, int], bool] = {}
        self._large: _Large | None = None

    def batches(self) -> Generator[ChangeBatch, None, None]:
        """Walk. The last batch may be empty."""
        with Index(self._path, create=False) as index:
            batch, since = ChangeBatch(), time.monotonic()
            for part in self.walk:
                self._compare(index, part, batch)
                if len(batch.files) >= FILES or time.monotonic() - since > SECONDS:
                    yield from _pieces(batch)
                    batch, since = ChangeBatch(), time.monotonic()
            yield from _pieces(batch)

    def _compare(self, index: Index, part: WalkPart, batch: ChangeBatch) -> None:
        batch.excluded += part.excluded
        number = index.one("SELECT id FROM directory WHERE path = ?", (part.directory,))
        gone: list[int] = []
        if number is None:
            batch.files += (FileEntry(part.directory, *entry) for entry in part.entries)
        elif part.whole:
            query = f"SELECT {_COLUMNS} FROM file WHERE directory = :directory"
            rows = {row[0]: row for row in index.rows(query, {**self._present, "directory": number[0]})}
            self._sort(part, rows, batch)
            gone = self._missing(part.directory, [row for row in rows.values() if row[_THERE]])
        else:
            gone = self._compare_large(index, part, number[0], batch)
        if part.last:
            batch.ended.append(Ended(part.directory, part.code, gone if part.code is None else ()))

    def _sort(self, part: WalkPart, rows: dict[bytes, Row], batch: ChangeBatch) -> None:
        """Part unchanged files from the others; the rows that are left in ``rows`` were not found."""
        take, wanted, unreported = rows.pop, self._wanted, self._unreported
        for entry in part.entries:
            row = take(entry[0], None)
            if row is None or not row[_HOLDS] or (row[:_HOLDS] != entry and row[:_HOLDS] != _stored(entry)):
                batch.files.append(FileEntry(part.directory, *entry))
                continue
            verdict = row[_VERDICT], row[_ALARM]
            if verdict not in wanted:
                wanted[verdict] = verdict[0] is not None and self._wants(verdict[0], bool(verdict[1]))
            if wanted[verdict]:
                batch.files.append(FileEntry(part.directory, *entry))
                continue
            batch.unchanged += 1
            batch.alarms += row[_ALARM]
            batch.unreported += row[_CULPRIT] in unreported

    def _compare_large(self, index: Index, part: WalkPart, number: int, batch: ChangeBatch) -> list[int]:
        """As for a small one, with memory that does not grow with the directory."""
        large = self._large
        if part.first or large is None:
            query = "SELECT count(*), coalesce(max(id), 0) FROM file WHERE directory = ? AND gone IS NULL"
            rows, newest = index.one(query, (number,)) or (0, 0)
            large = self._large = _Large(number, rows, newest)
        for start in range(0, len(part.entries), NAMES):
            piece = WalkPart(part.directory, part.entries[start : start + NAMES])
            found = self._named(index, number, [entry[0] for entry in piece.entries])
            large.met += sum(1 for row in found.values() if row[_THERE] and row[_ID] <= large.newest)
            self._sort(piece, found, batch)
        if not part.last:
            return []
        self._large = None
        return [] if large.met == large.rows else self._missing(part.directory, self._all(index, large))

    def _named(self, index: Index, number: int, names: Sequence[bytes]) -> dict[bytes, Row]:
        marks = ", ".join(f":n{place}" for place in range(len(names)))
        query = f"SELECT {_COLUMNS} FROM file WHERE directory = :directory AND name IN ({marks})"
        values = {**self._present, "directory": number, **{f"n{place}": name for place, name in enumerate(names)}}
        return {row[0]: row for row in index.rows(query, values)}

    def _all(self, index: Index, large: _Large) -> Iterator[Row]:
        query = f"SELECT {_COLUMNS} FROM file WHERE directory = :directory AND gone IS NULL AND id <= :newest"
        return index.read(query, {**self._present, "directory": large.number, "newest": large.newest})

    def _missing(self, directory: bytes, rows: Sequence[Row] | Iterator[Row]) -> list[int]:
        return [row[_ID] for row in rows if not is_there(join(directory, row[0]), follow=self.walk.follow)]


def _pieces(batch: ChangeBatch) -> Iterator[ChangeBatch]:
    """Yield the files of a large part a few at a time; counts and ends with the last."""
    while len(batch.files) > FILES:
        yield ChangeBatch(batch.files[:FILES])
        del batch.files[:FILES]
    yield batch


def _stored(entry: Entry) -> Row:
    """Return an entry as its row has it; only numbers beyond 63 bits are another there."""
    return (entry[0], *stored_identity(*entry[1:]))
