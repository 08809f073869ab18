"""Numbers of stat(2) in columns of 64 signed bits, whatever a file system reports, and times as people read them.

Devices and inodes use all 64 bits of an unsigned number: they are stored as the signed number of the same bits. Times
in nanoseconds may need 94 bits (tmpfs keeps any second): one that does not fit is stored as its decimal digits in a
BLOB, which SQLite compares and never converts. What is stored is read back exactly. Knows no table.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.sqlite_store import Row

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_UNSIGNED = 1 << 64

NANOSECONDS = (
    "CASE typeof(file.mtime_ns) WHEN 'blob' THEN CAST(CAST(file.mtime_ns AS TEXT) AS REAL) ELSE file.mtime_ns END"
)
"""SQL of a file's modification time as a number that sorts and compares; a time of a BLOB is rounded."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def stored_identity(dev: int, ino: int, size: int, mtime_ns: int, ctime_ns: int) -> tuple[int | bytes, ...]:
    """Return device, inode, size and times as the columns keep them."""
    return _stored_bits(dev), _stored_bits(ino), size, _stored_time(mtime_ns), _stored_time(ctime_ns)


def identity_of(found: FileEntry) -> tuple[int | bytes, ...]:
    """Return the identity of a file as the columns keep it."""
    return stored_identity(found.dev, found.ino, found.size, found.mtime_ns, found.ctime_ns)


def loaded_identity(columns: Row) -> tuple[int, int, int, int, int]:
    """Return device, inode, size and times as stat(2) reported them."""
    dev, ino, size, mtime, ctime = columns
    return dev % _UNSIGNED, ino % _UNSIGNED, size, int(mtime), int(ctime)


def loaded_found(columns: Row) -> FileEntry:
    """Return a file from the columns directory, name, dev, ino, size, mtime_ns and ctime_ns."""
    return FileEntry(columns[0], columns[1], *loaded_identity(columns[2:7]))


def utc(nanoseconds: int) -> datetime | None:
    """Return a time of a file as a date; None outside the years 1 to 9999, which no date can express."""
    try:
        return _EPOCH + timedelta(microseconds=(nanoseconds + 500) // 1000)
    except OverflowError:
        return None


def local(seconds: float) -> str:
    """Return a time as ISO 8601 with the offset of the local time zone; the plain seconds where no date can."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"


def _stored_bits(number: int) -> int:
    return number if number <= _MOST else number - _UNSIGNED


def _stored_time(nanoseconds: int) -> int | bytes:
    return nanoseconds if _LEAST <= nanoseconds <= _MOST else b"%d" % nanoseconds
