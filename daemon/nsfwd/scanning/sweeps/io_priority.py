"""Work that stands back: the idle class of disk scheduling, and a nice value. Knows what Linux calls them."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import suppress

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_WHO_PROCESS = 1
_CLASS_IDLE = 3 << 13

NICE = 10
"""Enough for all that others want first, and not so much that replies are left lying while the daemon works."""


def stand_back() -> None:
    """Let everybody else go first, at the disk and at the processor. Threads that begin later do the same.

    A kernel or a sandbox that does not allow it leaves everything as it is.
    """
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE)
    with suppress(OSError):
        os.nice(max(0, NICE - os.nice(0)))
