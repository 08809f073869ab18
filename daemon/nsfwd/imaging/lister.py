"""The body of the lister process: names the regular files of directories, a chunk at a time, when asked.

A directory is read as a stream: memory does not grow with it. The server asks for the next chunk when it has taken the
last, and may begin again behind the files it has (``skip``) when a lister ended. Only directories are opened; what the
files are is for the decoders to find.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import msgspec

from nsfwd.errors import CodedError
from nsfwd.imaging import safe_open, sandbox
from nsfwd.ipc import child_messages
from nsfwd.ipc.child_bootstrap import run_child
from nsfwd.ipc.link import MAX_PACKET, Link

CHUNK_BYTES = MAX_PACKET // 2
"""Bytes of names after which a chunk is full, however few they are: the longest one still fits the packet."""

CHUNK_SECONDS = 0.1
"""A chunk is sent after this long however few names it has, even none: other lists wait for their turn."""

FILES = 4096
"""Descriptors a lister may have: two for each level it is in, of every list."""

_INTO = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(slots=True)
class _Level:
    """A directory being read: as the client would spell it, where it really lies, and how deep below the first."""

    path: bytes
    real: bytes
    depth: int
    descriptor: int
    entries: Iterator[os.DirEntry[str]]


class Listing:
    """One walk through a directory.

    Args:
        request: what was asked for.
        setup: roots and limits.
    """

    def __init__(self, request: child_messages.List, setup: child_messages.ListerSetup, roots: safe_open.Roots) -> None:
        self._request = request
        self._setup = setup
        self._roots = roots
        self._seen = 0
        self._problem: CodedError | None = None
        self._steps = self._walk()
        self._skip = request.skip

    def chunk(self) -> child_messages.Entries:
        """Give the next files: up to the agreed number, ``CHUNK_BYTES`` or ``CHUNK_SECONDS``, whichever is first."""
        paths: list[bytes] = []
        size = 0
        until = time.monotonic() + CHUNK_SECONDS
        try:
            for path in self._steps:
                if path is not None and self._skip:
                    self._skip -= 1
                elif path is not None:
                    paths.append(path)
                    size += len(path)
                if len(paths) >= self._setup.chunk or size >= CHUNK_BYTES or time.monotonic() >= until:
                    return child_messages.Entries(self._request.number, paths, False, "", "")
        except CodedError as error:
            self._problem = error
        problem = self._problem
        code, message = (problem.code, problem.message) if problem is not None else ("", "")
        return child_messages.Entries(self._request.number, paths, True, code, message)

    def close(self) -> None:
        """Let go of the directories it was in."""
        self._steps.close()

    def _walk(self) -> Generator[bytes | None, None, None]:
        """Step through all entries: a path for a file to name, None for anything else."""
        first = safe_open.open_directory(self._request.path, self._roots)
        levels = [self._level(first, self._request.path.rstrip(b"/"), safe_open.real_path(first).rstrip(b"/"), 0)]
        try:
            while levels:
                entry = self._next(levels[-1])
                if entry is None:
                    _leave(levels.pop())
                    continue
                path = levels[-1].path + b"/" + os.fsencode(entry.name)
                yield path if self._is_file(entry, path) else None
                if self._request.recursive and entry.is_dir(follow_symlinks=False):
                    self._descend(levels, entry)
        finally:
            for level in levels:
                _leave(level)

    def _next(self, level: _Level) -> os.DirEntry[str] | None:
        try:
            entry = next(level.entries, None)
        except OSError as error:
            self._note(CodedError(safe_open.code_of(error), "a directory could not be read to its end"))
            return None
        if entry is not None:
            self._seen += 1
            if self._seen > self._setup.max_entries:
                raise CodedError("too_many_entries", f"more than {self._setup.max_entries} entries")
        return entry

    def _is_file(self, entry: os.DirEntry[str], path: bytes) -> bool:
        if entry.is_symlink():
            return safe_open.is_worth_naming(path, self._roots)
        return entry.is_file(follow_symlinks=False)

    def _descend(self, levels: list[_Level], entry: os.DirEntry[str]) -> None:
        """Go into a directory; one that cannot be entered leaves the list incomplete, which its end will tell."""
        above = levels[-1]
        name = os.fsencode(entry.name)
        real = above.real + b"/" + name
        if real in safe_open.KERNEL:
            return
        if above.depth >= self._setup.max_depth:
            self._note(CodedError("too_deep", f"directories more than {self._setup.max_depth} deep were left out"))
            return
        try:
            below = os.open(name, _INTO, dir_fd=above.descriptor)
        except OSError as error:
            self._note(CodedError(safe_open.code_of(error), "a directory below could not be opened"))
            return
        if safe_open.is_kernels(below):
            os.close(below)
            return
        levels.append(self._level(below, above.path + b"/" + name, real, above.depth + 1))

    def _level(self, descriptor: int, path: bytes, real: bytes, depth: int) -> _Level:
        try:
            return _Level(path, real, depth, descriptor, os.scandir(descriptor))
        except OSError as error:
            os.close(descriptor)
            raise CodedError(safe_open.code_of(error)) from error

    def _note(self, problem: CodedError) -> None:
        """Keep the first problem for the end of the list; the walk goes on."""
        if self._problem is None:
            self._problem = problem


def _leave(level: _Level) -> None:
    level.entries.close()  # type: ignore[attr-defined]
    os.close(level.descriptor)


class Lister:
    """All walks under way, by the server's numbers."""

    def __init__(self, setup: child_messages.ListerSetup) -> None:
        self._setup = setup
        self._roots = safe_open.Roots(setup.roots)
        self._listings: dict[int, Listing] = {}

    def answer(
        self, request: child_messages.List | child_messages.More | child_messages.Forget
    ) -> child_messages.Entries | None:
        """Take one message of the server; give what it is to be sent, if anything.

        Raises:
            Outdated: the roots have moved, and this process cannot follow.
        """
        if isinstance(request, child_messages.Forget):
            self._forget(request.number)
            return None
        if isinstance(request, child_messages.List):
            self._forget(request.number)
            self._listings[request.number] = Listing(request, self._setup, self._roots.narrowed(request.roots))
        listing = self._listings.get(request.number)
        if listing is None:
            return None
        entries = self._chunk(request.number, listing)
        if entries.code == "permission" and self._roots.moved():
            raise sandbox.Outdated
        if entries.end:
            self._forget(request.number)
        return entries

    def _chunk(self, number: int, listing: Listing) -> child_messages.Entries:
        try:
            return listing.chunk()
        except Exception as error:  # a walk that fails must not cost the others theirs
            print(f"a defect in the lister: {type(error).__name__}", file=sys.stderr, flush=True)
            return child_messages.Entries(number, [], True, "listing_failed", "")

    def _forget(self, number: int) -> None:
        listing = self._listings.pop(number, None)
        if listing is not None:
            listing.close()


def serve(link: Link) -> None:
    """Answer the server until it closes the link."""
    packet, _ = link.receive()
    setup = msgspec.msgpack.decode(packet, type=child_messages.ListerSetup)
    lister = Lister(setup)
    applied, missing = sandbox.apply(
        memory=None, files=FILES, roots=setup.roots, descriptors=(link.fileno(),), names_only=True
    )
    link.send(child_messages.encode(child_messages.Hello(applied, missing)))
    requests = msgspec.msgpack.Decoder(child_messages.List | child_messages.More | child_messages.Forget)
    while True:
        packet, _ = link.receive()
        entries = lister.answer(requests.decode(packet))
        if entries is not None:
            link.send(child_messages.encode(entries))


def main() -> None:
    """Run as ``python -m nsfwd.imaging.lister LINK_FD``."""
    link, _ = run_child()
    try:
        serve(link)
    except (EOFError, sandbox.Outdated):
        pass  # the server wants no more, or is gone; or it will start another in our place


if __name__ == "__main__":
    main()
