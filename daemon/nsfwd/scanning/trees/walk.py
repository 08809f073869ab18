"""Walks trees: the regular files of one directory after the other, in the order of their inodes, in bounded parts.

Files of neighbouring inodes lie near each other on a disk. A directory of a million names comes in many parts, so that
memory does not grow with it. Nothing is decided by a name's end. Knows file systems, no index and no daemon.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from itertools import islice

from nsfwd.scanning.trees.file_entry import join, within

PART = 8192
"""Names of a directory that are sorted and looked at together; some megabytes."""

Entry = tuple[bytes, int, int, int, int, int]
"""A file: name, dev, ino, size, mtime_ns, ctime_ns. A plain tuple: a sweep meets millions that are as they were."""

CODES = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "bad_path",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.ENAMETOOLONG: "bad_path",
}
"""Error of the system -> code of a directory that cannot be read; any other error is ``unreadable``."""

_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors of an entry that has changed since its directory was read."""


class Exclusion:
    """Names and paths that a walk leaves out: shell patterns, compiled once, as every entry is compared.

    Args:
        patterns: one without a slash is compared with the name of each file and each directory, one with a slash with
            the whole path.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns = tuple(patterns)
        self._name = _any(pattern for pattern in self.patterns if "/" not in pattern)
        self._path = _any(pattern for pattern in self.patterns if "/" in pattern)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def holds(self, path: bytes) -> bool:
        """Tell whether the file or directory at ``path`` is left out."""
        whole = os.fsdecode(path)
        if self._name is not None and self._name.match(whole.rpartition("/")[2]):
            return True
        return self._path is not None and self._path.match(whole) is not None


@dataclass(frozen=True, slots=True)
class WalkedTree:
    """The directories of a walk, and its rules.

    Attributes:
        roots: absolute directories, each walked to its leaves.
        exclusion: names and paths that are left out; a directory that is left out is not entered.
        follow: go through links, to files and to directories. Every directory is walked once all the same.
        cross: enter other file systems that are mounted below.
    """

    roots: tuple[bytes, ...]
    exclusion: Exclusion = field(default_factory=Exclusion)
    follow: bool = False
    cross: bool = False


@dataclass(slots=True)
class WalkPart:
    """Some files of a directory.

    Attributes:
        first, last: whether it is the first, and the last, of its directory.
        excluded: files that were left out.
        code: why the directory, or a part of it, could not be read; then ``last`` does not mean the whole.
    """

    directory: bytes
    entries: list[Entry]
    first: bool = True
    last: bool = False
    excluded: int = 0
    code: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all of its directory."""
        return self.first and self.last


class Walk:
    """One walk. Iterate over it once.

    Args:
        names_only: look at no file: an entry has its name and nothing else.

    Attributes:
        follow: whether links are followed. ``links``: that were not.
        foreign: directories on other file systems that were not entered.
    """

    def __init__(self, tree: WalkedTree, *, names_only: bool = False) -> None:
        self._tree = tree
        self._names_only = names_only
        self._stack: list[bytes] = []
        self._seen: set[tuple[int, int]] = set()
        self._device = 0
        self.follow = tree.follow
        self.links = 0
        self.foreign = 0

    def __iter__(self) -> Iterator[WalkPart]:
        for root in outermost(self._tree.roots):
            self._stack.append(root)
            self._device = -1
            while self._stack:
                yield from self._directory(self._stack.pop(), follow=self._device < 0)

    def _directory(self, place: bytes, *, follow: bool) -> Iterator[WalkPart]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            opened = os.open(place, flags | (0 if follow or self._tree.follow else os.O_NOFOLLOW))
        except OSError as error:
            if follow or error.errno not in _VANISHED:
                yield WalkPart(place, [], last=True, code=_code(error))
            return
        try:
            if self._enters(os.fstat(opened)):
                yield from self._parts(place, opened)
        finally:
            os.close(opened)

    def _enters(self, found: os.stat_result) -> bool:
        if self._device < 0:
            self._device = found.st_dev
        if found.st_dev != self._device and not self._tree.cross:
            self.foreign += 1
            return False
        if self._tree.follow:
            identity = (found.st_dev, found.st_ino)
            if identity in self._seen:
                return False
            self._seen.add(identity)
        return True

    def _parts(self, place: bytes, opened: int) -> Iterator[WalkPart]:
        below: list[tuple[int, bytes]] = []
        first, code = True, None
        try:
            with os.scandir(opened) as entries:
                while True:
                    names = list(islice(entries, PART))
                    last = len(names) < PART
                    part = self._part(place, names, below)
                    code = code or part.code
                    part.first, part.last, part.code = first, last, code if last else None
                    yield part
                    first = False
                    if last:
                        break
        except OSError as error:
            yield WalkPart(place, [], first=first, last=True, code=_code(error))
        below.sort(reverse=True)
        self._stack += (path for _, path in below)

    def _part(self, place: bytes, names: Sequence[os.DirEntry[str]], below: list[tuple[int, bytes]]) -> WalkPart:
        part = WalkPart(place, [])
        files = self._files(part, names, below)
        if self._names_only:
            part.entries = [(os.fsencode(entry.name), 0, 0, 0, 0, 0) for _, entry in files]
            return part
        files.sort(key=_first)
        follow, encode = self._tree.follow, os.fsencode
        for _, entry in files:
            try:
                found = entry.stat(follow_symlinks=follow)
            except OSError as error:
                if error.errno not in _VANISHED:
                    part.code = _code(error)
                continue
            name, dev, ino, size = encode(entry.name), found.st_dev, found.st_ino, found.st_size
            part.entries.append((name, dev, ino, size, found.st_mtime_ns, found.st_ctime_ns))
        return part

    def _files(
        self, part: WalkPart, names: Sequence[os.DirEntry[str]], below: list[tuple[int, bytes]]
    ) -> list[tuple[int, os.DirEntry[str]]]:
        """Return the files of a part with their inodes, and add its directories to ``below``."""
        place, files = part.directory, []
        exclusion, follow = self._tree.exclusion, self._tree.follow
        for entry in names:
            try:
                is_file, is_directory = entry.is_file(follow_symlinks=follow), False
                is_directory = not is_file and entry.is_dir(follow_symlinks=follow)
                if not is_file and not is_directory:
                    self.links += not follow and entry.is_symlink()
                    continue
            except OSError:
                continue  # a link into a loop
            if exclusion and exclusion.holds(join(place, os.fsencode(entry.name))):
                part.excluded += is_file
            elif is_file:
                files.append((entry.inode(), entry))
            else:
                below.append((entry.inode(), join(place, os.fsencode(entry.name))))
        return files


def outermost(roots: Sequence[bytes]) -> list[bytes]:
    """Return the directories without those that lie within others of them."""
    return [
        root
        for place, root in enumerate(roots)
        if not any(
            within(root, other) and (root != other or before < place)
            for before, other in enumerate(roots)
            if before != place
        )
    ]


def _first(pair: tuple[int, os.DirEntry[str]]) -> int:
    return pair[0]


def _code(error: OSError) -> str:
    return CODES.get(error.errno or 0, "unreadable")


def _any(patterns: Iterable[str]) -> re.Pattern[str] | None:
    expressions = [translate(pattern) for pattern in patterns]
    return re.compile("|".join(expressions)) if expressions else None
