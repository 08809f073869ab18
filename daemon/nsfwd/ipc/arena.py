"""The arena: one piece of shared memory in which decoders leave pixels and from which the engine takes them.

An anonymous memfd with a sealed size: it has no name, so nothing is left behind whoever dies and however, and no
process that maps it can shrink it under another's feet (which would be SIGBUS). The first part holds one **note** for
each worker, in which a decoder says what it is about to open; the **slots** lie behind, each beginning on a page.

It must not know what a slot holds nor who leases it: that is the server's bookkeeping.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time

PAGE = mmap.PAGESIZE

NOTES_BYTES = 64 * 1024
"""Size of the notes. Fixed, so that a child finds the slots without being told how many workers there are."""

_NUMBER = struct.Struct("=Q")
_STARTED = struct.Struct("=d")
_NOTE_BYTES = 64
"""One cache line a note: workers that write theirs at once do not disturb each other."""

MAX_WORKERS = NOTES_BYTES // _NOTE_BYTES

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Arena:
    """A mapping of the shared memory, in the server (``create``) or in a child (``attach``).

    Attributes:
        fd: the memfd, to be inherited by children.
        slot_bytes: usable size of one slot; slots begin ``stride`` bytes apart.
        slots: how many there are.
    """

    def __init__(self, fd: int, slot_bytes: int) -> None:
        self.fd = fd
        self.slot_bytes = slot_bytes
        self.stride = -(-slot_bytes // PAGE) * PAGE
        self.bytes = os.fstat(fd).st_size
        self.slots = (self.bytes - NOTES_BYTES) // self.stride
        self._map = mmap.mmap(fd, self.bytes)
        self._view = memoryview(self._map)

    @classmethod
    def create(cls, slots: int, slot_bytes: int, workers: int) -> Arena:
        """Make a new arena. Memory is taken from the system only as slots are first written.

        Args:
            slots: images whose pixels may lie here at once.
            slot_bytes: bytes of one image's pixels.
            workers: decoders that write notes, at most ``MAX_WORKERS``.

        Raises:
            ValueError: a count is out of range; the caller's fault.
            OSError: the system has no memory or no memfd; a retry may help.
        """
        if slots < 1 or slot_bytes < 1 or not 0 <= workers <= MAX_WORKERS:
            raise ValueError(f"no arena of {slots} slots of {slot_bytes} bytes for {workers} workers")
        fd = os.memfd_create("nsfwd-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, NOTES_BYTES + slots * -(-slot_bytes // PAGE) * PAGE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, slot_bytes)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int, slot_bytes: int) -> Arena:
        """Map an inherited arena; ``slot_bytes`` must be what its creator said."""
        return cls(fd, slot_bytes)

    def slot(self, index: int) -> memoryview:
        """Give the writable bytes of one slot.

        Shape: uint8 (slot_bytes,)

        Raises:
            IndexError: there is no such slot.
        """
        if not 0 <= index < self.slots:
            raise IndexError(f"no slot {index}; there are {self.slots}")
        start = NOTES_BYTES + index * self.stride
        return self._view[start : start + self.slot_bytes]

    def write_note(self, worker: int, number: int) -> None:
        """Say, before a file is opened, which job this worker is at. In a decoder.

        The time goes first and the number last, so that a number is never seen with an older job's time.
        """
        at = worker * _NOTE_BYTES
        _STARTED.pack_into(self._view, at + _NUMBER.size, time.monotonic())
        _NUMBER.pack_into(self._view, at, number + 1)

    def clear_note(self, worker: int) -> None:
        """Say that this worker is at no job: by a decoder between two, by the server before it starts a new one."""
        _NUMBER.pack_into(self._view, worker * _NOTE_BYTES, 0)

    def note(self, worker: int) -> tuple[int, float] | None:
        """Read what a worker is at: (the job's number, ``time.monotonic()`` when it began), None when at nothing.

        Hints only, from a process that is not trusted: good for choosing whom to blame or to kill.
        """
        at = worker * _NOTE_BYTES
        (number,) = _NUMBER.unpack_from(self._view, at)
        (started,) = _STARTED.unpack_from(self._view, at + _NUMBER.size)
        return (number - 1, started) if number else None

    def close(self) -> None:
        """Unmap and close. The memory returns to the system once every process has done so; idempotent.

        Raises:
            BufferError: a slot's view is still in use; the caller's fault.
        """
        if self.fd < 0:
            return
        self._view.release()
        self._map.close()
        os.close(self.fd)
        self.fd = -1
