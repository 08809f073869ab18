"""Files that commands write beside an index: for their owner alone, and whole or not there at all.

What is no file is written to as it is: a device, a pipe, and this process's own streams by whatever name.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_STREAM = re.compile(r"/(?:dev|proc/(?:self|thread-self|\d+))/fd/(\d+)")


@contextmanager
def private(path: Path) -> Iterator[BinaryIO]:
    """Lend a new file (mode 0600) that takes its place at ``path`` when the block ends well, and else vanishes.

    A link is followed: what it points to is replaced, never the link. ``-`` (standard output), ``/dev/stdout`` and the
    like are the stream that this process has, wherever it leads.

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
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    target = path.resolve()
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        error.filename = str(path)  # nobody has heard of the draft
        raise
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
