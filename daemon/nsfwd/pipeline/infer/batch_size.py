"""The size of the next batch: all that the engine can use while one flow asks, less while others may come at any time.

No turn can come before the images that are in the engine. Full batches are a few percent faster; a single request
beside a crowd waits half as long behind small ones. Pure: it gets the time as an argument and knows no process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nsfwd.protocol.messages import Lane

if TYPE_CHECKING:
    from collections.abc import Collection, Sized

    from nsfwd.ipc.child_messages import EngineReady
    from nsfwd.pipeline.queueing.tickets import Claim

BATCHES_IN_FLIGHT = 2
"""One that the device works on and one that is ready when it ends."""

COMPANY = 2.0
"""Seconds after two have asked by turns in which they count as being at it: longer than a person's client takes to
look at a reply and ask again."""


GPU_BATCH = 64
"""Largest batch on a GPU where no setting names one."""

IMAGES_A_CORE = 2
"""The same on a CPU, for each core. Two batches are in flight, so no core waits for the server; four a core were no
faster and only made others wait longer (docs/performance.md)."""

_NVIDIA = Path("/dev/nvidiactl")


class BatchSizer:
    """Sizes batches by the flows that asked lately."""

    def __init__(self) -> None:
        self._last: tuple[object, ...] = ()
        self._company = 0.0

    def asked(self, claim: Claim, now: float) -> None:
        """An image of this claim waits for the engine since ``now``.

        The background lane always counts as company: it must be in no other flow's way.
        """
        peer = claim.flow[:-1]
        if claim.lane is Lane.BACKGROUND or (peer != self._last and peer and self._last):
            self._company = now + COMPANY
        self._last = peer or self._last

    def next_size(self, engine: EngineReady, held: Collection[Sized], now: float) -> int:
        """How many images the next batch may have.

        Args:
            held: the batches that the engine has.

        Returns:
            0 where it has enough.
        """
        most = engine.buckets[-1]
        if engine.streams <= BATCHES_IN_FLIGHT or now >= self._company:
            return most if len(held) < BATCHES_IN_FLIGHT else 0
        if len(held) >= engine.streams:
            return 0
        return min(max(1, most // engine.streams), max(0, most - sum(map(len, held))))


def default_max_batch(device: str) -> int:
    """The largest batch for a device as the setting names it; ``auto`` is a GPU where the kernel shows one."""
    if device == "gpu" or (device == "auto" and _NVIDIA.exists()):
        return GPU_BATCH
    return IMAGES_A_CORE * len(os.sched_getaffinity(0))
