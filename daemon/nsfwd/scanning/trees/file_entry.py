"""``FileEntry``: a regular file as a walk, a watch or a person met it; and paths, joined, compared and shown.

Pure: reads no file, knows no index.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import Self

from nsfwd.escaping import escape_wire
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
        return join(self.directory, self.name)

    @property
    def identity(self) -> FileIdentity:
        """Which file it was, and in which state."""
        return FileIdentity(self.dev, self.ino, self.size, self.mtime_ns, self.ctime_ns)


def path_fields(path: bytes) -> dict[str, str]:
    """Return ``path``, and ``path_bytes`` (base64) beside what can be read of one that is not UTF-8, as replies do."""
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path": escape_wire(path), "path_bytes": base64.b64encode(path).decode()}


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of a name in a directory."""
    return directory + name if directory.endswith(b"/") else b"%b/%b" % (directory, name)


def within(path: bytes, directory: bytes) -> bool:
    """Tell whether ``path`` is ``directory`` or lies below it."""
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")


def below(directory: bytes) -> tuple[bytes, bytes]:
    """Return the bounds (first included, last not) between which all paths below a directory lie, bytewise.

    A slash is 0x2F and 0x30 comes next, so what lies between is exactly what begins with the directory and a slash.
    """
    base = directory.rstrip(b"/")
    return base + b"/", base + b"0"


def whole_path() -> str:
    """Return the SQL of a file's path, as a BLOB, where ``directory`` and ``file`` are joined."""
    return "CAST(rtrim(CAST(directory.path AS TEXT), '/') || '/' || CAST(file.name AS TEXT) AS BLOB)"
