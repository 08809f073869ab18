"""The listing stage: the files of a directory, a chunk at a time, named by a child process.

The server never touches the file system of the images, and never holds a whole directory: the next chunk is asked for
when the last one has been taken. A lister that dies is replaced and goes on behind the files already named.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING

import msgspec

from nsfwd.errors import CodedError
from nsfwd.ipc import messages
from nsfwd.ipc.child import LEAN, Child, Exit
from nsfwd.pipeline.starting import KILL_PATIENCE, Starter, most_abandoned, tell_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nsfwd.pipeline.tickets import Claim

CHUNK = 256
"""Files named at a time: a packet of some tens of kilobytes, and enough to keep every decoder busy."""

DEATHS_WITHOUT_PROGRESS = 2

_log = logging.getLogger("nsfwd.pipeline")

_LISTER = "nsfwd.imaging.lister"
_MESSAGES = msgspec.msgpack.Decoder(messages.Hello | messages.Entries)


class Listing:
    """One directory being listed; a part of its claim, so that a cancel or a drain ends it."""

    __slots__ = ("chunk", "deaths", "named", "path", "recursive", "roots")

    def __init__(self, path: bytes, *, recursive: bool, roots: tuple[bytes, ...]) -> None:
        self.path = path
        self.recursive = recursive
        self.roots = roots
        self.named = 0
        self.deaths = 0
        self.chunk: asyncio.Future[messages.Entries] = asyncio.get_running_loop().create_future()

    def fail(self, error: CodedError) -> None:
        """End the listing with this error."""
        if not self.chunk.done():
            self.chunk.set_exception(error)
            self.chunk.exception()  # taken note of: whoever listed may be gone, and then nobody else looks


class ListStage:
    """The lister process and the directories it is asked about.

    Args:
        setup: what the lister is told first.
        patience: seconds one chunk may take; then the lister is stuck (a stalled mount) and is killed.

    Attributes:
        applied, missing: what the lister gave up before its first directory, and what it could not.
        abandoned: listers that were killed, do not end, and were replaced.
    """

    def __init__(self, setup: messages.ListerSetup, *, patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._setup = setup
        self._patience = patience
        self._numbers = itertools.count(1)
        self._listings: dict[int, Listing] = {}
        self._child: Child | None = None
        self._starter = Starter(self._loop)
        self._killed: asyncio.TimerHandle | None = None
        self.abandoned: list[Child] = []
        self._stopping = False
        self._unused: asyncio.Event = asyncio.Event()
        self._unused.set()
        self.applied: list[str] = []
        self.missing: list[str] = []
        self.restarts = 0

    def start(self) -> None:
        """Start the lister and resume what an earlier one left."""
        if self._stopping:
            return
        self._killed = None
        child = Child(
            _LISTER,
            name="lister",
            environment=LEAN,
            on_message=lambda packet: self._receive(child, packet),
            on_exit=lambda exit_: self._reaped(child, exit_),
        )
        if not self._starter.start(child, self.start):
            return
        self._child = child
        child.send(messages.encode(self._setup))
        for number, listing in self._listings.items():
            self._ask(messages.List(number, listing.path, listing.recursive, listing.named, listing.roots))

    async def stop(self, timeout: float) -> None:
        """End the lister."""
        self._stopping = True
        if self._child is not None:
            await self._child.stop(timeout)

    async def unused(self) -> None:
        """Wait until no directory is being listed."""
        await self._unused.wait()

    async def files(self, path: bytes, claim: Claim, *, recursive: bool) -> AsyncGenerator[bytes, None]:
        """Name the regular files of a directory.

        Raises:
            CodedError: the directory cannot be listed to its end; what was named before stands.
        """
        number = next(self._numbers)
        listing = Listing(path, recursive=recursive, roots=claim.roots)
        self._listings[number] = listing
        self._unused.clear()
        claim.parts.add(listing)
        self._ask(messages.List(number, path, recursive, 0, claim.roots))
        try:
            while True:
                entries = await self._chunk(listing, claim)
                listing.chunk = self._loop.create_future()
                if not entries.end:
                    self._ask(messages.More(number))  # named while the last chunk is being scored
                for file in entries.paths:
                    yield file
                if entries.code:
                    raise CodedError(entries.code, entries.message)
                if entries.end:
                    return
        finally:
            claim.parts.discard(listing)
            del self._listings[number]
            self._ask(messages.Forget(number))
            if not self._listings:
                self._unused.set()

    def processes(self) -> list[int]:
        """Process id of the lister, if it lives."""
        return [self._child.pid] if self._child is not None and self._child.alive else []

    async def _chunk(self, listing: Listing, claim: Claim) -> messages.Entries:
        if claim.error is not None:
            raise claim.error
        patience = self._patience
        if claim.deadline is not None:
            patience = min(patience, claim.deadline - self._loop.time())
        try:
            async with asyncio.timeout(max(patience, 0.0)):
                return await asyncio.shield(listing.chunk)
        except TimeoutError:
            listing.chunk.cancel()
            if patience < self._patience:
                raise CodedError("deadline") from None
            self._kill()  # stuck on this directory; the other listings are resumed by the next lister
            raise CodedError("unreadable", f"listing took longer than {self._patience:g} seconds") from None

    def _ask(self, message: messages.Wire) -> None:
        if self._child is not None and self._child.alive:
            self._child.send(messages.encode(message))

    def _receive(self, child: Child, packet: bytes) -> None:
        if child is not self._child:
            return  # abandoned: what it was asked is asked of another
        try:
            message = _MESSAGES.decode(packet)
        except msgspec.MsgspecError:
            self._kill()
            return
        if isinstance(message, messages.Hello):
            self._greet(message)
            return
        listing = self._listings.get(message.number)
        if listing is not None and not listing.chunk.done():
            listing.named += len(message.paths)
            listing.deaths = 0
            listing.chunk.set_result(message)

    def _greet(self, hello: messages.Hello) -> None:
        if hello.missing and hello.missing != self.missing:
            _log.warning("the lister could not give up, on this system: %s", "; ".join(hello.missing))
        self.applied, self.missing = hello.applied, hello.missing

    def _kill(self) -> None:
        """End the lister; one that does not end is left behind."""
        if self._child is not None and self._killed is None:
            self._child.kill()
            self._killed = self._loop.call_later(KILL_PATIENCE, self._abandon, self._child)

    def _abandon(self, child: Child) -> None:
        """Leave a lister behind that the kernel does not let end (a stalled mount), and start another."""
        if child is not self._child or self._stopping or len(self.abandoned) >= most_abandoned():
            return
        _log.error("the lister was killed and does not end; it is abandoned")
        self.abandoned.append(child)
        self._ended()

    def _reaped(self, child: Child, exit_: Exit) -> None:
        if child in self.abandoned:
            self.abandoned.remove(child)
            return
        if not self._stopping:
            tell_end(child, exit_)
        self._ended()

    def _ended(self) -> None:
        """There is no lister any more: start the next, which goes on where this one was."""
        self._child = None
        if self._killed is not None:
            self._killed.cancel()
        if self._stopping:
            return
        self.restarts += 1
        for listing in self._listings.values():
            listing.deaths += 1
            if listing.deaths >= DEATHS_WITHOUT_PROGRESS:
                listing.fail(CodedError("listing_failed"))
        self._loop.call_later(0.1 if self.restarts > 1 else 0.0, self.start)
