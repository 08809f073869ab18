"""The canary: a golden that goes through decoder and engine every few seconds, so that ``ready`` says what is true.

It goes the way of every image, but waits behind none. After ``PATIENCE`` seconds without a canary that came through
the daemon is not ready. Without a golden there is no canary, and the proof of the start has to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from nsfwd.errors import BundleError, CodedError
from nsfwd.pipeline.self_test import PATIENCE

if TYPE_CHECKING:
    from nsfwd.pipeline.generation import Generation

INTERVAL = 10.0
"""Seconds from one canary to the next: nothing beside the work of any engine."""

_log = logging.getLogger("nsfwd.pipeline")


class Canary:
    """Looks after the generation that serves.

    Args:
        loop: its clock says how long ago the last one came through.
        current: the generation that serves now.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, current: Callable[[], Generation]) -> None:
        self._loop = loop
        self._current = current
        self._task: asyncio.Task[None] | None = None
        self._proven = loop.time()
        self._why = ""

    def start(self) -> None:
        """Begin to send."""
        self._task = self._loop.create_task(self._run())

    def stop(self) -> None:
        """Send no more."""
        if self._task is not None:
            self._task.cancel()

    def proven(self) -> None:
        """Goldens agreed just now."""
        self._proven = self._loop.time()

    def doubt(self) -> str:
        """Why it is not certain that images are scored; empty when it is."""
        seconds = self._loop.time() - self._proven
        if not self._current().self_test.has_goldens or seconds <= PATIENCE:
            return ""
        return f"no canary came through decoder and engine for {seconds:.0f} s" + (
            f": {self._why}" if self._why else ""
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self.send()

    async def send(self) -> None:
        """Send one and look at what comes back; an engine that scores it wrongly is ended, the next is proved anew."""
        generation = self._current()
        if not generation.self_test.has_goldens or not generation.scoring.trusted:
            return
        try:
            await generation.self_test.send_canary()
        except CodedError as error:
            self._why = error.message
        except BundleError as error:
            self._why = str(error)
            _log.error("the canary was scored wrongly, the engine is restarted: %s", error)
            generation.scoring.restart()
        else:
            self._why = ""
            self.proven()
