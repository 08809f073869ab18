"""``work_off``: has the lists of a spool answered by the daemon, in the background lane, until none is left.

Keeps a window of requests in flight, waits for a daemon that is gone, asks again what was refused. Knows no index.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nsfwd.errors import ActionFailure, CodedError, NsfwdError, Status
from nsfwd.scanning.spool.spool_dir import ListFailure
from nsfwd.scanning.submission.reconnecting_client import ReconnectingClient
from nsfwd.scanning.submission.submitter import CongestionWindow
from nsfwd.scanning.trees.files import HOPELESS
from nsfwd.scanning.trees.path_text import spelled

if TYPE_CHECKING:
    from nsfwd.scanning.spool.spool_dir import Spool, SpoolJob

SOONEST = 0.05
"""Seconds before a refused path is asked about again, however soon the daemon says."""

LOOK = 1.0
"""Seconds between two words about how far it is."""


async def work_off(
    spool: Spool, connect: str | None, *, say: Callable[[str], None], shown: Callable[[str], None]
) -> int:
    """Do every list that is there, and those that come meanwhile. To stop, cancel: a later call goes on.

    Args:
        say: hears what a person should know. ``shown``: hears, every second, how far it is.

    Returns:
        How many lists were done.

    Raises:
        ActionFailure: the spool cannot be written.
    """
    door, done = ReconnectingClient(connect, say), 0
    try:
        while (name := spool.next()) is not None:
            job = spool.begin(name)
            if job is None:
                continue
            try:
                await door.open(wait=True)
                await _Work(job, door, shown).run()
                spool.end(job)
            except ListFailure as error:
                spool.end(job, why=str(error))
                say(f"{name}: {error}")
                continue
            finally:
                job.close()
            done += 1
            say(f"{name}: {job.counts.total()} files, {job.alarms} alarms")
    finally:
        await door.close()
    return done


class _Work:
    """One list that is being answered."""

    def __init__(self, job: SpoolJob, door: ReconnectingClient, shown: Callable[[str], None]) -> None:
        self._job, self._door, self._shown = job, door, shown
        self._window = CongestionWindow()

    async def run(self) -> None:
        """Answer all of it."""
        showing = asyncio.create_task(self._show())
        try:
            async with asyncio.TaskGroup() as group:
                for number, path in self._job.paths():
                    await self._window.take()
                    group.create_task(self._answer(number, path))
        except* ListFailure as errors:
            raise ListFailure(str(errors.exceptions[0])) from errors
        except* OSError as errors:
            raise _unwritable(self._job, errors.exceptions[0]) from errors
        finally:
            showing.cancel()

    async def _answer(self, number: int, path: bytes) -> None:
        try:
            self._job.write(number, await self._ask(path))
        finally:
            self._window.give()

    async def _ask(self, path: bytes) -> dict[str, Any]:
        while True:
            shrunk = self._window.times
            try:
                reply = await self._door.scan(path)
            except CodedError as error:
                return _failed(path, error)
            except NsfwdError:
                return _failed(path, CodedError("bad_path", "it is a directory; a list names files"))
            if reply.status != Status.REFUSED:
                self._window.grow()
                return reply.raw
            self._window.shrink(shrunk)
            await asyncio.sleep(max(SOONEST, reply.retry_after or 0.0))

    async def _show(self) -> None:
        job = self._job
        while True:
            far = 100 * job.at // job.size if job.size else 100
            waiting = "; waiting for the daemon" if self._door.waiting else ""
            self._shown(f"{job.name}: {job.counts.total():,} answered, {far} % read, {job.alarms:,} alarms{waiting}")
            await asyncio.sleep(LOOK)


def _failed(path: bytes, error: CodedError) -> dict[str, Any]:
    told = {"code": error.code, "message": error.message, "retry": error.row.retry}
    return {**spelled(path), "status": str(Status.ERROR), "error": told}


def _unwritable(job: SpoolJob, error: BaseException) -> Exception:
    text = f"the results cannot be written: {getattr(error, 'strerror', None) or error}"
    if getattr(error, "errno", None) in HOPELESS | {errno.EIO}:
        return ActionFailure(f"{job.name}: {text}; the next start goes on")
    return ListFailure(text)
