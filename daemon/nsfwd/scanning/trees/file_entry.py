"""``FileEntry``: a regular file as it was when a walk, a watch or a person met it. Data, no logic."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

from nsfwd.protocol.messages import FileIdentity


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A regular file as it was when it was last looked at.

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

    @classmethod
    def of(cls, path: bytes, found: os.stat_result) -> Self:
        """Make one from an absolute path and the result of stat(2)."""
        directory, _, name = path.rpartition(b"/")
        return cls(
            directory or b"/", name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        )

    @property
    def path(self) -> bytes:
        """The whole path."""
        return self.directory + self.name if self.directory == b"/" else b"%b/%b" % (self.directory, self.name)

    @property
    def identity(self) -> FileIdentity:
        """Which file it was, and in which state."""
        return FileIdentity(self.dev, self.ino, self.size, self.mtime_ns, self.ctime_ns)
