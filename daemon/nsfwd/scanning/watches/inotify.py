"""``Inotify``: the kernel's events of directories: files closed after a write, moved in, made or gone, and lost events.

Plain ctypes, three calls of the C library. Libraries above it show files as added or modified: when a writer closed,
that the kernel's queue ran over, and which single directory could not be watched does not come through, and a watch
that promises to lose nothing needs just these. Knows no tree and no loop.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

IN_CLOSE_WRITE = 0x0008
IN_MOVED_FROM = 0x0040
IN_MOVED_TO = 0x0080
IN_CREATE = 0x0100
IN_DELETE_SELF = 0x0400
IN_MOVE_SELF = 0x0800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000
IN_DONT_FOLLOW = 0x02000000
IN_EXCL_UNLINK = 0x04000000
IN_ISDIR = 0x40000000

EVENTS = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF

_HEADER = struct.Struct("=iIII")
_BUFFER = 256 * 1024
"""Bytes read at once: some thousand events."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        watch: the number that ``add`` returned; -1 of the queue itself.
        mask: of the ``IN_`` bits. ``name``: within the directory.
    """

    watch: int
    mask: int
    name: bytes


class Inotify:
    """One queue of events.

    Raises:
        OSError: the kernel gives no more of them (``fs.inotify.max_user_instances``).
    """

    def __init__(self) -> None:
        self.descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def add(self, directory: bytes, *, follow: bool = False) -> int:
        """Watch a directory; return its number, the same one when it is watched already.

        Raises:
            OSError: ENOSPC: ``fs.inotify.max_user_watches`` are taken; or it is not there, no directory, not readable.
        """
        flags = EVENTS | IN_ONLYDIR | IN_EXCL_UNLINK | (0 if follow else IN_DONT_FOLLOW)
        return _checked(_libc.inotify_add_watch(self.descriptor, directory, flags))

    def remove(self, watch: int) -> None:
        """Stop watching one directory; one that is gone already does not matter."""
        _libc.inotify_rm_watch(self.descriptor, watch)

    def read(self) -> list[Event]:
        """Return the events since the last call."""
        try:
            data = os.read(self.descriptor, _BUFFER)
        except BlockingIOError:
            return []
        events, at = [], 0
        while at < len(data):
            watch, mask, _, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            events.append(Event(watch, mask, data[at : at + length].rstrip(b"\0")))
            at += length
        return events


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "inotify")
    return result
