"""``Debouncer``: holds changed files until they are no longer written, so that none is scored half-written.

Each waits for a while without an event, and then until two looks at it agree. Pure but for stat(2): callers
pass the time.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator

from nsfwd.scanning.trees.file_entry import FileEntry

SETTLE = 0.5
"""Seconds without an event or a change: programs that write a file in pieces, or close and open it again, are done."""

MOST = 100_000
"""Files that wait at once, some 20 MB; when there are more, sweeping their tree is cheaper than remembering them."""

_State = tuple[int, int, int]


class Debouncer:
    """The files that wait.

    Args:
        seconds: how long each must be still.
    """

    def __init__(self, seconds: float = SETTLE, *, follow: bool = False) -> None:
        self._seconds, self._follow = seconds, follow
        self._waiting: OrderedDict[bytes, tuple[float, _State | None]] = OrderedDict()  # the first is due first

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, path: bytes, now: float) -> bool:
        """Note that a file has changed; False when too many wait, and then it is not noted."""
        if self._waiting.pop(path, None) is None and len(self._waiting) >= MOST:
            return False
        self._put(path, now, _state(self._look(path)))
        return True

    def clear(self) -> None:
        """Forget all of them."""
        self._waiting.clear()

    def due(self) -> float | None:
        """Return when the next one is to be looked at; None when none waits."""
        first = next(iter(self._waiting.values()), None)
        return None if first is None else first[0]

    def ready(self, now: float) -> Iterator[FileEntry]:
        """Yield the files that are still, and let the others wait on. Anything but a regular file is dropped."""
        while (due := self.due()) is not None and due <= now:
            path, (_, state) = self._waiting.popitem(last=False)
            found = self._look(path)
            if found is None:
                continue
            if _state(found) != state:
                self._put(path, now, _state(found))
                continue
            yield FileEntry.of(path, found)

    def _put(self, path: bytes, now: float, state: _State | None) -> None:
        self._waiting[path] = now + self._seconds, state

    def _look(self, path: bytes) -> os.stat_result | None:
        try:
            found = os.stat(path, follow_symlinks=self._follow)  # noqa: PTH116  # bytes
        except OSError:
            return None
        return found if stat.S_ISREG(found.st_mode) else None


def _state(found: os.stat_result | None) -> _State | None:
    return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)
