"""Start child processes, again and later where the system cannot start one now, and tell when one ends unasked.

Knows nothing of what they do.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from nsfwd.backoff import SPAWN
from nsfwd.errors import EngineError
from nsfwd.ipc.child import CannotStart
from nsfwd.logs import fields

if TYPE_CHECKING:
    from nsfwd.ipc.child import Child, Exit

ABANDONED_A_CORE = 4
"""Processes that may be left behind because nothing can end them, a core; beyond it none is replaced."""

KILL_PATIENCE = 1.0
"""Seconds a killed process may take to end. One that needs longer is held by the kernel (a stalled mount)."""

_log = logging.getLogger("nsfwd.pipeline")


class ProcessStarter:
    """Starts the processes of one stage, and remembers how often in a row that failed.

    Args:
        on_broken: called soon when this system will never start one.

    Attributes:
        failures: how many starts failed since the last that succeeded.
        problem: why none can be started at present, for ``ready`` and ``stats``; empty while they can.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_broken: Callable[[EngineError], None]) -> None:
        self._loop = loop
        self._on_broken = on_broken
        self.failures = 0
        self.problem = ""

    def start(self, child: Child, again: Callable[[], None]) -> bool:
        """Try to start it; when the system cannot, have ``again`` called in a while.

        Returns:
            Whether it was started.
        """
        try:
            child.start()
        except CannotStart as error:
            self._loop.call_soon(self._on_broken, EngineError(f"{child.name} cannot be started: {error}"))
            return False
        except OSError as error:
            delay = SPAWN.delay(self.failures)
            self.failures += 1
            problem = f"{child.name.partition(' ')[0]} processes cannot be started: {error.strerror}"
            if problem != self.problem:
                _log.warning("%s; trying again until it works", problem)
            self.problem = problem
            self._loop.call_later(delay, again)
            return False
        if self.failures:
            _log.warning("%s was started, after %d tries that failed", child.name, self.failures)
        self.failures, self.problem = 0, ""
        return True


def tell_end(child: Child, exit_: Exit, why: str = "") -> None:
    """Tell the operator of a process that ended and was not asked to.

    Args:
        why: it was killed here, and for this.
    """
    words = exit_.last_words.rpartition("\n")[2]
    about = "; ".join(filter(None, (str(exit_), why, words)))
    extra = fields(kind=child.name.partition(" ")[0], child=child.name, child_pid=child.pid)
    _log.warning("%s (pid %d) ended: %s", child.name, child.pid, about, extra=extra)


def most_abandoned() -> int:
    """How many processes a stage may leave behind."""
    return ABANDONED_A_CORE * len(os.sched_getaffinity(0))
