"""``ScanRun``: takes files, asks the daemon about those that the index does not know, and records the results.

Sweeps and watches feed their files through it; the requests themselves are sent by ``submitter``. Knows no walk, and
of actions that there are some.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nsfwd.client.scan_inputs import each
from nsfwd.errors import BreakerOpen, CodedError, IndexFailure, NsfwdError, Status
from nsfwd.scanning.index.database import RowFailure
from nsfwd.scanning.index.file_result import Judged
from nsfwd.scanning.index.file_table import NO_LIMIT, FileTable, Known, Looked, RowOutcome, Settled
from nsfwd.scanning.index.runs import Run
from nsfwd.scanning.submission.action_handler import ActionHandler
from nsfwd.scanning.submission.reconnecting_client import ReconnectingClient
from nsfwd.scanning.submission.reply_mapping import failed, judged_of
from nsfwd.scanning.submission.submitter import Submitter
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.file_io import FileHasher, forget, is_there, opened

if TYPE_CHECKING:
    from nsfwd.client.results import Reply
    from nsfwd.scanning.index.database import Index

BATCH = 256
"""Files that are written at once: a transaction of some milliseconds."""

DELAY = 0.25
"""Seconds after which fewer are written too: a kill costs at most these results."""

CLOSED = frozenset({"permission", "not_found"})
"""Codes of files that the daemon may not open, or does not see, and this process perhaps can."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run.

    Attributes:
        kind: ``sweep`` or ``watch``.
        roots: the directories asked for.
        say: reports, in a sentence, what a person should know.
        connect: the daemon's address; the usual places when left out.
        wait: wait at the start too for a daemon that does not answer; during a run it is always waited for.
        send: ``auto`` passes the descriptors of files that a daemon behind a Unix socket cannot open itself,
            ``always`` those of all, ``never`` none.
        again: ask again about unchanged files that were left without scores.
        rate: files a second to ask about at most; unlimited when None.
        settled: called with each file after its row is committed, and with those that are known or have vanished.
    """

    kind: str
    roots: tuple[bytes, ...]
    say: Callable[[str], None]
    connect: str | None = None
    wait: bool = False
    send: str = "auto"
    again: bool = False
    rate: float | None = None
    settled: Callable[[FileEntry], None] | None = None


@dataclass(frozen=True, slots=True)
class _Result:
    """The result of a file, not written yet.

    Attributes:
        judged: made of the reply; None where the content was known.
        outcome: of a content that the index knows.
        vanished: it is no longer there.
        read: it was read for this run, so that its pages are in memory.
    """

    entry: FileEntry
    judged: Judged | None
    outcome: RowOutcome | None = None
    vanished: bool = False
    read: bool = True

    @property
    def digest(self) -> bytes | None:
        """SHA-256 of the content, where it is known."""
        known = self.judged or self.outcome
        return known.digest if known is not None else None


class ScanRun:
    """One run over files. Made by ``scanning``.

    Attributes:
        run: its row and its counts. ``client``: the daemon. ``table``: what the index knows.
        unscored: images left without scores in this run, by an error or by a limit.
        alarming: files with a verdict that is an alarm, unchanged ones included.
        why: the reason with which it ends, unless it fails.
        settled: as of ``RunOptions``; for the walk's own account.

    Every method may raise ``IndexFailure``, and what the action handler raises.
    """

    def __init__(
        self, index: Index, options: RunOptions, handler: ActionHandler, client: ReconnectingClient, run: Run
    ) -> None:
        self.index, self.run, self.client, self.handler = index, run, client, handler
        self.table = FileTable(index, run.id, again=options.again)
        self.unscored = self.alarming = 0
        self.why = "finished"
        self.settled: Callable[[FileEntry], None] | None = None
        self._options = options
        self._submitter, self._hasher = Submitter(client, rate=options.rate), FileHasher()
        self._results: list[_Result] = []
        self._writing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stopped(self) -> bool:
        """Whether no further file is taken."""
        return self._submitter.stopped

    def stop(self, why: str = "interrupted") -> None:
        """Take no further file: ``scan`` returns once what is in flight is recorded. The first reason counts."""
        if not self.stopped:
            self.why = why
            self._submitter.stop()

    async def connect(self) -> bool:
        """Wait until the daemon is ready, and note its models; False when the run was stopped before.

        Raises:
            NsfwdError: the address is invalid.
            DaemonUnreachable: none answers, and it was not to be waited for.
        """
        if not await self._submitter.until_stopped(self.client.open(wait=self._options.wait)):
            return False
        self.introduce()
        return True

    def introduce(self) -> None:
        """Note the models and policies of the daemon."""
        judges = self.client.judges
        with self.index.transaction():
            self.table.enrol(judges.models, judges.labels, judges.policy, judges.policies)
            self.run.judged_by(judges.daemon, self.table.present["models"], self.table.present["policy"])

    async def scan(self, files: AsyncIterable[FileEntry] | Iterable[FileEntry]) -> None:
        """Have every file judged, recorded and acted on; return when all of them are.

        May be called several times, one after the other. Ends early, with what is in flight finished, after ``stop``.
        """
        try:
            await self._submitter.run(self._feed(files), finish=self._write)
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def unchanged(self, files: int, *, alarms: int = 0, unreported: int = 0) -> None:
        """Count files that are as the index knows them; ``unreported``: with errors that no run has reported yet."""
        self.run.counts.unchanged += files
        self.alarming += alarms
        self.unscored += unreported

    async def _feed(self, files: AsyncIterable[FileEntry] | Iterable[FileEntry]) -> None:
        async for entry in each(files):
            await self._begin(entry)
            if len(self._results) >= BATCH:
                await self._write()

    async def _begin(self, entry: FileEntry) -> None:
        """Settle what is known, and begin to ask about the rest."""
        looked = self.table.look(entry)
        outcome = looked.outcome
        if outcome is not None and not self._wanted(entry, outcome):
            if looked.known is Known.UNCHANGED:
                self.unchanged(1, alarms=outcome.alarm)
                self._report(entry)
            else:
                self._add(_Result(entry, None, outcome, read=False))
            return
        await self._submitter.start(self._settle, entry, looked)

    def _wanted(self, entry: FileEntry, outcome: RowOutcome) -> bool:
        """Tell whether a verdict that the index knows calls for an action: then the file is asked about again."""
        if outcome.status != Status.OK or outcome.verdict is None or outcome.digest is None:
            return False
        wants = self.handler.wants(outcome.verdict, bool(outcome.alarm))
        return wants and not self.handler.done(entry.path, outcome.digest)

    async def _settle(self, entry: FileEntry, looked: Looked) -> None:
        if looked.known is Known.SIZE:
            digest = await self._hasher.digest(entry)
            outcome = self.table.content(digest) if digest is not None else None
            if outcome is not None and not self._wanted(entry, outcome):
                self._add(_Result(entry, None, outcome))
                return
        try:
            reply = await self._submitter.ask(lambda: self._ask(entry))
        except CodedError as error:
            self._add(_Result(entry, failed(entry, error)))
            return
        except NsfwdError:  # a directory by now
            self._add(_Result(entry, failed(entry, CodedError("not_found")), vanished=True))
            return
        if reply is None:
            return
        judges = self.client.judges
        if reply.scored and (reply.model != judges.models or reply.policy != judges.policy):
            await self.client.refresh()
            self.introduce()
        vanished = reply.code == "not_found" and not is_there(entry.path)
        self._add(_Result(entry, judged_of(entry, reply, self.client.judges.policies), vanished=vanished))

    async def _ask(self, entry: FileEntry) -> Reply:
        send = self._options.send if self.client.passes_descriptors else "never"
        if send != "always":
            reply = await self.client.scan(entry.path)
            if send == "never" or reply.code not in CLOSED:
                return reply
        try:
            with opened(entry.path) as descriptor:
                return await self.client.scan_open(descriptor, entry.path)
        except OSError:
            return await self.client.scan(entry.path) if send == "always" else reply

    def _add(self, result: _Result) -> None:
        self._results.append(result)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self._due)

    def _due(self) -> None:
        self._timer = None
        self._submitter.supervise(asyncio.create_task(self._write()))

    async def _write(self) -> None:
        """Write what is settled, then report it and act on it."""
        async with self._writing:
            results, self._results = self._results, []
            if not results:
                return
            failed = self._record_each(results)
            for result in results:
                self._report(result.entry)
                if result.judged is not None and result.judged.status == Status.OK and result not in failed:
                    await self.handler.act(result.judged)
            read = [result.entry.path for result in results if result.read and result.digest is not None]
            await asyncio.to_thread(forget, read)

    def _record_each(self, results: Sequence[_Result]) -> list[_Result]:
        """Write results together, and one by one where one of them cannot be written; return those that could not."""
        try:
            self._record(results)
        except RowFailure as error:
            self.table.forget()
            if len(results) == 1:
                self.run.counts.errors += 1
                self.unscored += 1
                self._options.say(f"{os.fsdecode(results[0].entry.path)}: cannot be recorded: {error}")
                return list(results)
            return [failed for result in results for failed in self._record_each([result])]
        return []

    def _record(self, results: Sequence[_Result]) -> None:
        with self.index.transaction():
            self.table.save([self._row(result) for result in results if not result.vanished])
            self.table.vanished(result.entry for result in results if result.vanished)
            for result in results:
                self._count(result)
            self.run.counts.acted = self.handler.acted
            self.run.save()

    def _row(self, result: _Result) -> Settled:
        if result.judged is None:
            assert result.outcome is not None
            return Settled(result.entry, result.outcome, {})
        return Settled(result.judged.found, self.table.outcome(result.judged), result.judged.scores)

    def _count(self, result: _Result) -> None:
        if result.vanished:
            return
        counts, judged = self.run.counts, result.judged
        if judged is None:
            counts.known += 1
            alarm = result.outcome is not None and bool(result.outcome.alarm)
        else:
            counts.ok += judged.status == Status.OK
            counts.skipped += judged.status == Status.SKIPPED
            counts.errors += judged.status not in (Status.OK, Status.SKIPPED)
            self.unscored += judged.status != Status.OK and judged.code not in NO_LIMIT
            alarm = judged.alarm
        counts.alarms += alarm
        self.alarming += alarm

    def _report(self, entry: FileEntry) -> None:
        for settled in (self._options.settled, self.settled):
            if settled is not None:
                settled(entry)


@asynccontextmanager
async def scanning(index: Index, options: RunOptions, handler: ActionHandler) -> AsyncIterator[ScanRun]:
    """Begin a row of ``run``, and write in the end why it ended.

    Raises:
        SweepRuns: a sweep of one of these trees runs already.
    """
    run = Run.begin(index, options.kind, options.roots)
    client = ReconnectingClient(options.connect, options.say)
    try:
        scan = ScanRun(index, options, handler, client, run)
        yield scan
        await handler.finish()
        run.counts.acted = handler.acted
        run.end(scan.why)
    except BaseException as error:
        if isinstance(error, Exception):  # what was begun is ended in order; a second signal waits for nothing
            with suppress(NsfwdError):
                await handler.finish()
            run.counts.acted = handler.acted
        with suppress(IndexFailure):
            run.end(_why(error), str(error) or None)
        raise
    finally:
        run.close()
        await client.close()


def _why(error: BaseException) -> str:
    if isinstance(error, BreakerOpen):
        return "breaker"
    return "failed" if isinstance(error, Exception) else "interrupted"
