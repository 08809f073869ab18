"""Notifies the service manager while the daemon works, and stays silent when it does not (WatchdogSec=).

The daemon works when this loop is on time and every stage that has work makes progress. Otherwise the stacks of all
threads are logged before the manager kills it: those of a loop that hangs are written by a C thread of Python.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress

from nsfwd.systemd import Notifier

_log = logging.getLogger("nsfwd.server")

Work = Callable[[], Mapping[str, "tuple[int, float] | None"]]
"""Stage -> items done so far and seconds allowed for the next one; None while it has no work."""


def watchdog_seconds(environment: MutableMapping[str, str]) -> float:
    """Return the watchdog interval of the service manager in seconds (sd_watchdog_enabled(3)), 0 for none.

    Args:
        environment: the variables are removed, so that no child answers for the daemon.
    """
    pid, text = environment.pop("WATCHDOG_PID", ""), environment.pop("WATCHDOG_USEC", "")
    if not text.isdigit() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(text) / 1e6


class Watchdog:
    """Checks for progress four times within the manager's interval.

    Args:
        seconds: the manager's interval; 0 for no watchdog.
        notifier: sends to the manager.
        work: the progress of the pipeline.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, notifier: Notifier, work: Work) -> None:
        self._loop = loop
        self._seconds = seconds
        self._notifier = notifier
        self._work = work
        self._seen: dict[str, tuple[int, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._complained = False

    def start(self) -> None:
        """Begin to check, where the manager has a watchdog."""
        if self._seconds:
            self._look()

    def stop(self) -> None:
        """End; from now on the manager's stop timeout counts."""
        if self._timer is not None:
            self._timer.cancel()
            with suppress(OSError, ValueError):
                faulthandler.cancel_dump_traceback_later()

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._seconds / 4, self._look)
        with suppress(OSError, ValueError):  # a stderr without a descriptor, as under some test runners
            faulthandler.dump_traceback_later(self._seconds * 0.75, file=sys.stderr)
        stuck = self.standstill()
        if not stuck:
            self._complained = False
            self._notifier.alive()
        elif not self._complained:
            self._complained = True
            _log.error("%s: no progress; no further keep-alive is sent to the service manager", ", ".join(stuck))
            with suppress(OSError, ValueError):
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)

    def standstill(self) -> list[str]:
        """Return the stages that have had work for too long without progress."""
        now, stuck = self._loop.time(), []
        for stage, state in self._work().items():
            if state is None:
                self._seen.pop(stage, None)
                continue
            done, patience = state
            before = self._seen.get(stage)
            if before is None or before[0] != done:
                self._seen[stage] = (done, now)
            elif now - before[1] >= patience:
                stuck.append(stage)
        return stuck
