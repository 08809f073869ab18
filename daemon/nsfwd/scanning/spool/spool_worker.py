"""``work_off``: has the lists of a spool answered by the daemon, in the background lane, until none is left.

The requests are sent by ``submitter``, as those of a sweep are. Knows no index.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nsfwd.backoff import LIST_LEFT
from nsfwd.errors import ActionFailure, CodedError, NsfwdError
from nsfwd.scanning.spool.spool_dir import ListFailure
from nsfwd.scanning.submission.reconnecting_client import ReconnectingClient
from nsfwd.scanning.submission.reply_mapping import error_reply
from nsfwd.scanning.submission.submitter import Submitter
from nsfwd.scanning.trees.files import HOPELESS

if TYPE_CHECKING:
    from nsfwd.scanning.spool.spool_dir import Spool, SpoolJob

LOOK = 1.0
"""Seconds between two reports of progress, and between two looks for a list."""


async def work_off(
    spool: Spool, connect: str | None, *, say: Callable[[str], None], shown: Callable[[str], None], stay: bool = False
) -> int:
    """Do every list that is there, and those that come in the meantime. To stop, cancel: a later call goes on.

    Args:
        say: reports what a person should know. ``shown``: reports every second how far it is.
        stay: while lists are left that can be neither done nor put aside, wait, do others, and try those again now and
            then; a service manager would start this process again and again.

    Returns:
        How many lists were done.

    Raises:
        ActionFailure: the spool cannot be written.
    """
    client, done = ReconnectingClient(connect, say), 0
    try:
        while (name := await _next(spool, shown, stay=stay)) is not None:
            job = spool.begin(name)
            if job is None:
                continue
            try:
                await client.open(wait=True)
                await _answer_all(job, client, shown)
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
        await client.close()
    return done


async def _next(spool: Spool, shown: Callable[[str], None], *, stay: bool) -> str | None:
    for pause in LIST_LEFT:
        until = time.monotonic() + pause
        while time.monotonic() < until:
            name = spool.next()
            if name is not None or not (stay and spool.left):
                return name
            shown(f"{len(spool.left)} lists can be neither done nor put aside; see the log")
            await asyncio.sleep(LOOK)
        spool.left.clear()
    return None


async def _answer_all(job: SpoolJob, client: ReconnectingClient, shown: Callable[[str], None]) -> None:
    submitter = Submitter(client)

    async def answer(number: int, path: bytes) -> None:
        try:
            reply = await submitter.ask(lambda: client.scan(path))
            raw = reply.raw if reply is not None else None
        except CodedError as error:
            raw = error_reply(path, error)
        except NsfwdError:
            raw = error_reply(path, CodedError("bad_path", "it is a directory; a list names files"))
        if raw is None:
            return
        try:
            job.write(number, raw)
        except OSError as error:
            raise _unwritable(job, error) from error

    async def feed() -> None:
        for number, path in job.paths():
            await submitter.start(answer, number, path)

    showing = asyncio.create_task(_show(job, client, shown))
    try:
        await submitter.run(feed())
    finally:
        showing.cancel()


async def _show(job: SpoolJob, client: ReconnectingClient, shown: Callable[[str], None]) -> None:
    while True:
        far = 100 * job.at // job.size if job.size else 100
        waiting = "; waiting for the daemon" if client.waiting else ""
        shown(f"{job.name}: {job.counts.total():,} answered, {far} % read, {job.alarms:,} alarms{waiting}")
        await asyncio.sleep(LOOK)


def _unwritable(job: SpoolJob, error: OSError) -> Exception:
    text = f"the results cannot be written: {error.strerror or error}"
    if error.errno in HOPELESS | {errno.EIO}:
        return ActionFailure(f"{job.name}: {text}; the next start goes on")
    return ListFailure(text)
