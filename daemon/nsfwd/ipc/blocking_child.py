"""A supervised child process for callers without an event loop: a packet out, a packet in, each wait with a limit.

It is ``Child`` on a loop of its own, which runs only while the caller waits. It knows neither what the packets mean nor
what is to be done about the end of the process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from nsfwd.ipc.child import KILL_GRACE, Child


class BlockingChild:
    """One child process, started at once; to be used and closed in the thread that made it.

    Args:
        module: as of ``Child``.
        name: for people.
        fds: descriptors to inherit; they stay the caller's.

    Raises:
        OSError, CannotStart: as of ``Child.start``; nothing is left behind.
    """

    def __init__(self, module: str, *, name: str, fds: Sequence[int] = ()) -> None:
        self._packets: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._child = Child(
            module, name=name, fds=fds, on_message=self._keep, on_exit=lambda _exit: self._changed.set()
        )
        self._loop = asyncio.new_event_loop()
        try:
            self._loop.run_until_complete(self._start())
        except BaseException:
            self._loop.close()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one packet, as ``Child.send``; what does not fit the link now is sent while ``receive`` waits."""
        self._child.send(packet, descriptors)

    def receive(self, timeout: float) -> bytes:
        """Return the next packet.

        Raises:
            TimeoutError: none came within ``timeout`` seconds.
            EOFError: the process has ended, and all its packets were received.
        """
        return self._loop.run_until_complete(asyncio.wait_for(self._next(), timeout))

    def close(self) -> None:
        """End the process at once."""
        self._child.kill()
        self._loop.run_until_complete(self._child.stop(KILL_GRACE))
        self._loop.close()

    async def _start(self) -> None:
        self._child.start()

    def _keep(self, packet: bytes) -> None:
        self._packets.append(packet)
        self._changed.set()

    async def _next(self) -> bytes:
        while not self._packets:
            if not self._child.alive:
                raise EOFError(f"{self._child.name} has ended")
            self._changed.clear()
            await self._changed.wait()
        return self._packets.popleft()
