"""What a client may ask for: paths, encoded images, open files, and what may be said about each.

Pure data, and its form as request keys; knows nothing of requests in flight.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

Thing = TypeVar("Thing")

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded image of the caller's, for ``scan_many``; its reply has ``name`` as its path."""

    data: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class Tree:
    """A path of the server, for ``scan_many``: a directory is scanned with everything below it."""

    path: Path


class Opened:
    """A file open for reading, for ``scan_many`` over a Unix socket; its reply has ``name`` as its path.

    It owns the descriptor: when nobody needs it any more, neither caller nor client, it is closed.
    """

    __slots__ = ("descriptor", "name")

    def __init__(self, descriptor: int, name: str = "") -> None:
        self.descriptor = descriptor
        self.name = name

    def __del__(self) -> None:
        os.close(self.descriptor)


Item = Path | Tree | Encoded | Opened
"""What ``scan_many`` takes."""


class Passing(bytes):
    """A line with which a descriptor is passed."""

    descriptor: int

    def __new__(cls, line: bytes, descriptor: int) -> Passing:
        """Make it of both."""
        passing = super().__new__(cls, line)
        passing.descriptor = descriptor
        return passing


@dataclass(frozen=True, slots=True)
class Options:
    """What may be said about any scan.

    Attributes:
        lane: ``interactive``, ``normal`` or ``background``; None is the connection's own. It can only be lowered.
        deadline: seconds allowed for each; None is the daemon's default.
        identity: ask for the identity of the opened file (``Reply.file``).
        frames: how many frames of each animation to look at most; None is the bundle's.
    """

    lane: str | None = None
    deadline: float | None = None
    identity: bool = False
    frames: int | None = None

    def keys(self) -> dict[str, Any]:
        """Return the request keys that say this."""
        said: dict[str, Any] = {
            "lane": self.lane,
            "deadline": self.deadline,
            "identity": self.identity or None,
            "frames": self.frames,
        }
        return {key: value for key, value in said.items() if value is not None}


def path_keys(path: Path) -> dict[str, Any]:
    """Return the request key that names a path: as text, or in base64 where it is not UTF-8."""
    name = os.fsencode(path)
    try:
        return {"path": name.decode("utf-8")}
    except UnicodeDecodeError:
        return {"path_bytes": base64.b64encode(name).decode("ascii")}


def wire_name(name: str) -> str:
    """Return a name as UTF-8 has it, whatever the locale; empty where the name is not UTF-8."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:  # it has what the locale lacks, so it does not come from the file system
        encoded = name.encode("utf-8", "replace")
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return ""


async def each(things: AsyncIterable[Thing] | Iterable[Thing]) -> AsyncIterator[Thing]:
    """Name them one after the other, whichever way they are given."""
    if isinstance(things, AsyncIterable):
        async for thing in things:
            yield thing
    else:
        for thing in things:
            yield thing
