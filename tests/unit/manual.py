"""An event loop whose clock stands still until a test moves it: deadlines and back-offs without sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class ManualLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own; ``advance`` fires what has become due."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0

    def time(self) -> float:
        return self._now

    async def advance(self, seconds: float) -> None:
        """Move the clock and let everything that is due run."""
        self._now += seconds
        await settle()


async def settle(turns: int = 10) -> None:
    """Let the loop run everything that is ready."""
    for _ in range(turns):
        await asyncio.sleep(0)


def run(test: Callable[[ManualLoop], Coroutine[Any, Any, None]]) -> None:
    """Run an async test on a loop with a manual clock."""
    loop = ManualLoop()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(test(loop))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
