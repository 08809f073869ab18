"""``differences``: the files whose state after one run differs from that after another run.

Reads only, row by row. Files that stayed as they were have no history in between and cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from nsfwd.errors import NsfwdError
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.trees.file_entry import join


class What(StrEnum):
    """Kind of a difference."""

    NEW = "new"
    GONE = "gone"
    VERDICT = "verdict"
    STATUS = "status"
    """Another status or code: the file was scored and now is not, or the reverse."""


class Difference(NamedTuple):
    """One file; ``before`` and ``after`` are verdicts, or status and code where it has none, empty where it is not."""

    what: What
    path: bytes
    before: str
    after: str


class _State(NamedTuple):
    status: str
    code: str | None
    verdict: str | None

    def __str__(self) -> str:
        return self.verdict or f"{self.status} {self.code}"


def differences(index: Index, first: int, second: int) -> Iterator[Difference]:
    """Yield the files whose state after the run ``second`` differs from that after ``first``.

    Raises:
        NsfwdError: a run is missing, or the first is the later one; the caller's fault.
        IndexFailure: as ever.
    """
    for run in (first, second):
        if index.one("SELECT id FROM run WHERE id = ?", (run,)) is None:
            raise NsfwdError(f"{index.path}: there is no run {run}")
    if first >= second:
        raise NsfwdError(f"run {first} is not before run {second}")
    return _differences(index, first, second)


def _differences(index: Index, first: int, second: int) -> Iterator[Difference]:
    for file, directory, name in index.read(_TOUCHED, (first, second)):
        before, after = _state(index, file, first), _state(index, file, second)
        what = _what(before, after)
        if what is not None:
            path = join(directory, name)
            yield Difference(what, path, str(before) if before else "", str(after) if after else "")


_TOUCHED = """
    SELECT touched.file, directory.path, file.name
    FROM (SELECT DISTINCT file FROM history WHERE run > ? AND run <= ?) AS touched
        JOIN file ON file.id = touched.file JOIN directory ON directory.id = file.directory
"""


def _state(index: Index, file: int, run: int) -> _State | None:
    row = index.one(
        "SELECT gone, status, code, verdict FROM history WHERE file = ? AND run <= ? ORDER BY run DESC LIMIT 1",
        (file, run),
    )
    return None if row is None or row[0] else _State(*row[1:])


def _what(before: _State | None, after: _State | None) -> What | None:
    if before == after:
        return None
    if before is None:
        return What.NEW
    if after is None:
        return What.GONE
    return What.VERDICT if before.verdict and after.verdict else What.STATUS
