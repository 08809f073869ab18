"""``ScanRun``: takes files, asks the daemon about those that the index does not know, records what they came to.

A sweep, a watch and a spool all feed their files through it. It keeps a window of requests in flight, adapts to the
daemon's refusals, waits for a daemon that is gone, and loses no file. Knows no walk, and of actions that there are
some.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nsfwd.client.scan_inputs import each
from nsfwd.errors import BreakerOpen, CodedError, IndexFailure, NsfwdError, Status
from nsfwd.scanning.index.database import RowFailure
from nsfwd.scanning.index.file_result import Judged
from nsfwd.scanning.index.file_table import NO_LIMIT, FileTable, Known, Looked, RowOutcome, Settled, scores_of
from nsfwd.scanning.index.runs import Run
from nsfwd.scanning.submission.action_handler import ActionHandler
from nsfwd.scanning.submission.file_hasher import FileHasher
from nsfwd.scanning.submission.reconnecting_client import ReconnectingClient
from nsfwd.scanning.submission.reply_mapping import failed, judged_of, known_as
from nsfwd.scanning.submission.submitter import CongestionWindow, RateLimit
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.open_files import forget, is_there, opened

if TYPE_CHECKING:
    from nsfwd.client.results import Reply
    from nsfwd.scanning.index.database import Index

BATCH = 256
"""Files that are written at once: a transaction of some milliseconds."""

DELAY = 0.25
"""Seconds after which fewer are written too: what a kill may cost."""

SOONEST = 0.05
"""Seconds before a refused file is asked about again, however soon the daemon says."""

LOOK = 0.5
"""Seconds between looks whether what is in flight can still end."""

PATIENCE = 5.0
"""Seconds that what is in flight may still take when the run is to end: a daemon that is stalled says nothing. What has
no answer then is asked about by the next run."""

TRIES = 3
"""Times that a file is asked about whose error is the daemon's and passes soon."""

PASSING = frozenset({"engine_failed", "cancelled"})
CLOSED = frozenset({"permission", "not_found"})
"""What a daemon says of a file that it may not open, or does not see, and that this process perhaps can."""


def _quiet(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run is about.

    Attributes:
        kind: ``sweep``, ``watch`` or ``spool``.
        roots: the directories asked for.
        connect: the daemon's address; the usual places when left out.
        wait: wait at the start too for a daemon that does not answer; during a run it is always waited for.
        send: ``auto`` passes the descriptors of files that a daemon behind a Unix socket cannot open itself,
            ``always`` those of all, ``never`` none.
        again: ask again about unchanged files that were left without scores.
        rate: files a second to ask about at most; None is no limit.
        say: hears, in a sentence, what a person should know meanwhile.
        told: hears what each file came to, whatever it was and also when it was known, after its row is committed. One
            that vanished meanwhile is the error ``not_found`` and has no row.
    """

    kind: str
    roots: tuple[bytes, ...]
    connect: str | None = None
    wait: bool = False
    send: str = "auto"
    again: bool = False
    rate: float | None = None
    say: Callable[[str], None] = _quiet
    told: Callable[[Judged], None] | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a file came to, not written yet.

    Attributes:
        outcome: of a file whose content was known; of others it is made of ``judged``.
        read: somebody read it, so that its pages are in memory.
        vanished: it is no longer there.
    """

    found: FileEntry
    judged: Judged
    outcome: RowOutcome | None = None
    vanished: bool = False
    read: bool = True


class ScanRun:
    """One run over files. Made by ``scanning``.

    Attributes:
        run: its row and its counts. ``door``: the daemon. ``ledger``: what the index knows.
        unscored: images left without scores in this run, by an error or by a limit.
        alarming: files with a verdict that is an alarm, those that are as they were included.
        why: it ends so, unless it fails.
        settled: hears of each file that is settled and written; the walk's own account.

    Every method may raise ``IndexFailure``, and what the actor raises.
    """

    def __init__(
        self, index: Index, asking: RunOptions, actor: ActionHandler, door: ReconnectingClient, run: Run
    ) -> None:
        self.index, self.run, self.door = index, run, door
        self.ledger = FileTable(index, run.id, again=asking.again)
        self.actor = actor
        self.unscored = self.alarming = 0
        self.why = "finished"
        self.settled: Callable[[FileEntry], None] | None = None
        self._asking = asking
        self._window, self._pace = CongestionWindow(), RateLimit(asking.rate)
        self._digests = FileHasher()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: list[_Answer] = []
        self._writing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._failure: BaseException | None = None
        self._halt = asyncio.Event()

    @property
    def stopped(self) -> bool:
        """Whether no further file is taken."""
        return self._halt.is_set()

    def stop(self, why: str = "interrupted") -> None:
        """Take no further file: ``scan`` returns once what is in flight is recorded. The first reason counts."""
        if not self.stopped:
            self.why = why
            self._halt.set()

    def introduce(self) -> None:
        """Take note of who judges at the daemon now."""
        judges = self.door.judges
        with self.index.transaction():
            self.ledger.enrol(judges.models, judges.labels, judges.policy, judges.policies)
            self.run.judged_by(judges.daemon, self.ledger.present["models"], self.ledger.present["policy"])

    async def scan(self, files: AsyncIterable[FileEntry] | Iterable[FileEntry]) -> None:
        """Have every file judged, recorded and acted on; return when all of them are.

        May be called several times, one after the other. Ends early, with what is in flight finished, after ``stop``.
        """
        feeding, halting = asyncio.create_task(self._feed(files)), asyncio.create_task(self._halt.wait())
        try:
            await asyncio.wait({feeding, halting}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                feeding.result()
            else:
                await _cancelled(feeding)
            await self._drained()
        finally:
            await _cancelled(feeding, halting, *self._tasks)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if self._failure is not None:
            raise self._failure

    def unchanged(self, files: int, *, alarms: int = 0, unreported: int = 0) -> None:
        """Count files that are as the index knows them; ``unreported``: whose errors no run has told of yet."""
        self.run.counts.unchanged += files
        self.alarming += alarms
        self.unscored += unreported

    async def _feed(self, files: AsyncIterable[FileEntry] | Iterable[FileEntry]) -> None:
        async for found in each(files):
            await self._begin(found)
            if len(self._answers) >= BATCH:
                await self._write()

    async def _drained(self) -> None:
        """Wait for what is in flight, but when the run is to end neither for a daemon that is gone nor for long."""
        end = math.inf
        while self._tasks and self._failure is None and not (self.stopped and self.door.waiting):
            now = time.monotonic()
            end = min(end, now + PATIENCE) if self.stopped else math.inf
            if now >= end:
                break
            await asyncio.wait(self._tasks, timeout=LOOK)
        if self._failure is None:
            await _cancelled(*self._tasks)
            await self._write()

    async def _begin(self, found: FileEntry) -> None:
        """Settle what is known, and begin to ask about the rest."""
        looked = self.ledger.look(found)
        outcome = looked.outcome
        if outcome is not None and not self._wanted(found, outcome):
            if looked.known is Known.UNCHANGED:
                self.unchanged(1, alarms=outcome.alarm)
                self._tell(found, self._known(found, outcome))
            else:
                self._answer(_Answer(found, self._known(found, outcome), outcome, read=False))
            return
        await self._pace.keep()
        await self._window.take()
        task = asyncio.create_task(self._settle(found, looked))
        self._tasks.add(task)
        task.add_done_callback(self._given)

    def _wanted(self, found: FileEntry, outcome: RowOutcome) -> bool:
        """Tell whether there is something to do about a verdict that the index knows: then it is asked about anew."""
        if outcome.status != Status.OK or outcome.verdict is None or outcome.digest is None:
            return False
        wants = self.actor.wants(outcome.verdict, bool(outcome.alarm))
        return wants and not self.actor.done(found.path, outcome.digest)

    def _known(self, found: FileEntry, outcome: RowOutcome) -> Judged:
        scores = scores_of(self.index, outcome) if self._asking.told is not None else {}
        return known_as(found, outcome, scores)

    async def _settle(self, found: FileEntry, looked: Looked) -> None:
        if looked.known is Known.SIZE:
            digest = await self._digests.of(found)
            outcome = self.ledger.content(digest) if digest is not None else None
            if outcome is not None and not self._wanted(found, outcome):
                self._answer(_Answer(found, self._known(found, outcome), outcome))
                return
        reply = await self._asked(found)
        if reply is None:
            return
        if reply.scored and (reply.model != self.door.judges.models or reply.policy != self.door.judges.policy):
            await self.door.refresh()
            self.introduce()
        vanished = reply.code == "not_found" and not is_there(found.path)
        self._answer(_Answer(found, judged_of(found, reply, self.door.judges.policies), vanished=vanished))

    async def _asked(self, found: FileEntry) -> Reply | None:
        """Ask until there is an answer; None when the run is to end before there is one."""
        tries = 0
        while True:
            shrunk = self._window.times
            try:
                reply = await self._ask(found)
            except CodedError as error:
                self._answer(_Answer(found, failed(found, error)))
                return None
            except NsfwdError:  # a directory by now
                self._answer(_Answer(found, failed(found, CodedError("not_found")), vanished=True))
                return None
            if reply.status == Status.REFUSED:
                self._window.shrink(shrunk)
                pause = max(SOONEST, reply.retry_after or 0.0)
            elif reply.code in PASSING and tries < TRIES:
                tries += 1
                pause = float(tries)
            else:
                self._window.grow()
                return reply
            if await self._halted_within(pause):
                return None

    async def _ask(self, found: FileEntry) -> Reply:
        send = self._asking.send if self.door.passes_descriptors else "never"
        if send != "always":
            reply = await self.door.scan(found.path)
            if send == "never" or reply.code not in CLOSED:
                return reply
        try:
            with opened(found.path) as descriptor:
                return await self.door.scan_open(descriptor, found.path)
        except OSError:
            return await self.door.scan(found.path) if send == "always" else reply

    async def _halted_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._halt.wait(), seconds)
        return self.stopped

    def _given(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._window.give()
        self._noted(task)

    def _noted(self, task: asyncio.Task[None]) -> None:
        """Keep the first failure, and end the run with it."""
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failure is None:
            self._failure = error
            self._halt.set()

    def _answer(self, answer: _Answer) -> None:
        self._answers.append(answer)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self._due)

    def _due(self) -> None:
        self._timer = None
        task = asyncio.create_task(self._write())
        task.add_done_callback(self._noted)

    async def _write(self) -> None:
        """Write what is settled, then tell of it and act on it."""
        async with self._writing:
            answers, self._answers = self._answers, []
            if not answers:
                return
            failed = self._record_each(answers)
            for answer in answers:
                self._tell(answer.found, answer.judged)
                if answer.outcome is None and answer.judged.status == Status.OK and answer not in failed:
                    await self.actor.act(answer.judged)
            read = [answer.found.path for answer in answers if answer.read and answer.judged.digest is not None]
            await asyncio.to_thread(forget, read)

    def _record_each(self, answers: Sequence[_Answer]) -> list[_Answer]:
        """Write answers together, and one by one where one of them cannot be written; return those that could not."""
        try:
            self._record(answers)
        except RowFailure as error:
            self.ledger.forget()
            if len(answers) == 1:
                self.run.counts.errors += 1
                self.unscored += 1
                self._asking.say(f"{os.fsdecode(answers[0].found.path)}: cannot be recorded: {error}")
                return list(answers)
            return [failed for answer in answers for failed in self._record_each([answer])]
        return []

    def _record(self, answers: Sequence[_Answer]) -> None:
        with self.index.transaction():
            self.ledger.save([self._row(answer) for answer in answers if not answer.vanished])
            self.ledger.vanished(answer.found for answer in answers if answer.vanished)
            for answer in answers:
                self._count(answer)
            self.run.counts.acted = self.actor.acted
            self.run.save()

    def _row(self, answer: _Answer) -> Settled:
        judged = answer.judged
        if answer.outcome is not None:
            return Settled(judged.found, answer.outcome, {})
        return Settled(judged.found, self.ledger.outcome(judged), judged.scores)

    def _count(self, answer: _Answer) -> None:
        if answer.vanished:
            return
        counts, judged = self.run.counts, answer.judged
        if answer.outcome is not None:
            counts.known += 1
        elif judged.status == Status.OK:
            counts.ok += 1
        elif judged.status == Status.SKIPPED:
            counts.skipped += 1
        else:
            counts.errors += 1
        counts.alarms += judged.alarm
        self.alarming += judged.alarm
        self.unscored += judged.status != Status.OK and answer.outcome is None and judged.code not in NO_LIMIT

    def _tell(self, found: FileEntry, judged: Judged) -> None:
        if self._asking.told is not None:
            self._asking.told(judged)
        if self.settled is not None:
            self.settled(found)


@asynccontextmanager
async def scanning(index: Index, asking: RunOptions, actor: ActionHandler) -> AsyncIterator[ScanRun]:
    """Begin a row of ``run``, wait for the daemon, and write in the end why it ended.

    Raises:
        SweepRuns: a sweep of one of these trees runs already.
        NsfwdError: the address is none.
        DaemonUnreachable: none answers, and it was not to be waited for.
    """
    run = Run.begin(index, asking.kind, asking.roots)
    door = ReconnectingClient(asking.connect, asking.say)
    try:
        await door.open(wait=asking.wait)
        scan = ScanRun(index, asking, actor, door, run)
        scan.introduce()
        yield scan
        await actor.finish()
        run.counts.acted = actor.acted
        run.end(scan.why)
    except BaseException as error:
        if isinstance(error, Exception):  # what was begun is ended in order; a second signal waits for nothing
            with suppress(NsfwdError):
                await actor.finish()
            run.counts.acted = actor.acted
        with suppress(IndexFailure):
            run.end(_why(error), str(error) or None)
        raise
    finally:
        run.close()
        await door.close()


def _why(error: BaseException) -> str:
    if isinstance(error, BreakerOpen):
        return "breaker"
    return "failed" if isinstance(error, Exception) else "interrupted"


async def _cancelled(*tasks: asyncio.Task[object] | asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
