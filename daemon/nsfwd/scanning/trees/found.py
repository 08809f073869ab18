"""``Found``: a regular file as somebody met it, which everything else in this room speaks of. Data, no logic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Found:
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
