"""``AsyncClient``: the daemon from asyncio. Many tasks may share one.

What may be asked, and how; ``async_session`` moves the bytes and wakes who waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nsfwd.client.async_session import AsyncSession, Mailbox
from nsfwd.client.scan_inputs import Item, Options, Path, each
from nsfwd.client.sync_client import PATIENCE
from nsfwd.protocol.limits import WINDOW

if TYPE_CHECKING:
    from nsfwd.client.results import Reply


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
        self._connection: AsyncSession | None = None
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

    @property
    def passes_descriptors(self) -> bool:
        """Whether the daemon was reached over a Unix socket, by which alone descriptors pass."""
        return self._connection is not None and self._connection.passes_descriptors

    async def connect(self) -> None:
        """Open the connection now; does nothing when it is open."""
        await self._open()

    async def close(self) -> None:
        """Close the connection. Idempotent; a later call opens a new one."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    async def scan(self, path: Path, *, options: Options | None = None) -> Reply:
        """Score one file of the server. A bad image gives a reply without a score; it does not raise.

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

    async def scan_fd(self, descriptor: int, name: str = "", *, options: Options | None = None) -> Reply:
        """Score a regular file that the caller has open for reading, which the daemon need not be able to open.

        Args:
            descriptor: stays the caller's, who leaves it open until the reply.
            name: what the file is called in the reply.

        Raises:
            NsfwdError: the daemon was not reached over a Unix socket, by which alone descriptors pass.
        """
        connection = await self._open()
        with connection.inbox() as inbox:
            await connection.room(inbox)
            connection.core.scan_fd(inbox, descriptor, options or self._options, name=name)
            await _finish(connection, inbox)
            return inbox.only_reply()

    async def scan_many(
        self,
        paths: Iterable[Item | None] | AsyncIterable[Item | None],
        *,
        recursive: bool = False,
        options: Options | None = None,
    ) -> AsyncGenerator[Reply, None]:
        """Score many paths, images or open files, a window at a time; replies come as they finish, many of a directory.

        A source that is about to wait for its next path gives None first: then what was asked is answered before the
        source is asked for more.
        """
        connection = await self._open()
        with connection.inbox() as inbox:
            async for path in each(paths):
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
            CodedError: ``reload_refused`` (the previous configuration still serves), ``not_permitted``.
        """
        return await self._operation("reload")

    async def _operation(self, op: str) -> dict[str, Any]:
        connection = await self._open()
        with connection.inbox() as inbox:
            connection.core.operation(inbox, op)
            await _finish(connection, inbox)
            return inbox.only_answer()

    async def _open(self) -> AsyncSession:
        if self._connection is not None and self._connection.usable:
            return self._connection
        async with self._opening:
            if self._connection is not None and not self._connection.usable:
                await self.close()
            if self._connection is None:
                connection = AsyncSession(self._address, timeout=self._timeout, patience=self._patience)
                await connection.open()
                self._connection = connection
            return self._connection


async def _finish(connection: AsyncSession, inbox: Mailbox) -> None:
    await connection.send()
    while inbox.pending:
        await connection.change(inbox)
        if connection.lost is not None and inbox.pending:
            raise connection.lost


async def _rest(connection: AsyncSession, inbox: Mailbox, *, down_to: int = 0) -> AsyncIterator[Reply]:
    """Yield what arrives until at most ``down_to`` requests are still to end."""
    while inbox.replies or inbox.pending > down_to:
        if not inbox.replies:
            await connection.change(inbox)
        while inbox.replies:
            yield inbox.replies.popleft()
