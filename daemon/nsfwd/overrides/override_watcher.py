"""``OverrideWatcher``: the overrides in force in a daemon, read at the start and again soon after each change.

A thread reads the store, so that a slow disk keeps no image waiting; the event loop finds an override in a dict. A
store that cannot be read any more is reported in the log, in ``stats`` and by ``ready``, and the overrides known before
stay in force: a failed disk must not put a model's verdict in the place of a person's. A start, or a reload that names
another store, is refused while a store that is there cannot be read.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsfwd.errors import OverridesFailure
from nsfwd.overrides.override_store import NONE, Changes, OverrideStore, store_of

if TYPE_CHECKING:
    from nsfwd.protocol.messages import FileIdentity, Override

LOOK = 0.5
"""Seconds between two looks: a moderator sees a decision work at the next try. A look costs two stats."""

STALE = 30.0
"""Seconds after which a look that has not ended is reported: its disk hangs."""

SETTLED = 2_000_000_000
"""Nanoseconds after which a file that looks unchanged is unchanged: clocks of file systems tick in up to 2 s."""

_log = logging.getLogger("nsfwd.pipeline")


class OverrideWatcher:
    """The overrides in force, and the thread that reads them. Generations share it while they name the same store.

    Args:
        store: the setting ``overrides``. The store may be missing, as long as it was never there.
        clock: seconds since 1970.

    Attributes:
        known: digest -> override, expired ones too.
        failures: how often the store began to be unreadable.
    """

    def __init__(self, store: str, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._path = store_of(store)
        self._clock = clock
        self._stamp: tuple[tuple[int, ...], ...] | None = None
        self._identity, self._number = "", 0
        self._users: set[object] = set()
        self._stop = threading.Event()
        self.known: dict[bytes, Override] = {}
        self.failures = 0
        self._trouble = ""
        self._looked = time.monotonic()

    @classmethod
    def load(cls, store: str) -> OverrideWatcher:
        """Read the store, before any image is judged.

        Raises:
            OverridesFailure: it is there and cannot be read. The operator fixes it, or turns overrides off.
        """
        watcher = cls(store)
        try:
            watcher.look()
        except OverridesFailure as error:
            raise OverridesFailure(f'overrides: {error}; to judge without overrides: overrides = "{NONE}"') from error
        return watcher

    def at(self, store: str) -> OverrideWatcher:
        """Return the watcher of this store: itself where it is the same. Raises as ``load``."""
        return self if store == self._store else OverrideWatcher.load(store)

    def start(self, user: object) -> None:
        """Watch the store for one user more."""
        if not self._users and self._path is not None:
            self._looked = time.monotonic()
            self._stop = threading.Event()
            threading.Thread(target=self._keep, args=(self._stop,), name="overrides", daemon=True).start()
        self._users.add(user)

    def stop(self, user: object) -> None:
        """Watch for one user less, if it was one. Does not wait for the thread, which may hang on a disk."""
        self._users.discard(user)
        if not self._users:
            self._stop.set()

    @property
    def trouble(self) -> str:
        """The reason why the store cannot be read at present; empty while it can."""
        silence = time.monotonic() - self._looked
        if self._users and self._path is not None and silence > STALE:
            return f"{self._path}: has not answered for {silence:.0f} s"
        return self._trouble

    def find(self, identity: FileIdentity | None) -> Override | None:
        """Return the override of a file's content, if there is one that still holds."""
        if identity is None or not self.known:
            return None
        override = self.known.get(bytes.fromhex(identity.sha256))
        return override if override is not None and override.holds(self._clock()) else None

    def stats(self) -> dict[str, Any]:
        """Return its numbers."""
        return {"known": len(self.known), "failures": self.failures, "trouble": self.trouble}

    def look(self) -> None:
        """Read the changes since the last look. ``known`` may be read at the same time.

        Raises:
            OverridesFailure: the store cannot be read, or is no longer there; ``known`` stays.
        """
        stamp = None if self._path is None else self._look_at_files(self._path)
        if self._path is None or stamp is None or stamp == self._stamp:
            return
        self._stamp = None
        try:
            with OverrideStore(self._path, write=False) as store:
                changes = store.changes(self._identity, self._number)
        except OverridesFailure:
            self._look_at_files(self._path)  # says so where the store was removed since
            raise
        if self._identity and not changes.identity:
            raise OverridesFailure(f"{self._path}: was emptied")
        self._take(changes)
        self._identity, self._number = changes.identity, changes.number
        if _settled(stamp):
            self._stamp = stamp

    def _take(self, changes: Changes) -> None:
        made = {digest: override for digest, override in changes.overrides.items() if override is not None}
        if changes.whole:
            self.known = made
            _log.info("overrides: %d in %s", len(made), self._path)
            return
        self.known.update(made)
        for gone in changes.overrides.keys() - made.keys():
            self.known.pop(gone, None)

    def _look_at_files(self, path: Path) -> tuple[tuple[int, ...], ...] | None:
        """Return the stamps of the store and its log; None where there is no store."""
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            if self._identity:
                raise OverridesFailure(f"{path}: is no longer there") from None
            return None
        except OSError as error:
            raise OverridesFailure(f"{path}: {error.strerror}") from error
        try:
            ahead = path.with_name(f"{path.name}-wal").stat()
        except OSError:
            return (_stamp(found),)
        return _stamp(found), _stamp(ahead)

    def _keep(self, stop: threading.Event) -> None:
        """Look until ``stop`` is set; the body of the thread."""
        while not stop.wait(LOOK):
            try:
                self.look()
            except Exception as error:  # the thread must go on after any error
                if not self._trouble:
                    self.failures += 1
                    _log.error("overrides: %s; the %d known before stay in force", error, len(self.known))
                self._trouble = str(error)
            else:
                if self._trouble:
                    _log.info("overrides: %s can be read again", self._path)
                self._trouble = ""
            self._looked = time.monotonic()


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    """Return device, inode, size and mtime; not ctime: SQLite gives the log to the store's owner at each opening."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _settled(stamps: tuple[tuple[int, ...], ...]) -> bool:
    return max(stamp[3] for stamp in stamps) + SETTLED <= time.time_ns()
