"""Memory that large buffers held goes back to the system when they are gone.

Left alone, glibc raises the size from which it maps a buffer by itself as soon as a large one was freed; later ones
then lie among small ones on the heap, which does not shrink. After a few peers that read none of their replies the
server stayed at ten times its size.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""

LARGE = 256 << 10
"""Bytes from which a buffer is mapped by itself: larger than what is read or written at a time."""

SPARE = 1 << 20
"""Free bytes kept at the end of the heap, so that reading does not ask the kernel for memory again and again."""


def give_back_large_buffers() -> None:
    """Settle it for this process. Where the C library has no such word it manages by itself."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGE)
        mallopt(_TRIM_THRESHOLD, SPARE)
