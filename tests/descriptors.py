"""Whether a test closes what it opens, whatever earlier tests of the same process have left to the collector."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 60.0
"""Seconds after which a descriptor that a thread is to close is left open; they only bound a failure."""


@contextlib.contextmanager
def all_closed(*, but: int = 0) -> Iterator[None]:
    """See that what is opened inside is closed afterwards, at most a moment later.

    Args:
        but: how many may stay, such as an event loop's own.
    """
    before = _held()
    yield
    end = time.monotonic() + PATIENCE
    while len(left := _held() - before) > but:
        assert time.monotonic() < end, f"left open: {left}"


def _held() -> set[str]:
    """The number of each open descriptor, and what is behind it: a number alone may be given a second time."""
    gc.collect()
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor that read this directory
            found.add(f"{entry.name} {entry.readlink()}")
    return found
