"""Who holds which slot of the arena.

A slot returns only when the process that held it has reported done or has been reaped, never on a deadline: a decoder
may still be writing. Each lease has a generation that the child echoes, so that a stale message is recognised.
Pure bookkeeping; the memory itself is ``ipc.arena``.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Lease(msgspec.Struct, gc=False):
    """One slot, held once."""

    slot: int
    generation: int

    def echoed(self, slot: int, generation: int) -> bool:
        """Tell whether a child speaks of this lease."""
        return self.slot == slot and self.generation == generation


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
        self._generations = [0] * (count + own)
        self._on_free = on_free

    @property
    def free(self) -> int:
        """How many slots for images nobody holds."""
        return len(self._free)

    def lease(self) -> Lease | None:
        """Take a free slot for an image; None when all are held."""
        if not self._free:
            return None
        slot = self._free.pop()
        return Lease(slot, self._generations[slot])

    def lease_own(self, number: int) -> Lease | None:
        """Take the self-test's own slot of this number; None while it is held."""
        slot = self.count + number
        if slot not in self._own:
            return None
        self._own.discard(slot)
        return Lease(slot, self._generations[slot])

    def release(self, lease: Lease) -> None:
        """Give a slot back.

        Raises:
            ValueError: the lease had ended already; a defect of the daemon.
        """
        if self._generations[lease.slot] != lease.generation:
            raise ValueError(f"{lease} was released twice")
        self._generations[lease.slot] += 1
        if lease.slot < self.count:
            self._free.append(lease.slot)
        else:
            self._own.add(lease.slot)
        self._on_free()
