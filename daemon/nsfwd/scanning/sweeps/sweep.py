"""``sweep``: walks trees, has the daemon judge new and changed files, and accounts for every file.

In order: begin a run, let a new policy judge known scores, walk, compare, ask, record, act; then mark files that are no
longer there. Stopped at any moment, by a clock, a signal or a kill, it goes on where it was. Knows no command line.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.rejudge import Rejudging
from nsfwd.scanning.index.runs import RunCounts, alive
from nsfwd.scanning.submission.action_handler import ActionHandler
from nsfwd.scanning.submission.scan_run import RunOptions, ScanRun, scanning
from nsfwd.scanning.sweeps.change_detector import ChangeBatch, ChangeDetector, Ended
from nsfwd.scanning.sweeps.pause import Pause
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.file_io import is_there
from nsfwd.scanning.trees.walk import Walk, WalkedTree

DIRECTORIES = 500
"""Directories whose end is written at once."""

LOOK = 1.0
"""Seconds between two reports of progress."""

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_WHO_PROCESS = 1
_CLASS_IDLE = 3 << 13

NICE = 10
"""Enough for all that others want first, and not so much that replies are left lying while the daemon works."""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """The trees and the limits of a sweep.

    Attributes:
        pause: when it pauses; None is never.
        count: count the files at the same time, where no earlier run has counted them.
        shown: called every second with the progress.
    """

    tree: WalkedTree
    options: RunOptions
    pause: Pause | None = None
    count: bool = False
    shown: Callable[[SweepProgress], None] | None = None


@dataclass(slots=True)
class SweepProgress:
    """How far a sweep is, and in the end its results.

    Attributes:
        total: files of the trees; None while unknown.
        why: the reason why it ended; empty while it runs. ``waiting``: for the daemon.
        unscored: images left without scores in this run; ``alarming``: files with a verdict that is an alarm, those
            that are as they were included. ``unreadable``: directories. ``gone``: files that are no longer there.
        rejudged: files that a new policy gave another verdict. ``failed``: actions that could not be done.
        foreign, links: not entered, not followed.
    """

    counts: RunCounts = field(default_factory=RunCounts)
    run: int = 0
    total: int | None = None
    why: str = ""
    waiting: bool = False
    seconds: float = 0.0
    unscored: int = 0
    alarming: int = 0
    unreadable: int = 0
    gone: int = 0
    rejudged: int = 0
    failed: int = 0
    foreign: int = 0
    links: int = 0


async def sweep(
    index: Index, plan: SweepPlan, handler: ActionHandler, *, stop: Callable[[Callable[[], None]], None]
) -> SweepProgress:
    """Run one sweep.

    Args:
        stop: called with a function that ends the run in order; safe in a signal handler.

    Returns:
        Its results.

    Raises:
        NsfwdError: a sweep of one of these trees runs already; no daemon answers; the index cannot be written; what
            the action handler raises.
    """
    async with scanning(index, plan.options, handler) as scan:
        running = _Sweep(index, plan, scan)
        stop(scan.stop)
        watching = [asyncio.create_task(work()) for work in (running.show, running.count, running.pause)]
        try:
            if await scan.connect():
                await running.rejudge()
                await scan.scan(running.files())
                running.end_directories()
                if not scan.stopped:
                    running.note_gone_directories()
        finally:
            running.over.set()
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
    return running.progress(why=scan.why)


class _Sweep:
    """A sweep that is under way."""

    def __init__(self, index: Index, plan: SweepPlan, scan: ScanRun) -> None:
        self.over = threading.Event()
        self._index, self._plan, self._scan = index, plan, scan
        self._started = time.monotonic()
        self._open: Counter[bytes] = Counter()
        self._walked: dict[bytes, Ended] = {}
        self._ended: list[Ended] = []
        self._progress = SweepProgress(scan.run.counts, scan.run.id, total=self._known_total())
        scan.settled = self._settled

    def progress(self, *, why: str = "") -> SweepProgress:
        """Return how far it is."""
        progress, scan = self._progress, self._scan
        progress.why, progress.waiting = why, scan.client.waiting
        progress.seconds = time.monotonic() - self._started
        progress.failed = scan.handler.failed
        progress.unscored, progress.alarming = scan.unscored + progress.unreadable, scan.alarming
        return progress

    async def show(self) -> None:
        """Report the progress every second."""
        while self._plan.shown is not None:
            self._plan.shown(self.progress())
            await asyncio.sleep(LOOK)

    async def count(self) -> None:
        """Find the total, where it is wanted and unknown."""
        if self._plan.count and self._progress.total is None:
            self._progress.total = await asyncio.to_thread(self._counted)

    async def pause(self) -> None:
        """Stop when it is time to pause."""
        pause = self._plan.pause
        if pause is not None:
            pause.begin()
            while left := pause.left():
                await asyncio.sleep(left)
            self._scan.stop("paused")

    async def rejudge(self) -> None:
        """Let the daemon's policy judge files that were scored under another one. Opens no file."""
        if self._scan.client.judges.policies and self._policy_changed():
            self._progress.rejudged = await asyncio.to_thread(self._rejudged)

    async def files(self) -> AsyncIterator[FileEntry]:
        """Yield files that may have changed, and account for the others."""
        unreported = frozenset(_unreported_runs(self._index, self._scan.run.id, self._plan.tree.roots))
        detector = ChangeDetector(
            self._index.path,
            self._plan.tree,
            self._scan.table.present,
            wants=self._scan.handler.wants,
            unreported=unreported,
        )
        loop = asyncio.get_running_loop()
        batches = detector.batches()
        with ThreadPoolExecutor(1, "detector") as thread:
            try:
                coming = loop.run_in_executor(thread, next, batches, None)
                while (batch := await coming) is not None:
                    coming = loop.run_in_executor(thread, next, batches, None)
                    for found in self._taken(batch):
                        yield found
            finally:
                thread.submit(batches.close)
                self._progress.foreign, self._progress.links = detector.walk.foreign, detector.walk.links

    def _taken(self, batch: ChangeBatch) -> Iterator[FileEntry]:
        self._scan.unchanged(batch.unchanged, alarms=batch.alarms, unreported=batch.unreported)
        self._scan.run.counts.excluded += batch.excluded
        for found in batch.files:
            self._open[found.directory] += 1
        for ended in batch.ended:
            if self._open[ended.directory]:
                self._walked[ended.directory] = ended
            else:
                self._end(ended)
        yield from batch.files

    def _settled(self, found: FileEntry) -> None:
        self._open[found.directory] -= 1
        if not self._open[found.directory]:
            del self._open[found.directory]
            if found.directory in self._walked:
                self._end(self._walked.pop(found.directory))

    def _end(self, ended: Ended) -> None:
        self._open.pop(ended.directory, None)
        self._ended.append(ended)
        if len(self._ended) >= DIRECTORIES:
            self.end_directories()

    def end_directories(self) -> None:
        """Write which directories were walked to their end: all files of theirs are in the index."""
        ended, self._ended = self._ended, []
        run = self._scan.run.id
        with self._index.transaction():
            for each in ended:
                number = self._scan.table.directory(each.directory)
                if each.code is None:
                    self._index.write("UPDATE directory SET run = ?, code = NULL WHERE id = ?", (run, number))
                else:
                    row = self._index.one("SELECT code FROM directory WHERE id = ?", (number,))
                    self._progress.unreadable += row is None or row[0] != each.code
                    self._index.write("UPDATE directory SET code = ? WHERE id = ?", (each.code, number))
                    self._plan.options.say(f"{os.fsdecode(each.directory)}: cannot be read ({each.code})")
                self._progress.gone += len(each.gone)
                self._index.write_all("UPDATE file SET gone = ? WHERE id = ?", [(run, row) for row in each.gone])
            self._scan.run.save()

    def note_gone_directories(self) -> None:
        """Mark the files of directories that the walk did not meet because they are no longer there."""
        run = self._scan.run.id
        for root in self._plan.tree.roots:
            below = root.rstrip(b"/")
            rows = self._index.read(
                "SELECT id, path FROM directory WHERE (path = ? OR (path >= ? AND path < ?)) AND run IS NOT ?",
                (root, below + b"/", below + b"0", run),
            )
            gone = [number for number, path in list(rows) if not is_there(path, directory=True)]
            with self._index.transaction():
                for number in gone:
                    self._progress.gone += self._index.write_all(
                        "UPDATE file SET gone = ? WHERE directory = ? AND gone IS NULL", [(run, number)]
                    )

    def _known_total(self) -> int | None:
        row = self._index.one(
            "SELECT found FROM run WHERE kind = 'sweep' AND why = 'finished' AND roots = ? ORDER BY id DESC LIMIT 1",
            (b"\0".join(self._plan.tree.roots),),
        )
        return row[0] if row is not None else None

    def _counted(self) -> int | None:
        total = 0
        for part in Walk(self._plan.tree, names_only=True):
            total += len(part.entries) + part.excluded
            if self.over.is_set():
                return None
        return total

    def _policy_changed(self) -> bool:
        """Tell whether files are judged by another policy; not if the sweep before came to its end under this one."""
        present = self._scan.table.present
        before = self._index.one(
            """
            SELECT policy, why FROM run WHERE id < ? AND kind = 'sweep' AND policy IS NOT NULL
            ORDER BY id DESC LIMIT 1
            """,
            (self._scan.run.id,),
        )
        if before == (present["policy"], "finished"):
            return False
        other = "SELECT 1 FROM file WHERE status = 'ok' AND models IS :models AND policy IS NOT :policy LIMIT 1"
        return self._index.one(other, {key: present[key] for key in ("models", "policy")}) is not None

    def _rejudged(self) -> int:
        with Index(self._index.path, create=False) as index:
            rejudging = Rejudging(index, self._scan.client.judges.policies, run=self._scan.run.id)
            for _ in rejudging.changes():
                if self.over.is_set() or self._scan.stopped:
                    break
            return rejudging.changed


def lower_priority() -> None:
    """Give this process the idle class of disk scheduling and a nice value; threads that start later inherit them.

    A kernel or a sandbox that does not allow it leaves everything as it is.
    """
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE)
    with suppress(OSError):
        os.nice(max(0, NICE - os.nice(0)))


def _unreported_runs(index: Index, run: int, roots: tuple[bytes, ...]) -> Iterator[int]:
    """Yield the sweeps of these trees that were killed since the last one that ended."""
    rows = index.read(
        "SELECT id, ended FROM run WHERE kind = 'sweep' AND roots = ? AND id < ? ORDER BY id DESC",
        (b"\0".join(roots), run),
    )
    for number, ended in list(rows):
        if ended is not None:
            break
        if not alive(index, number):
            yield number
