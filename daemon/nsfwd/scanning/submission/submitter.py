"""How much a run has in flight: as much as the daemon takes, less when it refuses; and a rate, where one is wanted.

Grows by one place for each window of replies and halves with a refusal, as TCP does. Knows no request.
"""

from __future__ import annotations

import asyncio
from collections import deque

from nsfwd.protocol.limits import WINDOW


class CongestionWindow:
    """Places for requests in flight.

    Args:
        most: places at the start, and the most there ever are: what the daemon takes of one connection.

    Attributes:
        times: that it shrank. Whoever asks notes it, so that refusals of what went out together count as one.
    """

    def __init__(self, most: int = WINDOW) -> None:
        self._most = most
        self._limit = float(most)
        self.times = 0
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Places there are at present."""
        return int(self._limit)

    async def take(self) -> None:
        """Wait for a place. One task at a time waits here."""
        while self._taken >= self.limit:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
        self._taken += 1

    def give(self) -> None:
        """Give a place back."""
        self._taken -= 1
        if self._waiting and self._taken < self.limit:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def grow(self) -> None:
        """Note a reply that was no refusal."""
        if self._limit < self._most:
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def shrink(self, times: int) -> None:
        """Note a refusal of what went out when it had shrunk so many times."""
        if times == self.times:
            self._limit = max(1.0, self._limit / 2)
            self.times += 1


class RateLimit:
    """At most so many a second, evenly.

    Args:
        rate: None is no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = 0.0

    async def keep(self) -> None:
        """Wait for the time of the next one."""
        if not self._gap:
            return
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + self._gap
