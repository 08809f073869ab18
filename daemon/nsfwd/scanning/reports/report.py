"""The report of an index as one page: counts, runs, the distribution of scores, and the worst files first.

Reads only. Writes what it finds piece by piece: memory does not grow with the index.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from nsfwd.errors import CodedError
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.stat_columns import loaded_found, local
from nsfwd.scanning.reports import page
from nsfwd.scanning.reports.thumbnails import Thumbnails, data_uri
from nsfwd.scanning.trees.file_entry import FileEntry

BINS = 50
RUNS = 20
"""Runs that are shown, the latest first."""

Shown = Literal["clear", "blurred", "none"]
"""Of a picture: ``clear`` pixels that the page blurs until a click, ``blurred`` ones that nothing makes clear, none."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Options of a report.

    Attributes:
        worst: how many pictures. ``shown``: of each.
        verdicts: only of these; of all when empty.
    """

    worst: int = 100
    shown: Shown = "clear"
    verdicts: tuple[str, ...] = ()


def report(index: Index, wanted: ReportOptions) -> Iterator[str]:
    """Yield the page."""
    yield from page.document(f"nsfwd: {index.path}", _pieces(index, wanted))


def _pieces(index: Index, wanted: ReportOptions) -> Iterator[str]:
    yield page.paragraph(f"As of {local(time.time())}.", dim=True)
    yield page.heading("Files")
    yield from page.table(("status", "verdict", "", "code", "files"), _counts(index))
    yield page.heading("Scores")
    yield page.paragraph("Of the group that decided; files in powers of ten. Red: mostly alarms.", dim=True)
    yield _spread(index)
    yield page.heading("Runs")
    columns = ("run", "kind", "began", "ended", "why", "found", "scored", "skipped", "errors", "alarms", "acted")
    yield from page.table(columns, _runs(index))
    if wanted.shown == "clear":
        yield page.paragraph("A click makes a picture clear, another blurs it again.", dim=True)
    with Thumbnails() as thumbnails:
        yield page.heading("Worst first")
        yield from page.gallery(_worst(index, wanted, thumbnails))
        yield page.heading("Taken away")
        yield page.paragraph("Moved or quarantined, and not restored; the latest first.", dim=True)
        yield from page.gallery(_taken(index, wanted, thumbnails))


def _counts(index: Index) -> Iterator[tuple[object, ...]]:
    rows = index.read(
        """
        SELECT status, verdict, alarm, code, count(*) FROM file WHERE gone IS NULL
        GROUP BY status, verdict, alarm, code ORDER BY alarm DESC, status, count(*) DESC
        """
    )
    for status, verdict, alarm, code, files in rows:
        yield status, verdict, bool(alarm), code, files


def _spread(index: Index) -> str:
    rows = index.read(
        """
        SELECT max(0, min(CAST(score * ? AS INTEGER), ?)) AS bin, count(*), sum(alarm) FROM file
        WHERE status = 'ok' AND gone IS NULL AND score IS NOT NULL GROUP BY bin
        """,
        (BINS, BINS - 1),
    )
    counts, alarms = {}, {}
    for place, files, alarm in rows:
        counts[place], alarms[place] = files, alarm
    return page.histogram(counts, alarms, BINS)


def _runs(index: Index) -> Iterator[tuple[object, ...]]:
    rows = index.read(
        """
        SELECT id, kind, started, ended, why, found, ok, skipped, errors, alarms, acted
        FROM run ORDER BY id DESC LIMIT ?
        """,
        (RUNS,),
    )
    for number, kind, started, ended, why, *counts in rows:
        yield str(number), kind, local(started), local(ended) if ended else None, why, *counts


def _worst(index: Index, wanted: ReportOptions, thumbnails: Thumbnails) -> Iterator[page.PagePicture]:
    chosen = f"AND verdict IN ({', '.join('?' * len(wanted.verdicts))})" if wanted.verdicts else ""
    rows = index.read(
        f"""
        SELECT directory.path, name, dev, ino, size, mtime_ns, ctime_ns, verdict, alarm, label, score,
            override IS NOT NULL
        FROM file JOIN directory ON directory.id = file.directory WHERE status = 'ok' AND gone IS NULL {chosen}
        ORDER BY alarm DESC, score DESC, file.id LIMIT ?
        """,
        (*wanted.verdicts, wanted.worst),
    )
    for row in rows:
        found, (verdict, alarm, label, score, overridden) = loaded_found(row[:7]), row[7:]
        lines = _lines(verdict, score, label, "decided by a person" if overridden else None)
        yield picture(thumbnails, found, wanted.shown, lines, alarm=bool(alarm))


def _taken(index: Index, wanted: ReportOptions, thumbnails: Thumbnails) -> Iterator[page.PagePicture]:
    """Yield pictures of files that actions moved, read from where they are now, under their former names."""
    chosen = f"AND action.verdict IN ({', '.join('?' * len(wanted.verdicts))})" if wanted.verdicts else ""
    rows = index.read(
        f"""
        SELECT action.path, target, action.verdict, action.run, kind, label, score FROM action
            LEFT JOIN file ON file.id = (SELECT max(id) FROM file WHERE file.digest = action.digest)
        WHERE kind IN ('move', 'quarantine') AND outcome = 'done' AND restored IS NULL AND target IS NOT NULL {chosen}
        ORDER BY action.id DESC LIMIT ?
        """,
        (*wanted.verdicts, wanted.worst),
    )
    for path, target, verdict, run, kind, label, score in rows:
        lines = _lines(verdict, score, label, kind if run is None else f"{kind}, run {run}")
        yield lying(thumbnails, target, wanted.shown, lines, name=path)


def _lines(verdict: str, score: float | None, *more: str | None) -> tuple[str, ...]:
    first = verdict if score is None else f"{verdict} {score:.3f}"
    return tuple(filter(None, (first, *more)))


def lying(
    thumbnails: Thumbnails, path: bytes, shown: Shown, lines: tuple[str, ...], *, name: bytes | None = None
) -> page.PagePicture:
    """Return a picture of the file that is at a path now.

    Args:
        name: what it is called in the page; its path when left out.
    """
    called = os.fsdecode(path if name is None else name)
    try:
        found = os.lstat(path)
    except OSError as error:
        return page.PagePicture(called, "", lines, missing=os.strerror(error.errno or 0))
    lies = FileEntry.of(path, found)
    return replace(picture(thumbnails, lies, shown, lines), name=called)


def picture(
    thumbnails: Thumbnails, found: FileEntry, shown: Shown, lines: tuple[str, ...], *, alarm: bool = False
) -> page.PagePicture:
    """Return a picture of a file that was judged, or the reason why it cannot be shown."""
    name = os.fsdecode(found.path)
    if shown == "none":
        return page.PagePicture(name, "", lines, alarm, "not shown")
    try:
        pixels = thumbnails.pixels(found.path, found.identity)
    except CodedError as error:
        return page.PagePicture(name, "", lines, alarm, error.message)
    return page.PagePicture(name, data_uri(pixels, blurred=shown == "blurred"), lines, alarm)
