"""``Pause``: the end of a sweep for now, at a time of the clock on the wall or after some seconds.

Both are read again and again, as clocks are set and machines sleep in between. Knows no sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

LOOK = 1.0
"""Seconds between two looks at the clock."""


def _wall() -> datetime:
    time.tzset()  # the time zone may be another one since
    return datetime.now()  # what the clock shows


def _elapsed() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # which goes on while the machine sleeps


class Pause:
    """One pause.

    Args:
        clock: hour and minute; the next time that the clock shows them, from now. None for never.
        seconds: after ``begin``; None for never.
        wall, elapsed: what the clock shows, and seconds that pass.
    """

    def __init__(
        self,
        clock: tuple[int, int] | None = None,
        seconds: float | None = None,
        *,
        wall: Callable[[], datetime] = _wall,
        elapsed: Callable[[], float] = _elapsed,
    ) -> None:
        self._clock, self._seconds, self._wall, self._elapsed = clock, seconds, wall, elapsed
        self._end: float | None = None
        self._shown = wall()
        self._target = self._next()

    def begin(self) -> None:
        """Count the seconds from now."""
        self._end = None if self._seconds is None else self._elapsed() + self._seconds

    def left(self) -> float:
        """Return after how many seconds to look again; 0 when it is time."""
        left = LOOK if self._end is None else min(LOOK, self._end - self._elapsed())
        return 0.0 if self._clock_is_due() else max(0.0, left)

    def _clock_is_due(self) -> bool:
        """Look at the clock. Where it was set back since the last look, its next such time counts."""
        if self._target is None:
            return False
        before, self._shown = self._shown, self._wall()
        if self._shown < before:
            self._target = self._next() or self._target
        return self._shown >= self._target

    def _next(self) -> datetime | None:
        if self._clock is None:
            return None
        then = self._shown.replace(hour=self._clock[0], minute=self._clock[1], second=0, microsecond=0)
        return then if then > self._shown else then + timedelta(days=1)
