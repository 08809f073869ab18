"""``FileHasher``: SHA-256 of files, read in threads, several in a turn: a hand-over costs as much as a hash."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.open_files import digest_of

READERS = 4
"""Threads that read at once."""

MOST = 16
"""Files of one turn: a window of requests is shared by the readers."""


class FileHasher:
    """Reads what is asked for. For one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[FileEntry, asyncio.Future[bytes | None]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers = 0

    async def of(self, found: FileEntry) -> bytes | None:
        """Return the digest of a file; None when it cannot be read or is no longer the one that was found."""
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((found, answer))
        if self._readers < READERS:
            self._readers += 1
            reader = asyncio.create_task(self._read())
            self._tasks.add(reader)
            reader.add_done_callback(self._tasks.discard)
        return await answer

    async def _read(self) -> None:
        while self._waiting:
            share = min(MOST, -(-len(self._waiting) // READERS))
            part = [self._waiting.popleft() for _ in range(share)]
            try:
                digests = await asyncio.to_thread(_digests_of, [found for found, _ in part])
            except Exception as error:  # of whoever asked
                for _, answer in part:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), digest in zip(part, digests, strict=True):
                    if not answer.done():
                        answer.set_result(digest)
        self._readers -= 1  # in the same turn as the look at who waits: nobody is left behind


def _digests_of(files: Sequence[FileEntry]) -> list[bytes | None]:
    return [digest_of(found) for found in files]
