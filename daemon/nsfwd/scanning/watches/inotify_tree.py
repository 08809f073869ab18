"""``InotifyTree``: the watches of one tree under inotify, its events, and the state of its root.

A directory is watched before it is listed, so that files that come in the meantime are seen by one or by both. Where
the kernel gives no more watches it counts on, to report how many are missing. Directories are covered in a thread while
another reads events; a lock keeps the two from losing one. Knows no index and no daemon.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nsfwd.scanning.trees.file_entry import join, within
from nsfwd.scanning.trees.walk import WalkedTree
from nsfwd.scanning.watches.inotify import (
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_ISDIR,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    Event,
    Inotify,
)

LIMITS = Path("/proc/sys/fs/inotify")
MOUNTS = Path("/proc/self/mountinfo")

_ESCAPED = re.compile(rb"\\([0-7]{3})")

_NO_MORE = frozenset({errno.ENOSPC, errno.ENOMEM})
"""Errors of the kernel when it gives no further watch."""


@dataclass(slots=True)
class TreeEvents:
    """The meaning of some events.

    Attributes:
        files: written and closed, or come under a name. ``directories``: new ones, to be covered and listed.
        overflow: events were lost: the tree is to be covered and swept again. ``gone``: the root is no longer there.
    """

    files: list[bytes] = field(default_factory=list)
    directories: list[bytes] = field(default_factory=list)
    overflow: bool = False
    gone: bool = False


class InotifyTree:
    """The watches of one tree; ``cover`` sets them.

    Attributes:
        unwatched: directories for which there was no watch. ``unreadable``: those that may not be watched or listed.
        refused: the error where the kernel gave no queue of events; then nothing is watched.
    """

    def __init__(self, tree: WalkedTree) -> None:
        (self.root,) = tree.roots
        self._tree = tree
        self._lock = threading.Lock()
        self._paths: dict[int, bytes] = {}
        self._device = -1
        self.unwatched: set[bytes] = set()
        self.unreadable: set[bytes] = set()
        self.refused: OSError | None = None
        self._inotify = self._begin()

    def _begin(self) -> Inotify | None:
        self.refused = None
        try:
            return Inotify()
        except OSError as error:
            self.refused = error
            return None

    @property
    def descriptor(self) -> int:
        """Readable when there are events; -1 where there is no queue."""
        return self._inotify.descriptor if self._inotify is not None else -1

    @property
    def count(self) -> int:
        """Directories that are watched."""
        return len(self._paths)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._inotify is not None:
            self._inotify.close()

    def renew(self) -> None:
        """Forget all watches and events, and begin with a new queue. ``descriptor`` is another one then."""
        with self._lock:
            self.close()
            self._inotify = self._begin()
            self._paths.clear()
            self.unwatched.clear()
            self.unreadable.clear()

    def cover(self, directory: bytes) -> Iterator[list[bytes]]:
        """Watch a directory and all below it, and yield the files that lie there already, a directory at a time."""
        stack = [directory]
        while stack:
            place = stack.pop()
            if not self._add(place):
                continue
            files: list[bytes] = []
            try:
                with os.scandir(place) as entries:
                    for entry in entries:
                        self._sort(entry, files, stack)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    self.unreadable.add(place)
            yield files

    def _add(self, place: bytes) -> bool:
        """Watch one directory; return whether its entries are to be looked at."""
        top = place == self.root
        try:
            found = os.stat(place, follow_symlinks=top or self._tree.follow)  # noqa: PTH116  # bytes
            if top:
                self._device = found.st_dev
            if found.st_dev != self._device and not self._tree.cross:
                return False
            with self._lock:
                if self._inotify is None:
                    self.unwatched.add(place)
                    return True
                watch = self._inotify.add(place, follow=top or self._tree.follow)
                known, self._paths[watch] = self._paths.get(watch), place
            self.unwatched.discard(place)
            # With links followed, one directory may be met by several ways; the first one stays.
            if known is not None and known != place and self._tree.follow and os.path.isdir(known):  # noqa: PTH112
                self._paths[watch] = known
                return False
        except OSError as error:
            if error.errno in _NO_MORE:
                self.unwatched.add(place)
                return True
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self.unreadable.add(place)
            return False
        return True

    def _sort(self, entry: os.DirEntry[bytes], files: list[bytes], stack: list[bytes]) -> None:
        follow = self._tree.follow
        try:
            if entry.is_dir(follow_symlinks=follow):
                if not self._tree.exclusion.holds(entry.path):
                    stack.append(entry.path)
            elif entry.is_file(follow_symlinks=follow) and not self._tree.exclusion.holds(entry.path):
                files.append(entry.path)
        except OSError:
            return  # a link into a loop

    def read(self) -> TreeEvents:
        """Return the events since the last call."""
        found = TreeEvents()
        with self._lock:
            for event in self._inotify.read() if self._inotify is not None else ():
                self._sort_event(event, found)
        return found

    def _sort_event(self, event: Event, found: TreeEvents) -> None:
        if event.mask & IN_Q_OVERFLOW:
            found.overflow = True
            return
        place = self._paths.get(event.watch)
        if place is None:
            return
        if event.mask & IN_IGNORED:
            del self._paths[event.watch]
        elif event.mask & (IN_DELETE_SELF | IN_MOVE_SELF):
            found.gone = found.gone or place == self.root
        elif event.mask & IN_ISDIR:
            self._directory(event, join(place, event.name), found)
        elif event.mask & (IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE):
            path = join(place, event.name)
            # Made is not yet written; but a link is never opened, so its making is all there is to see.
            linked = self._tree.follow and os.path.islink(path)  # noqa: PTH114  # bytes
            made = event.mask & IN_CREATE and not linked and not _has_more_names(path)
            if made or self._tree.exclusion.holds(path):
                return
            (found.directories if linked and os.path.isdir(path) else found.files).append(path)  # noqa: PTH112

    def _directory(self, event: Event, path: bytes, found: TreeEvents) -> None:
        if event.mask & (IN_CREATE | IN_MOVED_TO) and not self._tree.exclusion.holds(path):
            found.directories.append(path)
        elif event.mask & IN_MOVED_FROM:
            for watch in [watch for watch, known in self._paths.items() if within(known, path)]:
                if self._inotify is not None:
                    self._inotify.remove(watch)
                del self._paths[watch]


def _has_more_names(path: bytes) -> bool:
    """Tell whether a file that was just made is a further name of another."""
    try:
        return os.lstat(path).st_nlink > 1
    except OSError:
        return False


def inotify_limit(name: str) -> int:
    """Return one of ``fs.inotify``: ``max_user_watches``, or ``max_user_instances`` (queues); 0 where it is unknown."""
    try:
        return int((LIMITS / name).read_text("ascii"))
    except (OSError, ValueError):
        return 0


class RootState(NamedTuple):
    """The directory that a name stood for, and the mounts below it.

    Attributes:
        identity: device and inode of the directory; None where there is none.
        mounts: number and place of each mount at it or below.
    """

    identity: tuple[int, int] | None
    mounts: frozenset[tuple[bytes, bytes]] = frozenset()


def root_state(root: bytes) -> RootState:
    """Return the state of a root now. May wait for a disk or a network."""
    try:
        found = os.stat(root)  # noqa: PTH116 (pathlib knows no bytes)
    except OSError:
        return RootState(None)
    if not stat.S_ISDIR(found.st_mode):
        return RootState(None)
    return RootState((found.st_dev, found.st_ino), _mounts(os.path.realpath(root)))


def _mounts(place: bytes) -> frozenset[tuple[bytes, bytes]]:
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:
        return frozenset()
    pairs = ((fields[0], _plain(fields[4])) for line in lines if len(fields := line.split()) > 4)
    return frozenset((number, where) for number, where in pairs if within(where, place))


def _plain(escaped: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 8),)), escaped)
