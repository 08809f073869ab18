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

    Args:
        count: how many slots there are.
        on_free: called after a slot has come back, so that waiting work can go on.
    """

    def __init__(self, count: int, on_free: Callable[[], None]) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._generations = [0] * count
        self._on_free = on_free

    @property
    def free(self) -> int:
        """How many slots nobody holds."""
        return len(self._free)

    def lease(self) -> Lease | None:
        """Take a free slot; None when all are held."""
        if not self._free:
            return None
        slot = self._free.pop()
        return Lease(slot, self._generations[slot])

    def release(self, lease: Lease) -> None:
        """Give a slot back.

        Raises:
            ValueError: the lease had ended already; a defect of the daemon.
        """
        if self._generations[lease.slot] != lease.generation:
            raise ValueError(f"{lease} was released twice")
        self._generations[lease.slot] += 1
        self._free.append(lease.slot)
        self._on_free()
