"""How soon an engine that ended is followed by another, and when it is given up. Pure: told the time, knows no process.

An engine that has scored anybody's image works, whoever kills it: it is followed at once, however often that happens.
One that ends before it was of use may never be, so each such end makes the next start later, and too many the last.
"""

from __future__ import annotations

from collections import deque

from nsfwd.backoff import ENGINE_RESTART

MOST_DEATHS = 5
DEATH_WINDOW = 60.0
"""More than ``MOST_DEATHS`` without use in this many seconds: the engine is broken and the daemon gives up."""


class Restarts:
    """The ends of the engines of one stage since the last that was of use."""

    def __init__(self) -> None:
        self._useless: deque[float] = deque()

    def delay(self, now: float, *, useful: bool) -> float | None:
        """Seconds until the restart after an end at ``now``; None when there have been too many.

        Args:
            useful: the engine that ended had scored an image.
        """
        if useful:
            self._useless.clear()
            return 0.0
        self._useless.append(now)
        while self._useless[0] < now - DEATH_WINDOW:
            self._useless.popleft()
        if len(self._useless) > MOST_DEATHS:
            return None
        return ENGINE_RESTART.delay(len(self._useless) - 1)
