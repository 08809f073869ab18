"""Inputs of a scan: paths of the command line, of lists, of directories walked here, and images opened here.

Everything is an iterator, so that memory does not grow with a list or a tree. Names are bytes, as file systems have
them. Knows no replies except its own, for files that cannot be read.
"""

from __future__ import annotations

import codecs
import errno
import os
import select
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from nsfwd.quantities import format_size
from nsfwd.scanning.trees.walk import Exclusion

if TYPE_CHECKING:
    from nsfwd.client import Encoded, Opened, Reply, Tree

_CHUNK = 65536

CANNOT_OPEN = frozenset({"permission", "not_found"})
"""Codes of files that the daemon's user may not read, or that its sandbox hides. Not ``forbidden``: the operator chose
the roots, and a client does not override that."""

_CODES = {errno.ENOENT: "not_found", errno.ENOTDIR: "not_found", errno.EACCES: "permission", errno.EPERM: "permission"}

STDIN = b"-"

_Command = TypeVar("_Command", bound=Callable[..., Any])


def exclude_option(command: _Command) -> _Command:
    """Add ``--exclude``, which every command that walks trees has."""
    return click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Shell pattern of files and directories to leave out: of names, or with a / of whole paths. May be given"
        " several times.",
    )(command)


def absolute(path: bytes) -> bytes:
    """Return ``path`` from the root. ``..`` stays: behind a link it does not lead back."""
    joined = os.path.join(os.getcwdb(), path)  # noqa: PTH109, PTH118 (pathlib knows no bytes)
    return joined if b".." in path.split(b"/") else os.path.normpath(joined)


def records(stream: BinaryIO, end: bytes) -> Iterator[bytes | None]:
    """Yield the records of a list, each ended by ``end``, as they come, and None before a wait for more.

    Raises:
        OSError: the list cannot be read; the error names it.
    """
    partial = b""
    while True:
        if not select.select([stream], [], [], 0)[0]:
            yield None
        try:
            chunk = os.read(stream.fileno(), _CHUNK)
        except OSError as error:
            error.filename = stream.name if stream.fileno() else "standard input"
            raise
        if not chunk:
            break
        *whole, partial = (partial + chunk).split(end)
        yield from whole
    yield partial


def edited(found: Iterable[bytes | None], end: bytes) -> Iterator[bytes | None]:
    """Yield the paths of a list without the byte order mark and the CR that editors write; NUL keeps all."""
    first = True
    for record in found:
        if record is None or end == b"\0":
            yield record
            continue
        if first:
            record = record.removeprefix(codecs.BOM_UTF8)
            first = False
        yield record.removesuffix(b"\r")


def only_directories(path: bytes, exclusion: Exclusion) -> bool:
    """Return whether a directory has no files, but directories."""
    deeper = False
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if exclusion.holds(entry.path):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    deeper = True
                elif _is_file(entry):
                    return False
    except (OSError, ValueError):  # no directory, or one that the daemon has to read
        return False
    return deeper


def below(
    directory: bytes,
    exclusion: Exclusion,
    *,
    recursive: bool,
    problem: Callable[[bytes, OSError], None] = lambda path, error: None,
) -> Iterator[bytes]:
    """Yield the regular files of a directory as the daemon would: hidden ones too, links to files, no links to
    directories (so that loops of links end). ``problem`` gets the directories that cannot be listed."""
    waiting = [directory]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if exclusion.holds(entry.path):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if recursive:
                            waiting.append(entry.path)
                    elif _is_file(entry):
                        yield entry.path
        except OSError as error:
            problem(place, error)


def _is_file(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


class Local:
    """Files that are opened here, because the daemon cannot: passed as descriptors, or read and sent as bytes.

    Args:
        recursive, exclusion: for directories among them.
        passed: whether descriptors reach the daemon.
        limit: returns the most bytes of an image that the daemon accepts; called once, when first needed.

    Attributes:
        replies: made here for images that cannot be opened or are too large to be sent.
    """

    def __init__(
        self, exclusion: Exclusion, *, recursive: bool, passed: Callable[[], bool], limit: Callable[[], int]
    ) -> None:
        self._exclusion = exclusion
        self._recursive = recursive
        self._passed = passed
        self._limit = limit
        self._most: int | None = None
        self._refused: deque[Reply] = deque()
        self.replies: deque[Reply] = deque()

    def takes(self, reply: Reply) -> bool:
        """Take over a file that the daemon could not open, where it seems readable here."""
        if reply.code not in CANNOT_OPEN or not os.access(reply.path, os.R_OK) or os.path.isdir(reply.path):  # noqa: PTH112
            return False
        self._refused.append(reply)
        return True

    @property
    def waiting(self) -> bool:
        """Whether a file was taken over and not sent yet."""
        return bool(self._refused)

    def again(self) -> Iterator[Encoded | Opened]:
        """Yield the images that were taken over."""
        while self._refused:
            yield from self.images(os.fsencode(self._refused.popleft().path))

    def images(self, path: bytes) -> Iterator[Encoded | Opened]:
        """Yield the image at ``path``, or those of the directory there."""
        if os.path.isdir(path):  # noqa: PTH112 (pathlib knows no bytes)
            for file in below(path, self._exclusion, recursive=self._recursive, problem=self.unreadable):
                yield from self._image(file)
        else:
            yield from self._image(path)

    def stream(self, source: BinaryIO, name: str) -> Iterator[Encoded]:
        """Yield the image that ``source`` holds."""
        if self._most is None:
            self._most = self._limit()
        try:
            data = source.read(self._most + 1)
        except OSError as error:
            self.unreadable(os.fsencode(name), error)
            return
        if len(data) > self._most:
            self._answer(os.fsencode(name), "skipped", "too_large", f"more than {format_size(self._most)}")
        else:
            from nsfwd.client import Encoded

            yield Encoded(data, name)

    def unreadable(self, path: bytes, error: OSError) -> None:
        """Answer for a file that cannot be read here either."""
        self._answer(path, "error", _CODES.get(error.errno or 0, "unreadable"), error.strerror or str(error))

    def _image(self, path: bytes) -> Iterator[Encoded | Opened]:
        from nsfwd.client import Opened

        name = os.fsdecode(path)
        try:
            # a FIFO must not hold it up, a terminal not become this process's own
            file = Opened(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY), name)
            mode = os.fstat(file.descriptor).st_mode
        except OSError as error:
            self.unreadable(path, error)
            return
        except ValueError as error:  # a NUL in it
            self._answer(path, "error", "bad_path", str(error))
            return
        if not stat.S_ISREG(mode):
            self._answer(path, "error", "bad_path", "not a regular file")
        elif self._passed():
            yield file
        else:
            with os.fdopen(file.descriptor, "rb", closefd=False) as source:
                yield from self.stream(source, name)

    def _answer(self, path: bytes, status: str, code: str, message: str) -> None:
        from nsfwd.client.results import to_reply

        name = os.fsdecode(path)
        error = {"code": code, "message": message, "retry": False}
        self.replies.append(to_reply({"path": name, "status": status, "error": error}))


def listed(
    paths: Iterable[bytes | None], exclusion: Exclusion, local: Local, *, recursive: bool
) -> Iterator[bytes | Tree | None]:
    """Yield the paths that are not excluded, with directories replaced by their files: the daemon knows no exclusions,
    and a restart would lose the rest of a directory. Paths that do not exist here stay."""
    from nsfwd.client import Tree

    for path in paths:
        if path is None or path == STDIN:
            yield path
        elif not exclusion.holds(path):
            if os.path.isdir(path):  # noqa: PTH112 (pathlib knows no bytes)
                yield from below(path, exclusion, recursive=recursive, problem=local.unreadable)
            elif recursive and not os.path.exists(path):  # noqa: PTH110
                yield Tree(path)
            else:
                yield path


def count(paths: Iterable[bytes], exclusion: Exclusion, *, recursive: bool, stop: Callable[[], bool]) -> int | None:
    """Count the files of ``paths`` for a progress bar; None when ``stop`` returned true first."""
    total = 0
    for path in paths:
        files = below(path, exclusion, recursive=recursive) if os.path.isdir(path) else iter([path])  # noqa: PTH112
        for _ in files:
            total += 1
            if stop():
                return None
    return total
