"""``Run``: the row of a run (start, counts, reason of its end), and the lock that keeps two sweeps off one tree.

A run holds a lock for as long as its process lives, whatever ends it, on one byte of a file beside the index: the byte
that has the run's number. So a run without an end and without its lock was killed. Knows no walk and no daemon.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from nsfwd.errors import IndexFailure, SweepRuns
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.stat_columns import local
from nsfwd.scanning.trees.file_entry import within

_LOCK = struct.Struct("hhqqi4x")
"""``struct flock`` of Linux where a long has 64 bits."""


@dataclass(slots=True)
class RunCounts:
    """The counts of a run so far. Each file is in exactly one of the first six.

    Attributes:
        unchanged: as the index knows it. known: new path or inode, content judged before.
        ok, skipped, errors: asked about in this run. excluded: left out by a pattern.
        alarms: among ``known`` and ``ok``.
        acted: on which something was done.
    """

    unchanged: int = 0
    known: int = 0
    ok: int = 0
    skipped: int = 0
    errors: int = 0
    excluded: int = 0
    alarms: int = 0
    acted: int = 0

    @property
    def found(self) -> int:
        """All files."""
        return self.unchanged + self.settled + self.excluded

    @property
    def settled(self) -> int:
        """Files that got a new row, or whose row changed."""
        return self.known + self.ok + self.skipped + self.errors


_COLUMNS = ("found", *(each.name for each in fields(RunCounts)))


class Run:
    """The row of a run that is under way; ``begin`` makes one. Every method may raise ``IndexFailure``."""

    def __init__(self, index: Index, number: int, lock: int) -> None:
        self.id = number
        self.counts = RunCounts()
        self._index, self._lock = index, lock

    @classmethod
    def begin(cls, index: Index, kind: str, roots: Sequence[bytes], *, daemon: str | None = None) -> Run:
        """Write the row.

        Raises:
            SweepRuns: a sweep of one of these trees, of one above or of one below runs already.
        """
        lock = _open(index.path)
        try:
            with index.transaction():
                if kind == "sweep":
                    _refuse_second(index, roots, lock)
                number = index.write(
                    "INSERT INTO run (kind, roots, started, pid, daemon) VALUES (?, ?, ?, ?, ?)",
                    (kind, b"\0".join(roots), time.time(), os.getpid(), daemon),
                )
                fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _byte(fcntl.F_WRLCK, number))
        except BaseException:
            os.close(lock)
            raise
        return cls(index, number, lock)

    def judged_by(self, daemon: str, models: str, policy: int | None) -> None:
        """Write the daemon, models and policy, within a transaction; the last ones count."""
        self._index.write(
            "UPDATE run SET daemon = ?, models = ?, policy = ? WHERE id = ?", (daemon, models, policy, self.id)
        )

    def save(self) -> None:
        """Write the counts, within a transaction."""
        values = [getattr(self.counts, name) for name in _COLUMNS]
        self._index.write(
            f"UPDATE run SET {', '.join(f'{name} = ?' for name in _COLUMNS)} WHERE id = ?", [*values, self.id]
        )

    def end(self, why: str, message: str | None = None) -> None:
        """Write why it ended, in a transaction of its own."""
        with self._index.transaction():
            self.save()
            self._index.write(
                "UPDATE run SET ended = ?, why = ?, message = ? WHERE id = ?", (time.time(), why, message, self.id)
            )

    def close(self) -> None:
        """Let go of the lock. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def alive(index: Index, number: int) -> bool:
    """Return whether the process of a run that has no end is still alive."""
    try:
        lock = os.open(_locks(index.path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # of another user: unknown; and there is no run where there is no such file
        return False
    try:
        return _held(lock, number)
    finally:
        os.close(lock)


def _refuse_second(index: Index, roots: Sequence[bytes], lock: int) -> None:
    wanted = [os.path.realpath(root) for root in roots]
    unended = "SELECT id, roots, pid, started FROM run WHERE ended IS NULL AND kind = 'sweep'"
    for number, others, pid, started in list(index.read(unended)):
        if not _held(lock, number):
            continue
        for other in map(os.path.realpath, others.split(b"\0")):
            if any(within(root, other) or within(other, root) for root in wanted):
                since = local(started)
                raise SweepRuns(
                    f"{os.fsdecode(other)}: a sweep of it runs already (run {number}, process {pid}, since {since})"
                )


def _open(index: Path) -> int:
    path = _locks(index)
    try:
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        owner = index.stat()
        if os.geteuid() == 0 and os.fstat(opened).st_uid != owner.st_uid:
            os.fchown(opened, owner.st_uid, owner.st_gid)  # its owner could not begin a run otherwise
    except OSError as error:
        raise IndexFailure(f"{path}: {error.strerror}") from error
    return opened


def _locks(index: Path) -> Path:
    return index.with_name(f"{index.name}-runs")


def _byte(kind: int, number: int) -> bytes:
    return _LOCK.pack(kind, os.SEEK_SET, number, 1, 0)


def _held(lock: int, number: int) -> bool:
    answer = fcntl.fcntl(lock, fcntl.F_OFD_GETLK, _byte(fcntl.F_WRLCK, number))
    return bool(_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)
