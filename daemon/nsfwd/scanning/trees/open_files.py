"""Reading files beside the daemon: their digests, their descriptors, and leaving no pages behind in memory.

A sweep reads what nobody may ask for again; what it read must not push out of memory what others use. Knows files and
nothing of verdicts. Blocks: for a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from nsfwd.protocol.messages import FileIdentity
from nsfwd.scanning.trees.file_entry import FileEntry

_CHUNK = 1024 * 1024
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # a FIFO must not hold it up


@contextmanager
def opened(path: bytes) -> Iterator[int]:
    """Lend a descriptor of a regular file.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(path)
        yield descriptor
    finally:
        os.close(descriptor)


def digest_of(found: FileEntry) -> bytes | None:
    """Return the SHA-256 of a file; None when it cannot be read or is no longer the one that was found."""
    digest = hashlib.sha256()
    try:
        with opened(found.path) as descriptor:
            before = FileIdentity.of(os.fstat(descriptor))
            while chunk := os.read(descriptor, _CHUNK):
                digest.update(chunk)
            same = before == FileIdentity.of(os.fstat(descriptor)) == found.identity
    except OSError:
        return None
    return digest.digest() if same else None


def forget(paths: Iterable[bytes]) -> None:
    """Let the kernel drop the pages of files that were read."""
    for path in paths:
        with suppress(OSError), opened(path) as descriptor:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def is_there(path: bytes) -> bool:
    """Tell whether there is a regular file."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 (pathlib knows no bytes)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
