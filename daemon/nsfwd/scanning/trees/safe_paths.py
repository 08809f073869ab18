"""Paths resolved without being led astray: a link is followed only where no other user can have planted it.

Root works in directories that belong to others, who may replace any of their directories by a link at any time. Each
component of a path is opened below the one before (``O_NOFOLLOW``), so that nothing is resolved twice. A link is
followed where it, and every directory on the way to it, belongs to root or to this user and nobody else may write
there. ``openat2`` with RESOLVE_NO_SYMLINKS would refuse those links as well, such as /var/run. Knows no file's content.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from nsfwd.file_trust import only_ours

LONGEST_NAME = 255
"""Bytes of a file name, on every file system that Linux is used with."""

_MOST_LINKS = 40
"""As the kernel has it."""

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Diverted(OSError):
    """A link on the way of a path may be changed by another user. A retry does not help."""

    def __init__(self, path: bytes, owner: int) -> None:
        text = f"a link on the way to it belongs to user {owner}, or another user may change it"
        super().__init__(errno.ELOOP, text, os.fsdecode(path))


class Obstructed(OSError):
    """A link or a file lies where a directory of our own is needed. It costs what was to be put there."""

    def __init__(self, name: bytes) -> None:
        text = f"{name.decode('utf-8', 'backslashreplace')}: a link or a file lies where a directory is needed"
        super().__init__(errno.ENOTDIR, text)


class _Place(NamedTuple):
    """A directory on the way, and whether other users can change what lies in it, or lay on the way to it."""

    descriptor: int
    trusted: bool


@contextmanager
def safe_directory(path: bytes, *, make: int | None = None) -> Iterator[int]:
    """Lend a descriptor of a directory.

    Args:
        path: absolute.
        make: mode with which it is made where it is missing; directories above it get the usual one.

    Raises:
        Diverted: another user may change a link on the way.
        OSError: it is missing, no directory, or may not be entered.
    """
    with _Way(path, make) as way:
        way.follow()
        opened = os.open(b".", _DIRECTORY, dir_fd=way.place.descriptor)
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def safe_parent(path: bytes) -> Iterator[tuple[int, bytes]]:
    """Lend the directory in which the file of a path lies, or is to lie, and its name there; its links are followed.

    Raises:
        Diverted, OSError: as ``safe_directory``.
    """
    with _Way(path, None) as way:
        name = way.follow(leaf=True)
        opened = os.open(b".", _DIRECTORY, dir_fd=way.place.descriptor)
    try:
        yield opened, name
    finally:
        os.close(opened)


@contextmanager
def below(place: int, relative: bytes, *, make: int | None = None) -> Iterator[int]:
    """Lend a directory below one that is open, through no link at all.

    Args:
        relative: names with a slash between; empty for the directory itself.
        make: mode with which missing ones are made.

    Raises:
        Obstructed: a link or a file lies in its way.
        OSError: it is missing, or cannot be made.
    """
    opened = os.open(b".", _DIRECTORY, dir_fd=place)
    try:
        for name in filter(None, relative.split(b"/")):
            if name == b"..":
                raise OSError(errno.EINVAL, "a path below a directory cannot lead out of it")
            step = _entered(opened, name, make)
            os.close(opened)
            opened = step
        yield opened
    finally:
        os.close(opened)


def _entered(place: int, name: bytes, make: int | None) -> int:
    if make is not None:
        with suppress(FileExistsError):
            os.mkdir(name, make, dir_fd=place)
    try:
        return os.open(name, _DIRECTORY, dir_fd=place)
    except NotADirectoryError as error:  # what the kernel says of a link as well
        raise Obstructed(name) from error


def name_beside(name: bytes, suffix: bytes) -> bytes:
    """Return a name with a suffix, cut so that no file system finds it too long; not within a UTF-8 character."""
    kept = name[: LONGEST_NAME - len(suffix)]
    if len(kept) < len(name):
        while kept and name[len(kept)] & 0xC0 == 0x80:
            kept = kept[:-1]
    return kept + suffix


class _Way:
    """One path that is being followed; closes what it opened."""

    def __init__(self, path: bytes, make: int | None) -> None:
        self._path, self._make = path, make
        self._names = deque(_split(path))
        self._links = 0
        self.place = _Place(os.open(b"/", _STEP | os.O_DIRECTORY), True)

    def __enter__(self) -> _Way:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.place.descriptor)

    def follow(self, *, leaf: bool = False) -> bytes:
        """Go to the directory at the end; with ``leaf`` to that of the last name, which is returned."""
        while self._names:
            name = self._names.popleft()
            last = leaf and not self._names
            try:
                step = self._step(name, last=last)
            except FileNotFoundError:
                if last:
                    return name
                raise
            found = os.fstat(step)
            if stat.S_ISLNK(found.st_mode):
                self._take_link(step, found)
            elif last:
                os.close(step)
                return name
            else:
                self._go(_Place(step, self.place.trusted and only_ours(found)))
        return b"."

    def _step(self, name: bytes, *, last: bool) -> int:
        """Open what a name stands for, made first where it is missing and wanted."""
        at = self.place.descriptor
        try:
            return os.open(name, _STEP, dir_fd=at)
        except FileNotFoundError:
            if self._make is None or last:
                raise
        with suppress(FileExistsError):
            os.mkdir(name, 0o777 if self._names else self._make, dir_fd=at)
        return os.open(name, _STEP, dir_fd=at)

    def _take_link(self, link: int, found: os.stat_result) -> None:
        try:
            if not self.place.trusted or found.st_uid not in (0, os.geteuid()):
                raise Diverted(self._path, found.st_uid)
            self._links += 1
            if self._links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(self._path))
            target = os.readlink(b"", dir_fd=link)
        finally:
            os.close(link)
        self._names.extendleft(reversed(_split(target)))
        if target.startswith(b"/"):
            self._go(_Place(os.open(b"/", _STEP | os.O_DIRECTORY), True))

    def _go(self, place: _Place) -> None:
        os.close(self.place.descriptor)
        self.place = place


def _split(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]
