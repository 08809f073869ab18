"""Reads a plain tar file that is not trusted, one member after another, in constant memory.

Nothing but regular files is accepted: no link, device or directory, no sparse file, which may claim any size, and none
of the extended headers, which may have any size themselves. ``tarfile`` would follow all of them.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """One file: its name as it is written, its size, and its content, which must be read before the next member."""

    name: str
    size: int
    chunks: Iterator[bytes]


def read_members(file: BinaryIO) -> Iterator[Member]:
    """Yield the members of a tar file. The unread part of a member is skipped.

    Raises:
        tarfile.TarError: it is not a tar file, or has a member that is not a regular file.
        EOFError: it ends in the middle of a member.
    """
    while True:
        header = file.read(_BLOCK)
        if not header.strip(b"\0"):
            return
        found = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or found.size < 0 or found.name.endswith("/"):
            raise tarfile.ReadError(f"member {found.name!r} is not a plain file")
        content = _content(file, found.size)
        yield Member(found.name, found.size, content)
        for _ in content:
            pass
        file.read(-found.size % _BLOCK)


def _content(file: BinaryIO, left: int) -> Iterator[bytes]:
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise EOFError("it ends in the middle of a member")
        left -= len(chunk)
        yield chunk
