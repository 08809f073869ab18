"""The circuit breaker: a run that would act on too many files is stopped before it does.

A wrong threshold, a wrong model or a wrong directory shows first in the number of files that are to go. Pure: it is
told the time, and counts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from nsfwd.errors import BreakerOpen

MOST = 100
"""Files that one run may act on: more than a night usually brings, and few enough to look through and put back."""

SHARE = 0.01
"""Part of the files judged that a run may act on: collections that people keep hold far fewer alarms, so more of them
say that a threshold, a model or a directory is wrong."""

LEAST = 10
"""Files that the share never stands in the way of: of the first few files judged, one alarm is a large part already.
With a share of 1 %, it begins to count at 1,000 files."""

DAY = 86_400.0
"""For a watch, which never ends, both limits are for the last so many seconds."""


@dataclass(slots=True)
class Limits:
    """How many files a run may act on.

    Attributes:
        most: files. ``share``: part of those judged, 0 to 1. Both must hold.
        window: seconds that count, None for the whole run.
    """

    most: int = MOST
    share: float = SHARE
    window: float | None = None


class Breaker:
    """Counts what a run judged and acts on.

    Attributes:
        known: files of its trees that were judged before it began.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.known = 0
        self.judged = 0
        self.acted = 0
        self._times: deque[tuple[float, bool]] = deque()

    def note(self, now: float) -> None:
        """Count one judged file."""
        self.judged += 1
        self._remember(now, acted=False)

    def ask(self, now: float) -> None:
        """Count one more file to act on.

        Raises:
            BreakerOpen: it would be one too many; nothing may be done to it.
        """
        reason = self.reason(self.acted + 1)
        if reason:
            raise BreakerOpen(reason)
        self.acted += 1
        self._remember(now, acted=True)

    def reason(self, acted: int) -> str:
        """Return the reason to stop, naming the setting; empty while there is none."""
        limits, judged = self._limits, max(self.known, self.judged)
        if acted > limits.most:
            return (
                f"stopped before acting on more than {limits.most} files: see what they are, then raise --max-actions"
            )
        if acted > max(LEAST, limits.share * judged):
            return (
                f"stopped before acting on {acted} of {judged} files judged, more than {100 * limits.share:.3g} %:"
                " see what they are, then raise --max-share"
            )
        return ""

    def _remember(self, now: float, *, acted: bool) -> None:
        if self._limits.window is None:
            return
        self._times.append((now, acted))
        while self._times[0][0] < now - self._limits.window:
            _, was = self._times.popleft()
            self.acted -= was
            self.judged -= not was
