"""Close descriptors that a client passed, beside the event loop.

Closing a file may wait for its file system, and a client may pass a file of one that never answers. One thread closes
them in turn; should it be held up, descriptors pile up to the limit of open files, and nothing else waits.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue


class _Closer:
    def __init__(self) -> None:
        self._queue: SimpleQueue[int] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.given = 0  # counted by the loop alone, as done is by the thread: no lock
        self.done = 0

    def close(self, descriptor: int) -> None:
        self.given += 1
        self._queue.put(descriptor)
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="closing", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # the system has no thread now: the next descriptor tries again
            self._thread = thread

    def _work(self) -> None:
        while True:
            try:
                os.close(self._queue.get())
            except OSError:
                pass  # what the file system has to say about it is for whoever wrote to it
            self.done += 1


_closer = _Closer()


def close_foreign(descriptor: int) -> None:
    """Close a descriptor that a client opened; returns at once. It must not be used any more."""
    _closer.close(descriptor)


def closing() -> int:
    """Return how many descriptors are still to be closed."""
    return _closer.given - _closer.done
