"""Files that commands write beside an index: for their owner alone, and whole or not there at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def private(path: Path) -> Iterator[BinaryIO]:
    """Lend a new file (mode 0600) that takes its place at ``path`` when the block ends well, and else vanishes.

    A device or a pipe that is at ``path`` stays there, and is written to.

    Raises:
        OSError: it cannot be written; what was at ``path`` is still there.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
