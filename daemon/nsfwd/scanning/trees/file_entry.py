"""``Found``: a regular file as somebody met it, and its ``Identity``. Data, no logic."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file, and which state of it: each write, and each change of owner, mode or links, alters ``ctime_ns``."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Self:
        """Take it of stat(2)."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def same_content(self, other: FileIdentity) -> bool:
        """Tell whether it is the same inode with the same content, as it is after a rename, which alters its ctime."""
        return (self.dev, self.ino, self.size, self.mtime_ns) == (other.dev, other.ino, other.size, other.mtime_ns)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A regular file as it was when somebody looked at it.

    Attributes:
        directory: absolute, without a slash at its end (but ``/`` itself).
        name: within it.
        dev, ino, size, mtime_ns, ctime_ns: as of stat(2).
    """

    directory: bytes
    name: bytes
    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def path(self) -> bytes:
        """The whole path."""
        return self.directory + self.name if self.directory == b"/" else b"%b/%b" % (self.directory, self.name)

    @property
    def identity(self) -> FileIdentity:
        """Which file it was, and in which state."""
        return FileIdentity(self.dev, self.ino, self.size, self.mtime_ns, self.ctime_ns)
