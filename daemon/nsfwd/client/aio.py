"""``AsyncClient``: the daemon from asyncio. Many tasks may share one.

Replies are read only while somebody waits for one, so a slow consumer of a directory slows the daemon down instead of
filling memory; sending never keeps anybody from reading. Moves bytes for ``core``; knows nothing of what they mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nsfwd.client.addresses import candidates, connect, pauses
from nsfwd.client.core import ClientCore, Encoded, Inbox, Options, Path
from nsfwd.client.sync import PATIENCE
from nsfwd.errors import ConnectionLost, DaemonUnreachable
from nsfwd.protocol.limits import WINDOW

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from nsfwd.client.replies import Reply

_CHUNK = 256 * 1024

_LOOK = 1.0
"""Seconds between two looks at how long the daemon has been silent."""


class _Inbox(Inbox):
    """An inbox that wakes the task that sleeps on it, and gives back the window's places of what ended."""

    def __init__(self, window: asyncio.Semaphore) -> None:
        super().__init__()
        self.woken = asyncio.Event()
        self._window = window
        self._held = 0

    def hold(self) -> None:
        """Note that one place of the window is taken by a request of this inbox."""
        self._held += 1

    def changed(self) -> None:
        while self._held > self.pending:
            self._held -= 1
            self._window.release()
        self.woken.set()


class _Connection:
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
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._waiting = 0
        self._wanted = asyncio.Event()
        self._inboxes: set[_Inbox] = set()
        self._again: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Find a daemon and begin.

        Raises:
            DaemonUnreachable: none answers.
        """
        await self._connect()
        self._task = asyncio.create_task(self._read())

    async def _connect(self) -> None:
        sock, address = await asyncio.to_thread(connect, candidates(self._places))
        self._reader, self._writer = await _streams(sock)
        self.address = str(address)

    @property
    def usable(self) -> bool:
        """Whether a new request may go out on it."""
        return self.lost is None and (bool(self.core.in_flight) or not self._reader.at_eof())

    @contextmanager
    def inbox(self) -> Iterator[_Inbox]:
        """Lend an inbox for one call; what is still due for it afterwards is forgotten."""
        inbox = _Inbox(self._window)
        self._inboxes.add(inbox)
        try:
            yield inbox
        finally:
            self._inboxes.discard(inbox)
            if inbox.pending and self.lost is None:
                self.core.abandon(inbox)
                self._flush()

    async def room(self, inbox: _Inbox) -> None:
        """Wait for a place in the window and take it for ``inbox``."""
        with self._reading():
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
        try:
            with self._reading():
                await self._writer.drain()
        except OSError:
            pass  # whoever reads sees it too, and looks for the daemon again

    async def change(self, inbox: _Inbox) -> None:
        """Wait until something arrived for ``inbox``.

        Raises:
            ConnectionLost: nothing will.
        """
        if self.lost is None:
            with self._reading():
                await inbox.woken.wait()
        inbox.woken.clear()
        if self.lost is not None and not inbox.replies and inbox.pending:
            raise self.lost

    async def close(self) -> None:
        """Close it; whoever still waits gets ``ConnectionLost``. Idempotent."""
        self._lose("the connection was closed before the reply")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(OSError):
            await self._writer.wait_closed()

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
                reason = await self._receive()
                if reason:
                    await self._recover(reason)
        except ConnectionLost as error:
            self._lose(str(error))
        finally:
            self._lose("the connection was closed before the reply")  # whatever ended this task, nobody waits for ever

    async def _receive(self) -> str:
        """Take what comes next; return why nothing more does, or nothing."""
        try:
            data = await self._hear()
        except OSError as error:
            return f"the connection to {self.address} was lost: {error.strerror or error}"
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
                return await asyncio.wait_for(self._reader.read(_CHUNK), min(limit or _LOOK, _LOOK))
            except TimeoutError:
                now = time.monotonic()
                if not self.core.expected or limit is None:
                    since = now
                elif now - since >= limit:
                    raise ConnectionLost(f"{self.address} said nothing for {limit:g} s") from None

    async def _recover(self, reason: str) -> None:
        """Find a daemon again and ask it what is not answered.

        Raises:
            ConnectionLost: why that is not possible.
        """
        self._writer.close()
        until = time.monotonic() + self._patience
        for pause in pauses():
            if time.monotonic() + pause > until or not self._patience:
                raise ConnectionLost(reason)
            await asyncio.sleep(pause)
            with suppress(DaemonUnreachable):
                await self._connect()
                break
        try:
            self.core.restart()
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
            self._writer.writelines(chunks)

    def _lose(self, reason: str) -> None:
        if self.lost is None:
            self.lost = ConnectionLost(reason)
            self._writer.close()
            if self._again is not None:
                self._again.cancel()
            for inbox in self._inboxes:
                inbox.woken.set()
            for _ in range(WINDOW):
                self._window.release()


class AsyncClient:
    """A connection to the daemon, opened at the first call and again after a loss. An async context manager.

    Args:
        address, options, timeout, patience: as of ``Client``.

    Every method raises ``DaemonUnreachable`` when no daemon answers and ``ConnectionLost`` when it went away, or is
    silent for too long; what had no reply is not done, so a retry is safe. To cancel a request, cancel its task.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        options: Options | None = None,
        timeout: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._address = address
        self._options = options or Options()
        self._timeout = timeout
        self._patience = patience
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def address(self) -> str:
        """The daemon that answered; empty before the first call."""
        return self._connection.address if self._connection else ""

    async def connect(self) -> None:
        """Open the connection now; does nothing when it is open."""
        await self._open()

    async def close(self) -> None:
        """Close the connection. Idempotent; a later call opens a new one."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    async def scan(self, path: Path, *, options: Options | None = None) -> Reply:
        """Score one file of the server. The reply tells when there is no score; it does not raise for a bad image.

        Raises:
            NsfwdError: the path is a directory; ``scan_dir`` is for those.
        """
        connection = await self._open()
        with connection.inbox() as inbox:
            await connection.room(inbox)
            connection.core.scan_path(inbox, path, options or self._options)
            await _finish(connection, inbox)
            return inbox.only_reply()

    async def scan_bytes(self, data: bytes, *, options: Options | None = None) -> Reply:
        """Score an encoded image that the server has no file of."""
        connection = await self._open()
        with connection.inbox() as inbox:
            await connection.room(inbox)
            connection.core.scan_bytes(inbox, data, options or self._options)
            await _finish(connection, inbox)
            return inbox.only_reply()

    async def scan_many(
        self,
        paths: Iterable[Path | Encoded | None] | AsyncIterable[Path | Encoded | None],
        *,
        recursive: bool = False,
        options: Options | None = None,
    ) -> AsyncGenerator[Reply, None]:
        """Score many paths or images, a window at a time; replies come as they finish. A directory gives one a file.

        A source that is about to wait for its next path gives None first: then what was asked is answered before the
        source is asked for more.
        """
        connection = await self._open()
        with connection.inbox() as inbox:
            async for path in _each(paths):
                if path is not None:
                    await connection.room(inbox)
                    connection.core.scan_any(inbox, path, options or self._options, recursive=recursive)
                    await connection.send()
                async for reply in _rest(connection, inbox, down_to=WINDOW - 1 if path is not None else 0):
                    yield reply
            async for reply in _rest(connection, inbox):
                yield reply

    async def scan_dir(
        self, path: Path, *, recursive: bool = False, options: Options | None = None
    ) -> AsyncGenerator[Reply, None]:
        """Score the files of a directory of the server as they finish; memory does not grow with the directory.

        When the list was cut short, the last reply is the directory's own and says why.
        """
        connection = await self._open()
        with connection.inbox() as inbox:
            await connection.room(inbox)
            connection.core.scan_path(inbox, path, options or self._options, recursive=recursive)
            await connection.send()
            async for reply in _rest(connection, inbox):
                yield reply

    async def ping(self) -> float:
        """Return the seconds of one round trip."""
        started = time.perf_counter()
        await self._operation("ping")
        return time.perf_counter() - started

    async def ready(self) -> dict[str, Any]:
        """Return ``ready`` (bool) and, while it is False, ``why``."""
        return await self._operation("ready")

    async def version(self) -> dict[str, Any]:
        """Return protocol number, limits, operations open to this client, models."""
        return await self._operation("version")

    async def models(self) -> dict[str, Any]:
        """Return what scores, and by which policies."""
        return await self._operation("models")

    async def poison(self, *, clear: bool = False) -> dict[str, Any]:
        """Return ``poison``, the files that crashed decoders; with ``clear`` forget them, ``cleared`` tells how many.

        Raises:
            NsfwdError: only root and the daemon's own user may clear, over the Unix socket.
        """
        return await self._operation("clear_poison" if clear else "poison")

    async def stats(self) -> dict[str, Any]:
        """Return the daemon's counters."""
        return await self._operation("stats")

    async def reload(self) -> dict[str, Any]:
        """Have changed settings and bundles taken up; return the ``models`` that serve now and the ``seconds`` it took.

        Raises:
            CodedError: ``reload_refused`` (what served before serves on), ``not_permitted``.
        """
        return await self._operation("reload")

    async def _operation(self, op: str) -> dict[str, Any]:
        connection = await self._open()
        with connection.inbox() as inbox:
            connection.core.operation(inbox, op)
            await _finish(connection, inbox)
            return inbox.only_answer()

    async def _open(self) -> _Connection:
        async with self._opening:
            if self._connection is not None and not self._connection.usable:
                await self.close()
            if self._connection is None:
                connection = _Connection(self._address, timeout=self._timeout, patience=self._patience)
                await connection.open()
                self._connection = connection
            return self._connection


async def _streams(sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock.setblocking(False)
    return await asyncio.open_connection(sock=sock)


async def _finish(connection: _Connection, inbox: _Inbox) -> None:
    await connection.send()
    while inbox.pending:
        await connection.change(inbox)
        if connection.lost is not None and inbox.pending:
            raise connection.lost


async def _rest(connection: _Connection, inbox: _Inbox, *, down_to: int = 0) -> AsyncIterator[Reply]:
    """Yield what arrives until at most ``down_to`` requests are still to end."""
    while inbox.replies or inbox.pending > down_to:
        if not inbox.replies:
            await connection.change(inbox)
        while inbox.replies:
            yield inbox.replies.popleft()


async def _each(
    paths: Iterable[Path | Encoded | None] | AsyncIterable[Path | Encoded | None],
) -> AsyncIterator[Path | Encoded | None]:
    if isinstance(paths, AsyncIterable):
        async for path in paths:
            yield path
    else:
        for path in paths:
            yield path
