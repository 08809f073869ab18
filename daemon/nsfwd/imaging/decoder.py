"""The body of a decoder process: paths and descriptors come in, pixels go into the arena's slots, results go back.

It owns nothing between two images and keeps nothing of them, so it may be killed at any moment: the note in the arena
says which file it was at, and what it had not answered is given to another. Running out of memory is an answer like any
other (``decoder_memory``): the failed image's memory is returned to the system, and the process goes on.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from nsfwd.bundles.manifest import Recipe
from nsfwd.errors import CodedError
from nsfwd.imaging import opening, preprocess, resizing, sandbox
from nsfwd.ipc import messages
from nsfwd.ipc.arena import Arena
from nsfwd.ipc.childmain import run_child
from nsfwd.ipc.link import MAX_DESCRIPTORS, Link

REPORT_SECONDS = 0.005
"""Results wait for company at most this long, so that the engine is never kept waiting for a group."""

FILES = 2 * MAX_DESCRIPTORS
"""Descriptors a decoder may have: a packet's worth, and a few of its own."""

FileIdentity = tuple[int, int, int, int, int, str]


@dataclass(slots=True)
class _Facts:
    """What has been found out about one job's file, whatever it comes to."""

    seen: preprocess.Seen
    identity: FileIdentity | None = None


class Decoder:
    """The work on jobs, one after the other.

    Args:
        setup: the server's first message.
        arena: where notes and pixels are written.
    """

    def __init__(self, setup: messages.DecoderSetup, arena: Arena) -> None:
        self._worker = setup.worker
        self._arena = arena
        self._recipe = msgspec.convert(setup.recipe, Recipe)
        resizing.check(self._recipe)
        self._limits = setup.limits
        self._roots = opening.Roots(setup.roots)

    def groups(self, jobs: list[messages.Job], descriptors: list[int]) -> Iterator[messages.DecodedGroup]:
        """Do the jobs; give their results in groups, none later than ``REPORT_SECONDS`` of work."""
        results: list[messages.Decoded] = []
        began = time.monotonic()
        for job in jobs:
            descriptor = descriptors.pop(0) if job.descriptor and descriptors else None
            results.append(self.do(job, descriptor))
            if time.monotonic() - began >= REPORT_SECONDS:
                yield messages.DecodedGroup(results)
                results, began = [], time.monotonic()
        if results:
            yield messages.DecodedGroup(results)
        for surplus in descriptors:
            os.close(surplus)

    def do(self, job: messages.Job, descriptor: int | None) -> messages.Decoded:
        """Do one job; whatever the file is, there is a result. ``descriptor`` is closed.

        Raises:
            Outdated: the roots have moved, and this process cannot follow.
        """
        began = time.perf_counter()
        facts = _Facts(preprocess.Seen())
        self._arena.write_note(self._worker, job.number)
        code = message = ""
        try:
            self._fill(job, descriptor, facts)
        except opening.IsDirectory:
            code = "is_directory"
        except CodedError as error:
            code, message = error.code, error.message
            if code == "permission" and self._roots.moved():
                self._arena.clear_note(self._worker)
                raise sandbox.Outdated from None
        except MemoryError:
            code, message = "decoder_memory", CodedError("decoder_memory").message
        except Exception as error:
            code, message = "internal", f"a defect in the decoder: {type(error).__name__}"
            _complain(error)
        self._arena.clear_note(self._worker)
        return messages.Decoded(
            job.number,
            job.slot,
            job.generation,
            code,
            message,
            time.perf_counter() - began,
            facts.seen.width,
            facts.seen.height,
            facts.seen.format,
            facts.identity,
        )

    def _fill(self, job: messages.Job, descriptor: int | None, facts: _Facts) -> None:
        """Open, check, decode, and write the pixels into the job's slot."""
        with self._opened(job, descriptor) as file:
            size = os.fstat(file.fileno()).st_size
            if size > self._limits.max_bytes:
                raise CodedError("too_large", f"{size} bytes; the limit is {self._limits.max_bytes}")
            source: BinaryIO = file
            if job.identity:
                content, facts.identity = _read_identified(file, self._limits.max_bytes)
                source = io.BytesIO(content)
            pixels = preprocess.decode(source, self._recipe, self._limits, facts.seen)
        self._arena.slot(job.slot)[: len(pixels.data)] = pixels.data

    def _opened(self, job: messages.Job, descriptor: int | None) -> BinaryIO:
        if not job.descriptor:
            return os.fdopen(opening.open_image(job.path, self._roots), "rb")
        if descriptor is None:
            raise CodedError("no_descriptor")
        try:
            opening.check_kind(os.fstat(descriptor).st_mode)
            file = os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
        return file


def _read_identified(file: BinaryIO, max_bytes: int) -> tuple[bytes, FileIdentity]:
    """Read the whole file once, so that the digest is of the very bytes that are then decoded.

    Raises:
        CodedError: ``unreadable`` when it cannot be read or is being written to; a retry may help.
    """
    try:
        file.seek(0)
        before = os.fstat(file.fileno())
        content = file.read(max_bytes + 1)
        after = os.fstat(file.fileno())
    except OSError as error:
        raise CodedError("unreadable", os.strerror(error.errno) if error.errno else "") from error
    first, last = _stamp(before), _stamp(after)
    if first != last or len(content) != before.st_size:
        raise CodedError("unreadable", "the file changed while it was read")
    return content, (*first, hashlib.sha256(content).hexdigest())


def _stamp(found: os.stat_result) -> tuple[int, int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _complain(error: Exception) -> None:
    """Say on standard error where a defect is; not its text, which may name files."""
    where = "".join(traceback.format_tb(error.__traceback__))
    print(f"{type(error).__name__} at\n{where}", file=sys.stderr, flush=True)


def serve(link: Link, arena_fd: int) -> None:
    """Answer the server until it closes the link."""
    packet, _ = link.receive()
    setup = msgspec.msgpack.decode(packet, type=messages.DecoderSetup)
    arena = Arena.attach(arena_fd, setup.slot_bytes)
    decoder = Decoder(setup, arena)
    # The arena is shared by all and not counted as this decoder's memory.
    applied, missing = sandbox.apply(
        memory=setup.limits.memory + arena.bytes,
        files=FILES,
        roots=setup.roots,
        descriptors=(link.fileno(), arena_fd),
    )
    link.send(messages.encode(messages.Hello(applied, missing)))
    requests = msgspec.msgpack.Decoder(messages.Decode)
    while True:
        packet, descriptors = link.receive()
        for group in decoder.groups(requests.decode(packet).jobs, descriptors):
            link.send(messages.encode(group))


def main() -> None:
    """Run as ``python -m nsfwd.imaging.decoder LINK_FD ARENA_FD``."""
    link, (arena_fd,) = run_child()
    try:
        serve(link, arena_fd)
    except (EOFError, sandbox.Outdated):
        pass  # the server wants no more, or is gone; or it will start another in our place


if __name__ == "__main__":
    main()
