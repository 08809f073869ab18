"""The listing stage: the files of a directory, a chunk at a time, named by a child process.

The server never touches the file system of the images, and never holds a whole directory: the next chunk is asked for
when the last one has been taken. A lister that dies is replaced and goes on behind the files already named.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from nsfwd.backoff import SPAWN
from nsfwd.errors import CodedError
from nsfwd.ipc import child_messages
from nsfwd.ipc.child import LEAN, Child, Exit
from nsfwd.ipc.process_start import KILL_PATIENCE, ProcessStarter, most_abandoned, tell_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nsfwd.errors import EngineError
    from nsfwd.pipeline.queueing.tickets import Claim

CHUNK = 64
"""Files named at a time: a packet of some tens of kilobytes, and enough to keep every decoder busy."""

DEATHS_WITHOUT_PROGRESS = 2
"""A lister may die by chance, or be stopped; ending or being silent twice at one directory is the directory's doing."""

WATCH_INTERVAL = 0.25
"""Seconds between looks at whether the lister answers."""

_log = logging.getLogger("nsfwd.pipeline")

_LISTER = "nsfwd.imaging.lister"
_MESSAGES = msgspec.msgpack.Decoder(child_messages.Hello | child_messages.Entries)


class DirectoryListing:
    """One directory being listed; a part of its claim, so that a cancel or a drain ends it.

    Attributes:
        named: files that were named.
        deaths: listers that ended at it since it last came further.
        asked_of: which lister was asked last; only this one knows the walk.
        chunk: the next files.
    """

    __slots__ = ("asked_of", "chunk", "deaths", "named", "path", "recursive", "roots")

    def __init__(self, path: bytes, *, recursive: bool, roots: tuple[bytes, ...]) -> None:
        self.path = path
        self.recursive = recursive
        self.roots = roots
        self.named = 0
        self.deaths = 0
        self.asked_of: Child | None = None
        self.chunk: asyncio.Future[child_messages.Entries] = asyncio.get_running_loop().create_future()

    def fail(self, error: CodedError) -> None:
        """End the listing with this error."""
        if not self.chunk.done():
            self.chunk.set_exception(error)
            self.chunk.exception()  # retrieved, because the task that listed may be gone


class ListStage:
    """The lister process and the directories it is asked about.

    It answers in the order in which it is asked, so that the directory it is at is known without a message.

    Args:
        setup: the first message of the lister.
        patience: seconds it may say nothing while it is asked; then it is stopped or stuck (a stalled mount) and is
            killed. Another takes its place, and tries once more what it was at.

    Attributes:
        applied, missing: measures of the sandbox that are active, and those that this system does not have.
        abandoned: listers that were killed, do not end, and were replaced.
    """

    def __init__(self, setup: child_messages.ListerSetup, *, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._setup = setup
        self._patience = patience
        self._numbers = itertools.count(1)
        self._listings: dict[int, DirectoryListing] = {}
        self._asked: deque[int] = deque()
        self._child: Child | None = None
        self.starter = ProcessStarter(self._loop, self._broken)
        self._watch: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._killed: float | None = None
        self._failures = 0
        self.abandoned: list[Child] = []
        self._stopping = False
        self._unused: asyncio.Event = asyncio.Event()
        self._unused.set()
        self.applied: list[str] = []
        self.missing: list[str] = []
        self.restarts = 0

    def start(self) -> None:
        """Start the lister and resume what an earlier one left; the directory that it was at comes last."""
        if self._stopping:
            return
        child = Child(
            _LISTER,
            name="lister",
            environment=LEAN,
            on_message=lambda packet: self._receive(child, packet),
            on_exit=lambda exit_: self._reaped(child, exit_),
        )
        if not self.starter.start(child, self.start):
            return
        self._child, self._killed = child, None
        self._heard = self._loop.time()
        child.send(child_messages.encode(self._setup))
        for number, listing in sorted(self._listings.items(), key=lambda item: item[1].deaths):
            if not listing.chunk.done():
                self._ask(
                    number, child_messages.List(number, listing.path, listing.recursive, listing.named, listing.roots)
                )
        if self._watch is None:
            self._watch = self._loop.call_later(WATCH_INTERVAL, self._look)

    async def stop(self, timeout: float) -> None:
        """End the lister."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
        if self._child is not None:
            await self._child.stop(timeout)

    async def unused(self) -> None:
        """Wait until no directory is being listed."""
        await self._unused.wait()

    async def files(self, path: bytes, claim: Claim, *, recursive: bool) -> AsyncGenerator[bytes, None]:
        """Name the regular files of a directory.

        Raises:
            CodedError: the directory cannot be listed to its end; the files named before remain valid.
        """
        number = next(self._numbers)
        listing = DirectoryListing(path, recursive=recursive, roots=claim.roots)
        self._listings[number] = listing
        self._unused.clear()
        claim.parts.add(listing)
        self._ask(number, child_messages.List(number, path, recursive, 0, claim.roots))
        try:
            while True:
                entries = await self._chunk(listing, claim)
                listing.chunk = self._loop.create_future()
                if not entries.end:
                    self._go_on(number, listing)  # named while the last chunk is being scored
                for file in entries.paths:
                    yield file
                if entries.code:
                    raise CodedError(entries.code, entries.message)
                if entries.end:
                    return
        finally:
            claim.parts.discard(listing)
            del self._listings[number]
            if self._child is not None:
                self._child.send(child_messages.encode(child_messages.Forget(number)))
            if not self._listings:
                self._unused.set()

    def processes(self) -> list[int]:
        """Process id of the lister, if it lives."""
        return [self._child.pid] if self._child is not None and self._child.alive else []

    async def _chunk(self, listing: DirectoryListing, claim: Claim) -> child_messages.Entries:
        if claim.error is not None:
            raise claim.error
        try:
            async with asyncio.timeout_at(claim.deadline):
                return await asyncio.shield(listing.chunk)
        except TimeoutError:
            listing.chunk.cancel()
            raise CodedError("deadline") from None

    # -- the lister --------------------------------------------------------------------------------------------------

    def _go_on(self, number: int, listing: DirectoryListing) -> None:
        """Ask for the next chunk; of a lister that took the place of the one asked last, from where that one was."""
        if listing.asked_of is self._child:
            self._ask(number, child_messages.More(number))
        else:
            self._ask(
                number, child_messages.List(number, listing.path, listing.recursive, listing.named, listing.roots)
            )

    def _ask(self, number: int, message: child_messages.List | child_messages.More) -> None:
        if self._child is None or not self._child.alive:
            return  # the next one is asked when it is started
        if not self._asked:
            self._heard = self._loop.time()
        self._asked.append(number)
        self._listings[number].asked_of = self._child
        self._child.send(child_messages.encode(message))

    def _receive(self, child: Child, packet: bytes) -> None:
        if child is not self._child:
            return  # abandoned: what it was asked is asked of another
        try:
            message = _MESSAGES.decode(packet)
        except msgspec.MsgspecError:
            self._kill()
            return
        if isinstance(message, child_messages.Hello):
            self._greet(message)
            return
        if message.number not in self._asked:
            return
        while self._asked.popleft() != message.number:
            pass
        self._heard = self._loop.time()
        self._failures = 0
        listing = self._listings.get(message.number)
        if listing is not None and not listing.chunk.done():
            listing.named += len(message.paths)
            listing.deaths = 0
            listing.chunk.set_result(message)

    def _greet(self, hello: child_messages.Hello) -> None:
        self._heard = self._loop.time()
        if hello.missing and hello.missing != self.missing:
            _log.warning("lister sandbox incomplete: %s", "; ".join(hello.missing))
        self.applied, self.missing = hello.applied, hello.missing

    def _look(self) -> None:
        """Kill a lister that says nothing although it is asked; leave one behind that does not end."""
        self._watch = self._loop.call_later(WATCH_INTERVAL, self._look)
        now = self._loop.time()
        if self._child is None:
            return
        if self._killed is None:
            if self._asked and now - self._heard > self._patience:
                _log.error("the lister has not answered for %g seconds and is killed", self._patience)
                self._kill()
        elif now - self._killed > KILL_PATIENCE and len(self.abandoned) < most_abandoned():
            _log.error("the lister was killed but does not end; it is abandoned")
            self.abandoned.append(self._child)
            self._ended()

    def _kill(self) -> None:
        if self._child is not None and self._killed is None:
            self._killed = self._loop.time()
            self._child.kill()

    def _reaped(self, child: Child, exit_: Exit) -> None:
        if child in self.abandoned:
            self.abandoned.remove(child)
            return
        if not self._stopping:
            tell_end(child, exit_)
        self._ended()

    def _ended(self) -> None:
        """There is no lister any more: start the next, which goes on where this one was; blame what it was at."""
        self._child = None
        silent, self._killed = self._killed is not None, None
        culprit = self._listings.get(self._asked[0]) if self._asked else None
        self._asked.clear()
        if self._stopping:
            return
        self.restarts += 1
        if culprit is not None:
            culprit.deaths += 1
            if culprit.deaths >= DEATHS_WITHOUT_PROGRESS:
                late = CodedError("unreadable", f"listing took longer than {self._patience:g} seconds")
                culprit.fail(late if silent else CodedError("listing_failed"))
        delay = SPAWN.delay(self._failures - 1) if self._failures else 0.0
        self._failures += 1
        self._loop.call_later(delay, self.start)

    def _broken(self, error: EngineError) -> None:
        """This system will never start a lister; the decoders say so too."""
        _log.debug("%s", error)
        for listing in self._listings.values():
            listing.fail(CodedError("listing_failed"))
