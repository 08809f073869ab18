"""``watch``: has every file judged soon after it was written, moved or linked into a tree, and loses none.

In order: watch every directory, then sweep, so that earlier files and those that come in the meantime are seen; then
the events, each file once it is no longer written. A tree is swept again after its queue of events ran over, after it
came back, or its name stands for another directory, and every few minutes while the kernel gives too few watches. Knows
no command line.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from nsfwd.errors import SweepRuns
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.runs import RunCounts
from nsfwd.scanning.submission.action_handler import ActionHandler
from nsfwd.scanning.submission.scan_run import RunOptions, ScanRun, scanning
from nsfwd.scanning.sweeps import sweep as sweeping
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.walk import WalkedTree
from nsfwd.scanning.watches.debounce import SETTLE, Debouncer
from nsfwd.scanning.watches.inotify_tree import InotifyTree, RootState, TreeEvents, inotify_limit, root_state

EVERY = 600.0
"""Seconds between sweeps while some directories cannot be watched."""

ROOTS = 2.0
"""Seconds between looks whether the name of a tree still stands for the directory that is watched."""

AGAIN = 30.0
"""Seconds before a sweep is tried again while another one of the same tree runs."""

LOOK = 1.0
"""Seconds between two reports of progress."""


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """The trees of a watch, and its times.

    Attributes:
        settle: seconds that a file must be still. ``every``: seconds between sweeps of what cannot be watched.
        roots: seconds between looks at the names of the trees.
        shown: called every second with the progress.
    """

    tree: WalkedTree
    options: RunOptions
    settle: float = SETTLE
    every: float = EVERY
    roots: float = ROOTS
    shown: Callable[[WatchProgress], None] | None = None


@dataclass(slots=True)
class WatchProgress:
    """How a watch goes.

    Attributes:
        watched: directories. ``unwatched``: directories that the kernel gave no watch for.
        settling: files that are to be still first. ``sweeping``: a sweep runs. ``waiting``: for the daemon.
        counts: of the files that events reported. ``sweeps``: that came to an end; ``overflows``: lost events.
        alarming, unscored: of all of it.
    """

    watched: int = 0
    unwatched: int = 0
    settling: int = 0
    sweeping: bool = False
    waiting: bool = False
    counts: RunCounts = field(default_factory=RunCounts)
    sweeps: int = 0
    overflows: int = 0
    alarming: int = 0
    unscored: int = 0


async def watch(
    index: Index,
    plan: WatchPlan,
    handler: ActionHandler,
    *,
    stop: Callable[[Callable[[], object]], None],
    ready: Callable[[], None],
) -> WatchProgress:
    """Watch until it is stopped.

    Args:
        stop: is called with a function that ends it in order; safe in a signal handler.
        ready: called once every directory is watched that can be.

    Raises:
        NsfwdError: the index cannot be written, or the action handler failed.
    """
    with ExitStack() as opened:
        branches = [_Branch(replace(plan.tree, roots=(root,))) for root in plan.tree.roots]
        for branch in branches:
            opened.callback(branch.close)
        async with scanning(index, replace(plan.options, kind="watch", wait=True), handler) as scan:
            watching = _Watch(index, plan, handler, scan, branches)
            stop(watching.stop)
            if await scan.connect():
                await watching.cover()
                ready()
                await watching.run()
    return watching.progress()


class _Branch(InotifyTree):
    """One tree, and the state of its watches.

    Attributes:
        stale: it is to be covered and swept again: events were lost, or it came back.
        gone: there is no such directory at present, which has been reported.
        state: what its name stood for before it was covered.
    """

    stale = gone = False
    state = RootState(None)


class _Watch:
    """A watch that is under way."""

    def __init__(
        self, index: Index, plan: WatchPlan, handler: ActionHandler, scan: ScanRun, branches: list[_Branch]
    ) -> None:
        self._index, self._plan, self._handler, self._scan, self._branches = index, plan, handler, scan, branches
        self._settling = Debouncer(plan.settle, follow=plan.tree.follow)
        self._woken, self._halted = asyncio.Event(), asyncio.Event()
        self._fresh: asyncio.Queue[tuple[_Branch, bytes]] = asyncio.Queue()
        self._wanted = asyncio.Event()
        self._end_sweep: Callable[[], None] | None = None
        self._progress = WatchProgress(counts=scan.run.counts)
        self._reported = 0

    def stop(self) -> None:
        """End it; requests in flight are finished."""
        self._scan.stop()
        self._halted.set()
        self._woken.set()
        self._wanted.set()
        if self._end_sweep is not None:
            self._end_sweep()

    def progress(self) -> WatchProgress:
        """Return how it goes."""
        progress = self._progress
        progress.watched = sum(branch.count for branch in self._branches)
        progress.unwatched = sum(len(branch.unwatched) for branch in self._branches)
        progress.settling, progress.waiting = len(self._settling), self._scan.client.waiting
        return progress

    async def cover(self) -> None:
        """Watch every directory, and have the trees swept."""
        for branch in self._branches:
            await asyncio.to_thread(_exhaust, branch)
            self._listen(branch)
        self._report_unwatched()
        self._wanted.set()

    async def run(self) -> None:
        """Scan the files that events report, and sweep when that is needed, until stopped or failed."""
        others = [asyncio.create_task(work()) for work in (self._sweeps, self._cover_new, self._look, self._show)]
        others += [asyncio.create_task(self._keep(branch)) for branch in self._branches]
        feeding = asyncio.create_task(self._scan.scan(self._files()))
        try:
            done, _ = await asyncio.wait([feeding, *others], return_when=asyncio.FIRST_COMPLETED)
            failed = next((task for task in done if task is not feeding), None)
            if failed is not None:
                self.stop()
                failed.result()
            await feeding
            await others[0]
        finally:
            for branch in self._branches:
                self._unlisten(branch)
            for task in (feeding, *others):
                task.cancel()
            await asyncio.gather(feeding, *others, return_exceptions=True)
            self._progress.alarming += self._scan.alarming
            self._progress.unscored += self._scan.unscored

    # -- events ---------------------------------------------------------------------------------------------------

    def _listen(self, branch: _Branch) -> None:
        if branch.descriptor >= 0:
            asyncio.get_running_loop().add_reader(branch.descriptor, self._read, branch)

    def _unlisten(self, branch: _Branch) -> None:
        if branch.descriptor >= 0:
            asyncio.get_running_loop().remove_reader(branch.descriptor)

    def _read(self, branch: _Branch) -> None:
        self._take(branch, branch.read())

    def _take(self, branch: _Branch, events: TreeEvents) -> None:
        now = time.monotonic()
        if events.overflow:
            self._progress.overflows += 1
            self._plan.options.say(f"{os.fsdecode(branch.root)}: events were lost; it is swept again")
            self._renew(branch)
            return
        if events.gone:
            self._note_gone(branch)
        for directory in events.directories:
            self._fresh.put_nowait((branch, directory))
        for path in events.files:
            if not self._settling.add(path, now):
                self._plan.options.say("too many files at once to remember: all trees are swept again")
                self._settling.clear()
                for each in self._branches:
                    self._renew(each)
                return
        if events.files:
            self._woken.set()

    def _renew(self, branch: _Branch) -> None:
        """Begin a tree again: its watches may belong to other directories by now."""
        self._renew_queue(branch)
        branch.stale = True
        self._wanted.set()

    def _note_gone(self, branch: _Branch) -> None:
        if not branch.gone:
            self._plan.options.say(f"{os.fsdecode(branch.root)}: is no longer there; it is swept when it is back")
        branch.stale = branch.gone = True

    async def _keep(self, branch: _Branch) -> None:
        """Begin a tree again when its name stands for another directory, or when something is mounted there."""
        while True:
            await asyncio.sleep(self._plan.roots)
            before, now = branch.state, await asyncio.to_thread(root_state, branch.root)
            if now.identity is None:
                self._note_gone(branch)
            elif now != branch.state or branch.gone:
                if branch.state is not before:  # covered in the meantime
                    continue
                what = "is back" if branch.gone else _difference(before, now)
                self._plan.options.say(f"{os.fsdecode(branch.root)}: {what}; it is watched and swept again")
                branch.state, branch.gone = now, False
                self._renew(branch)

    async def _files(self) -> AsyncIterator[FileEntry]:
        """Yield each file once it is still, until stopped."""
        while not self._halted.is_set():
            for found in self._settling.ready(time.monotonic()):
                yield found
            self._woken.clear()
            due = self._settling.due()
            if self._halted.is_set():
                return
            wait = None if due is None else max(0.0, due - time.monotonic())
            try:
                await asyncio.wait_for(self._woken.wait(), wait)
            except TimeoutError:
                continue

    async def _cover_new(self) -> None:
        """Watch each new directory, and take the files that were in it by then."""
        while True:
            branch, directory = await self._fresh.get()
            await asyncio.to_thread(self._list, branch, directory, asyncio.get_running_loop())
            self._report_unwatched()

    def _list(self, branch: _Branch, directory: bytes, loop: asyncio.AbstractEventLoop) -> None:
        for files in branch.cover(directory):
            if files:
                loop.call_soon_threadsafe(self._take, branch, TreeEvents(files=files))

    # -- sweeps ---------------------------------------------------------------------------------------------------

    async def _sweeps(self) -> None:
        """Sweep whenever that is wanted. Watches come before the sweep, so that nothing falls between."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._halted.is_set():
                return
            for branch in self._branches:
                if (branch.stale or branch.unwatched) and os.path.isdir(branch.root):  # noqa: PTH112  # bytes
                    if branch.refused is not None:
                        self._renew_queue(branch)
                    await asyncio.to_thread(_exhaust, branch)
                    branch.stale = False
            self._report_unwatched()
            try:
                await self._sweep()
            except SweepRuns as error:
                self._plan.options.say(f"{error}; waiting for its end")
                asyncio.get_running_loop().call_later(AGAIN, self._wanted.set)

    def _renew_queue(self, branch: _Branch) -> None:
        self._unlisten(branch)
        branch.renew()
        self._listen(branch)

    async def _sweep(self) -> None:
        roots = tuple(branch.root for branch in self._branches if os.path.isdir(branch.root))  # noqa: PTH112  # bytes
        if not roots:
            return
        options = replace(self._plan.options, kind="sweep", roots=roots, wait=True)
        plan = sweeping.SweepPlan(replace(self._plan.tree, roots=roots), options)
        self._progress.sweeping = True
        try:
            swept = await sweeping.sweep(self._index, plan, self._handler, stop=self._set_end)
        finally:
            self._progress.sweeping, self._end_sweep = False, None
        self._progress.sweeps += 1
        self._progress.alarming = swept.alarming
        self._progress.unscored += swept.unscored

    def _set_end(self, end: Callable[[], None]) -> None:
        self._end_sweep = end
        if self._halted.is_set():
            end()

    async def _look(self) -> None:
        """Ask for sweeps, now and then, of trees that cannot be watched or have come back."""
        while True:
            await asyncio.sleep(self._plan.every)
            if any(branch.unwatched or branch.stale for branch in self._branches):
                self._wanted.set()

    def _report_unwatched(self) -> None:
        """Say how many directories are not watched, and what to set, whenever that number grows."""
        missing = sum(len(branch.unwatched) for branch in self._branches)
        if missing > self._reported:
            refused = next((branch.refused for branch in self._branches if branch.refused is not None), None)
            self._plan.options.say(
                f"{missing} directories cannot be watched and are swept every {self._plan.every:g} s instead: "
                f"{_advice(missing) if refused is None else _advice_on_queues(refused)}"
            )
        self._reported = missing

    async def _show(self) -> None:
        while True:
            if self._plan.shown is not None:
                self._plan.shown(self.progress())
            await asyncio.sleep(LOOK)


def _difference(before: RootState, now: RootState) -> str:
    same = before.identity == now.identity
    return "something was mounted or unmounted below it" if same else "its name stands for another directory now"


def _advice(missing: int) -> str:
    most = inotify_limit("max_user_watches")
    return (
        f"fs.inotify.max_user_watches is {most}, but {most + missing} are needed: "
        f"sysctl -w fs.inotify.max_user_watches={most + missing}"
    )


def _advice_on_queues(refused: OSError) -> str:
    if refused.errno not in (errno.EMFILE, errno.ENFILE):
        return f"the kernel refuses inotify: {refused.strerror}"
    most = inotify_limit("max_user_instances")
    return (
        f"the kernel refuses another inotify queue ({refused.strerror}): "
        f"fs.inotify.max_user_instances is {most}: sysctl -w fs.inotify.max_user_instances={2 * most}"
    )


def _exhaust(branch: _Branch) -> None:
    """Watch all of a tree, or all that can be; the sweep that follows looks at its files."""
    branch.state = root_state(branch.root)
    branch.unwatched.clear()
    for _ in branch.cover(branch.root):
        pass
