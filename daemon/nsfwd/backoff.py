"""Back-off schedules, by name: how many seconds to wait before each further try. Pure, without a clock or a process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait before each try. Iterate over it for the waits one after the other, without end.

    Attributes:
        seconds: before the first, second, ... try; the last one repeats.
    """

    seconds: tuple[float, ...]

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after ``failures`` further tries failed in a row."""
        return self.seconds[min(failures, len(self.seconds) - 1)]

    @property
    def longest(self) -> float:
        """The wait that repeats."""
        return self.seconds[-1]

    def __iter__(self) -> Iterator[float]:
        yield from self.seconds
        while True:
            yield self.seconds[-1]


SPAWN = Backoff((0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0))
"""Decoders and listers that cannot be started or end early: a system without processes recovers in seconds."""

ENGINE_RESTART = Backoff((0.0, 1.0, 2.0, 4.0))
"""Engines that ended before they were of use."""

RECONNECT = Backoff((0.0, 0.1, 0.2, 0.4, 0.8))
"""Clients that lost the daemon: a restart takes some seconds."""

DAEMON_ABSENT = Backoff((0.2, 0.5, 1.0, 2.0, 5.0))
"""Sweeps, watches and spools while no daemon is ready, for as long as that takes."""

TRANSIENT_ERROR = Backoff((1.0, 2.0, 3.0))
"""Files whose error was the daemon's and passes soon."""

LIST_LEFT = Backoff((5.0, 15.0, 60.0, 300.0))
"""Lists of a spool that can be neither done nor put aside: a person has to act."""
