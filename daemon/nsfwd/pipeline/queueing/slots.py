"""The slots of the arena and their leases.

A slot returns only when the process that held it has reported done or has been reaped, never on a deadline: a decoder
may still be writing. Each lease has a number that the child echoes, so that a stale message is recognised.
Pure bookkeeping; the memory itself is ``ipc.arena``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec

NO_SLOT = -1
"""The slot of a lease without one."""


class Lease(msgspec.Struct, gc=False):
    """One slot, held once. ``lease_id`` is another one each time that the slot is held."""

    slot: int
    lease_id: int

    def echoed(self, slot: int, lease_id: int) -> bool:
        """Whether a child speaks of this lease."""
        return self.slot == slot and self.lease_id == lease_id


class Slots:
    """The free slots of one arena.

    Behind the slots for images lie the self-test's own, each for one purpose. No image ever gets one of them: an engine
    has to be proved before images give their slots back, so the proof must not wait for such a slot.

    Args:
        count: how many slots there are for images.
        on_free: called after a slot has come back, so that waiting work can go on.
        own: how many slots the self-test has beside them.
    """

    def __init__(self, count: int, on_free: Callable[[], None], *, own: int = 0) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._own = set(range(count, count + own))
        self._lease_ids = [0] * (count + own)
        self._without_slot = itertools.count()
        self._on_free = on_free

    @property
    def free(self) -> int:
        """How many slots for images are free."""
        return len(self._free)

    def lease(self) -> Lease | None:
        """Take a free slot for an image; None when all are held."""
        if not self._free:
            return None
        slot = self._free.pop()
        return Lease(slot, self._lease_ids[slot])

    def lease_own(self, number: int) -> Lease | None:
        """Take the self-test's own slot of this number; None while it is held."""
        slot = self.count + number
        if slot not in self._own:
            return None
        self._own.discard(slot)
        return Lease(slot, self._lease_ids[slot])

    def lease_none(self) -> Lease:
        """A lease without a slot, for a job that makes no pixels."""
        return Lease(NO_SLOT, next(self._without_slot))

    def release(self, lease: Lease) -> None:
        """Give a slot back, where the lease has one.

        Raises:
            ValueError: the lease had ended already; a defect of the daemon.
        """
        slot = lease.slot
        if slot == NO_SLOT:
            return
        if self._lease_ids[slot] != lease.lease_id:
            raise ValueError(f"{lease} was released twice")
        self._lease_ids[slot] += 1
        if slot < self.count:
            self._free.append(slot)
        else:
            self._own.add(slot)
        self._on_free()
