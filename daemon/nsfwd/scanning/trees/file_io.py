"""Single files beside the daemon: opened, hashed in threads, dropped from the page cache, and written for their owner.

A sweep reads files that may never be read again; they must not push the pages of other programs out of memory. Files
that commands write are for their owner alone, and whole or not there at all. Blocks, but for ``FileHasher``.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nsfwd.protocol.messages import FileIdentity
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.files import digest_of
from nsfwd.scanning.trees.safe_paths import safe_parent

HASHERS = 4
"""Threads that hash at once."""

HASHED_AT_ONCE = 16
"""Most files of one turn of a thread: a window of requests is shared by the threads."""

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # a FIFO must not hold it up
_STREAM = re.compile(r"/(?:dev|proc/(?:self|thread-self|\d+))/fd/(\d+)")


@contextmanager
def opened(path: bytes) -> Iterator[int]:
    """Lend a descriptor of a regular file.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(path)
        yield descriptor
    finally:
        os.close(descriptor)


def unchanged_digest(entry: FileEntry) -> bytes | None:
    """Return the SHA-256 of a file; None when it cannot be read or is no longer the one that was found."""
    try:
        with opened(entry.path) as descriptor:
            before = FileIdentity.of(os.fstat(descriptor))
            digest = digest_of(descriptor)
            return digest if before == FileIdentity.of(os.fstat(descriptor)) == entry.identity else None
    except OSError:
        return None


class FileHasher:
    """Hashes files in threads, several in a turn, as passing one to a thread costs much. For one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[FileEntry, asyncio.Future[bytes | None]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers = 0

    async def digest(self, entry: FileEntry) -> bytes | None:
        """Return the digest of a file; None when it cannot be read or is no longer the one that was found."""
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, answer))
        if self._readers < HASHERS:
            self._readers += 1
            reader = asyncio.create_task(self._read())
            self._tasks.add(reader)
            reader.add_done_callback(self._tasks.discard)
        return await answer

    async def _read(self) -> None:
        while self._waiting:
            share = min(HASHED_AT_ONCE, -(-len(self._waiting) // HASHERS))
            part = [self._waiting.popleft() for _ in range(share)]
            try:
                digests = await asyncio.to_thread(_digests_of, [entry for entry, _ in part])
            except Exception as error:  # of the caller
                for _, answer in part:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), digest in zip(part, digests, strict=True):
                    if not answer.done():
                        answer.set_result(digest)
        self._readers -= 1  # in the same turn as the look at the queue: no caller is left behind


def _digests_of(files: Sequence[FileEntry]) -> list[bytes | None]:
    return [unchanged_digest(entry) for entry in files]


def forget(paths: Iterable[bytes]) -> None:
    """Let the kernel drop the pages of files that were read."""
    for path in paths:
        with suppress(OSError), opened(path) as descriptor:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def is_there(path: bytes, *, directory: bool = False, follow: bool = True) -> bool:
    """Tell whether there is a regular file, or a directory; also True while that cannot be found out."""
    is_kind = stat.S_ISDIR if directory else stat.S_ISREG
    try:
        return is_kind(os.stat(path, follow_symlinks=follow).st_mode)  # noqa: PTH116 (pathlib knows no bytes)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


@contextmanager
def private(path: Path) -> Iterator[BinaryIO]:
    """Lend a new file (mode 0600) that takes its place at ``path`` when the block ends well, and else vanishes.

    A link that no other user can have planted is followed: what it points to is replaced, never the link. ``-``
    (standard output), ``/dev/stdout`` and the like are the stream that this process has, wherever it leads.

    Raises:
        OSError: it cannot be written, and names ``path``; what was there is still there.
    """
    with _stream(path) or _lent(path) as file:
        yield file


def _stream(path: Path) -> BinaryIO | None:
    """Return one of this process's own streams, when that is what a path leads to: to be written at where it is."""
    place = Path("/dev/stdout") if str(path) == "-" else path.absolute()
    for _ in range(10):
        if match := _STREAM.fullmatch(str(place)):
            return os.fdopen(os.dup(int(match[1])), "wb")
        if not place.is_symlink():
            break
        place = place.parent / place.readlink()
    return None


@contextmanager
def _lent(path: Path) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        with _naming(path):
            place, name = stack.enter_context(safe_parent(os.fsencode(path.absolute())))
            special = _is_special(place, name)
            draft = name if special else b".nsfwd-%b" % secrets.token_hex(8).encode()
            flags = os.O_WRONLY if special else os.O_CREAT | os.O_EXCL | os.O_RDWR
            descriptor = os.open(draft, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=place)
        if special:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            return
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with _naming(path):
                os.rename(draft, name, src_dir_fd=place, dst_dir_fd=place)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft, dir_fd=place)
            raise


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors name the path that was asked for, not the temporary file."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _is_special(place: int, name: bytes) -> bool:
    """Tell whether there is something else than a regular file, to be written to as it is."""
    try:
        return not stat.S_ISREG(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
