"""One conversation of ``AsyncClient`` with a daemon, over one socket after the other, and the tasks that wait on it.

Replies are read only while somebody waits for one, so a slow consumer of a directory slows the daemon down instead of
filling memory; sending never keeps anybody from reading. Moves bytes for ``core``; knows nothing of what they mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from nsfwd.backoff import RECONNECT
from nsfwd.client.addresses import candidates, connect
from nsfwd.client.async_stream import AsyncStream
from nsfwd.client.core import ClientCore
from nsfwd.client.inbox import Inbox
from nsfwd.errors import ConnectionLost, DaemonUnreachable
from nsfwd.protocol.limits import WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK = 1.0
"""Seconds between two looks at how long the daemon has been silent."""


class Mailbox(Inbox):
    """An inbox that wakes the task that sleeps on it, and gives back the window's places of what ended.

    A context manager, for one call: what is still due for it afterwards is forgotten.
    """

    def __init__(self, window: asyncio.Semaphore, forget: Callable[[Mailbox], None]) -> None:
        super().__init__()
        self.woken = asyncio.Event()
        self._window, self._forget = window, forget
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._forget(self)

    def hold(self) -> None:
        """Note that one place of the window is taken by a request of this inbox."""
        self._held += 1

    def changed(self) -> None:
        """Wake the task, give back the places."""
        while self._held > self.pending:
            self._held -= 1
            self._window.release()
        self.woken.set()


class AsyncSession:
    """One conversation with a daemon, over one socket after the other, and the tasks that wait on it.

    Args:
        places: where the daemon may be.
        timeout, patience: of ``AsyncClient``.
    """

    def __init__(self, places: str | Sequence[str] | None, *, timeout: float | None, patience: float) -> None:
        self.core = ClientCore(patience)
        self.address = ""
        self.lost: ConnectionLost | None = None
        self._places, self._timeout, self._patience = places, timeout, patience
        self._window = asyncio.Semaphore(WINDOW)
        self._stream: AsyncStream
        self._waiting = 0
        self._wanted = asyncio.Event()
        self._inboxes: set[Mailbox] = set()
        self._again: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Find a daemon and begin.

        Raises:
            DaemonUnreachable: none answers.
        """
        await self._connect()
        self.core = ClientCore(self._patience, descriptors=self._stream.passes_descriptors)
        self._task = asyncio.create_task(self._read())

    async def _connect(self) -> None:
        sock, address = await asyncio.to_thread(connect, candidates(self._places))
        self._stream = AsyncStream(sock)
        self.address = str(address)

    @property
    def usable(self) -> bool:
        """Whether a new request may go out on it."""
        return self.lost is None and (bool(self.core.in_flight) or not self._stream.ended)

    @property
    def passes_descriptors(self) -> bool:
        """Whether descriptors can go along."""
        return self._stream.passes_descriptors

    def inbox(self) -> Mailbox:
        """Return an inbox for one call."""
        inbox = Mailbox(self._window, self._leave)
        self._inboxes.add(inbox)
        return inbox

    def _leave(self, inbox: Mailbox) -> None:
        self._inboxes.discard(inbox)
        if inbox.pending and self.lost is None:
            self.core.abandon(inbox)
            self._flush()

    async def room(self, inbox: Mailbox) -> None:
        """Wait for a place in the window and take it for ``inbox``."""
        if self._window.locked():
            with self._reading():
                await self._window.acquire()
        else:
            await self._window.acquire()
        if self.lost is not None:
            self._window.release()
            raise self.lost
        inbox.hold()

    async def send(self) -> None:
        """Write what the core has to say, waiting while the daemon takes no more."""
        if self.lost is not None:
            return
        self._flush()
        if self._stream.stuck:
            with self._reading():
                await self._stream.drain()

    async def change(self, inbox: Mailbox) -> None:
        """Wait until something arrived for ``inbox``.

        Raises:
            ConnectionLost: nothing will.
        """
        if self.lost is None and not inbox.woken.is_set():
            with self._reading():
                await inbox.woken.wait()
        inbox.woken.clear()
        if self.lost is not None and not inbox.replies and inbox.pending:
            raise self.lost

    async def close(self) -> None:
        """Close it; calls that still wait raise ``ConnectionLost``. Idempotent."""
        self._lose("the connection was closed before the reply")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        self._waiting += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._wanted.clear()

    async def _read(self) -> None:
        try:
            while await self._wanted.wait():
                await self._pause()
                reason = await self._receive()
                if reason:
                    await self._recover(reason)
        except ConnectionLost as error:
            self._lose(str(error))
        finally:
            self._lose("the connection was closed before the reply")  # whatever ended this task, nobody waits for ever

    async def _pause(self) -> None:
        """Leave what comes unread while so much waits for its time that more could not be put off."""
        while self.core.glutted and self.core.due is not None:
            await asyncio.sleep(max(0.0, self.core.due - time.monotonic()))
            self._wake()

    async def _receive(self) -> str:
        """Take what comes next; return why nothing more does, or nothing."""
        try:
            data = await self._hear()
        except OSError as error:
            return f"the connection to {self.address} was lost: {self.core.complaint or error.strerror or error}"
        if not data:
            reason = f": {self.core.complaint}" if self.core.complaint else ""
            return f"{self.address} closed the connection before it replied{reason}"
        self.core.receive_data(data, time.monotonic())
        self._wake()
        return ""

    async def _hear(self) -> bytes:
        """Return what comes next.

        Raises:
            ConnectionLost: nothing came for too long although something was due.
        """
        since = time.monotonic()
        while True:
            limit = self._timeout if self._timeout is not None else self.core.longest
            try:
                return await self._stream.receive(min(limit, _LOOK))
            except TimeoutError:
                now = time.monotonic()
                if not self.core.expected:
                    since = now
                elif now - since >= limit:
                    raise ConnectionLost(f"{self.address} said nothing for {limit:g} s") from None

    async def _recover(self, reason: str) -> None:
        """Find a daemon again and ask it what is not answered.

        Raises:
            ConnectionLost: why that is not possible.
        """
        self._stream.close()
        await asyncio.sleep(max(0.0, self.core.held - time.monotonic()))
        until = time.monotonic() + self._patience
        for pause in RECONNECT:
            if self.core.barred or time.monotonic() + pause > until or not self._patience:
                raise ConnectionLost(reason)
            await asyncio.sleep(pause)
            with suppress(DaemonUnreachable):
                await self._connect()
                break
        try:
            self.core.restart(descriptors=self._stream.passes_descriptors)
        except ConnectionLost as error:
            raise ConnectionLost(f"{reason} ({error})") from error
        self._flush()

    def _wake(self) -> None:
        """Ask again what may be asked by now, and come back for the rest."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        now = time.monotonic()
        self.core.wake(now)
        self._flush()
        if self.core.due is not None and self.lost is None:
            self._again = asyncio.get_running_loop().call_later(self.core.due - now, self._wake)

    def _flush(self) -> None:
        if chunks := self.core.data_to_send():
            self._stream.write(chunks)

    def _lose(self, reason: str) -> None:
        if self.lost is None:
            self.lost = ConnectionLost(reason)
            self._stream.close()
            if self._again is not None:
                self._again.cancel()
            for inbox in self._inboxes:
                inbox.woken.set()
            for _ in range(WINDOW):
                self._window.release()
