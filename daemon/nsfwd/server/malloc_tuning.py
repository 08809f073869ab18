"""Memory that large buffers held goes back to the system when they are gone.

Left alone, glibc raises the size from which it maps a buffer by itself as soon as a large one was freed; later ones
then lie among small ones on the heap, which does not shrink. After a few peers that read none of their replies the
server stayed at ten times its size.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""

LARGE = 256 << 10
"""Bytes from which a buffer is mapped by itself: more than one read or write takes."""

SPARE = 1 << 20
"""Free bytes kept at the end of the heap, so that reading does not ask the kernel for memory again and again."""


WORTH = 4 << 20
"""Bytes by which this process must have grown before its heap is gone through, which takes some milliseconds."""

AGAIN = 4
"""How often in a row the heap is gone through then, so that work which ends a little later is included."""

KEPT = 512
"""More than the objects of one kind that uvloop and asyncio keep for their next use (250 and 255)."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


class MallocTrimmer:
    """Gives the heap back after peers held much of it: small things lie among what is free, so that it does not shrink.

    Called about once a second.

    Args:
        loop: whose handles and futures are among these small things.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fresh: list[object] = []
        self._settled = 0
        self._left = 0
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def look(self, *, calm: bool) -> None:
        """Trim once this process has grown.

        Args:
            calm: peers hold next to nothing now.
        """
        size = resident()
        if not self._settled or size < self._settled:
            self._settled = size
        if calm and size > self._settled + WORTH:
            self._left = AGAIN
        if not self._left:
            return
        self._left -= 1
        self._renew()
        gc.collect()  # an error that was passed on refers to itself by its traceback
        if self._trim is not None:
            self._trim(0)
        self._settled = resident()

    def _renew(self) -> None:
        """Have others take the place of the objects that uvloop and asyncio keep, which lie all over what was used.

        As many are made as they keep, where there is room among what stays; at the next call these are dropped in turn,
        the newest first, so that they are kept and the old ones are not.
        """
        while self._fresh:
            self._fresh.pop()
        if self._left:
            future = self._loop.create_future()
            self._fresh += [self._loop.call_soon(_nothing) for _ in range(KEPT)]
            self._fresh += [self._loop.call_later(0, _nothing) for _ in range(KEPT)]
            self._fresh += [iter(future) for _ in range(KEPT)]


def _nothing() -> None:
    pass


def resident() -> int:
    """Return the bytes of memory that this process has; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def give_back_large_buffers() -> None:
    """Settle it for this process. Where the C library has no such word it manages by itself."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGE)
        mallopt(_TRIM_THRESHOLD, SPARE)
