"""Files that commands write beside an index: for their owner alone, and whole or not there at all.

What is no file is written to as it is: a device, a pipe, and this process's own streams by whatever name.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nsfwd.scanning.trees.safe_paths import safe_parent

_STREAM = re.compile(r"/(?:dev|proc/(?:self|thread-self|\d+))/fd/(\d+)")


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
    """Have errors name the path that was asked for: nobody has heard of the draft."""
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
