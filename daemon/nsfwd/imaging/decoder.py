"""The body of a decoder process: paths and descriptors come in, pixels go into the arena's slots, results go back.

It owns nothing between two images and keeps nothing of them, so it may be killed at any moment: the note in the arena
says which file it was at, and what it had not answered is given to another. Running out of memory is an answer like any
other (``decoder_memory``): the failed image's memory is returned to the system, and the process goes on.
"""

from __future__ import annotations

import hashlib
import io
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import BinaryIO

import msgspec

from nsfwd.bundles.manifest import Recipe
from nsfwd.errors import CodedError
from nsfwd.imaging import open_image_cache, preprocess, resizing, safe_open, sandbox
from nsfwd.imaging.open_image_cache import CachedImage, OpenImageCache
from nsfwd.ipc import child_messages
from nsfwd.ipc.arena import Arena
from nsfwd.ipc.child_bootstrap import run_child
from nsfwd.ipc.link import MAX_DESCRIPTORS, Link
from nsfwd.quantities import format_size

REPORT_SECONDS = 0.005
"""Results wait for company at most this long, so that the engine is never kept waiting for a group."""

FILES = 2 * MAX_DESCRIPTORS
"""Descriptors a decoder may have: a packet's worth, and a few of its own."""


@dataclass(slots=True)
class _Facts:
    """What has been found out about one job's file, whatever it comes to."""

    seen: preprocess.Seen
    identity: child_messages.HashedStamp | None = None
    stamp: child_messages.Stamp | None = None
    pixels: preprocess.Pixels | None = None


class Decoder:
    """The work on jobs, one after the other.

    Args:
        setup: the server's first message.
        arena: where notes and pixels are written.
        tell: sends the server what it must know before a job ends.
    """

    def __init__(
        self, setup: child_messages.DecoderSetup, arena: Arena, tell: Callable[[child_messages.Wire], None]
    ) -> None:
        self._worker = setup.worker
        self._arena = arena
        self._recipes = msgspec.convert(setup.recipes, tuple[Recipe, ...])
        for recipe in self._recipes:
            resizing.check(recipe)
        self._limits = setup.limits
        self._roots = safe_open.Roots(setup.roots)
        self._tell = tell
        self._kept = OpenImageCache()
        self.avoid(setup.poison)

    def avoid(self, digests: Iterable[tuple[int, str]]) -> None:
        """Learn which files, by size and digest, are not to be decoded."""
        self._poison = frozenset(digests)
        self._poison_sizes = frozenset(size for size, _ in self._poison)

    def groups(self, jobs: list[child_messages.Job], descriptors: list[int]) -> Iterator[child_messages.EncodedGroup]:
        """Do the jobs; give their results in groups, none later than ``REPORT_SECONDS`` of work."""
        results: list[msgspec.Raw] = []
        began = time.monotonic()
        for job in jobs:
            descriptor = descriptors.pop(0) if job.descriptor and descriptors else None
            results.append(msgspec.Raw(self.answer(job, descriptor)))
            if time.monotonic() - began >= REPORT_SECONDS:
                yield child_messages.EncodedGroup(results)
                results, began = [], time.monotonic()
        if results:
            yield child_messages.EncodedGroup(results)
        for surplus in descriptors:
            os.close(surplus)

    def answer(self, job: child_messages.Job, descriptor: int | None) -> bytes:
        """Do one job and encode its result; the job is noted until both are done, so that it is blamed for either.

        Raises:
            Outdated: as ``do``.
        """
        self._arena.write_note(self._worker, job.number)
        result = self.do(job, descriptor)
        try:
            encoded = child_messages.encode(result)
        except Exception as error:
            encoded = child_messages.encode(_failed(job, error))
        self._arena.clear_note(self._worker)
        return encoded

    def do(self, job: child_messages.Job, descriptor: int | None) -> child_messages.Decoded:
        """Do one job; whatever the file is, there is a result. ``descriptor`` is closed.

        Raises:
            Outdated: the roots have moved, and this process cannot follow.
        """
        began = time.perf_counter()
        facts = _Facts(preprocess.Seen())
        code = message = ""
        try:
            self._fill_at_any_rate(job, descriptor, facts)
        except safe_open.IsDirectory:
            code = child_messages.DIRECTORY
        except CodedError as error:
            code, message = error.code, error.message
            if code == "permission" and self._roots.moved():
                self._arena.clear_note(self._worker)
                raise sandbox.Outdated from None
        except MemoryError:
            code, message = "decoder_memory", CodedError("decoder_memory").message
        except Exception as error:
            code, message = "internal", _defect(error)
        return child_messages.Decoded(
            job.number,
            job.slot,
            job.lease_id,
            code,
            message,
            time.perf_counter() - began,
            facts.seen.width,
            facts.seen.height,
            facts.seen.format,
            facts.identity,
            *_view(facts, stamped=len(self._recipes) > 1, probe=job.probe),
        )

    def _fill(self, job: child_messages.Job, descriptor: int | None, facts: _Facts) -> None:
        """Open, check, decode, and write the pixels into the job's slot."""
        held = self._kept.take(job.number, job.stamp) if job.view else None
        if held is None:
            held = self._found(job, descriptor, facts)
        elif descriptor is not None:
            os.close(descriptor)
        if held is None:
            return
        facts.seen, facts.stamp = held.seen, held.stamp
        try:
            pixels = facts.pixels = held.image.decode(job.view)
            self._arena.slot(job.slot)[: len(pixels.data)] = pixels.data
        except BaseException:
            held.file.close()
            raise
        if pixels.next and held.image.goes_on:
            self._kept.keep(job.number, replace(held, since=time.monotonic()))
        else:
            held.file.close()

    def _found(self, job: child_messages.Job, descriptor: int | None, facts: _Facts) -> CachedImage | None:
        """Open and check the job's image; None where less was asked for."""
        with ExitStack() as opened:
            file = opened.enter_context(self._opened(job, descriptor))
            found = os.fstat(file.fileno())
            if found.st_size > self._limits.max_bytes:
                raise CodedError(
                    "too_large", f"{found.st_size} bytes; the limit is {format_size(self._limits.max_bytes)}"
                )
            facts.stamp = _stamp(found)
            if job.stamp is not None and job.stamp != facts.stamp:
                raise CodedError("unreadable", "the file changed while it was read")
            if job.probe == child_messages.STAT:
                return None
            source = self._examined(job, file, facts)
            if job.probe:
                return None
            image = preprocess.OpenImage(source, self._recipes[job.recipe], self._limits, facts.seen, frames=job.frames)
            opened.pop_all()
            return CachedImage(
                image, file, 0 if source is file else found.st_size, facts.stamp, facts.seen, time.monotonic()
            )

    def _fill_at_any_rate(self, job: child_messages.Job, descriptor: int | None, facts: _Facts) -> None:
        """Fill the slot; where memory does not suffice, once more without what is kept of other images."""
        if not len(self._kept):
            self._fill(job, descriptor, facts)
            return
        spare = os.dup(descriptor) if descriptor is not None else None
        try:
            self._fill(job, descriptor, facts)
        except (MemoryError, CodedError) as error:
            if isinstance(error, CodedError) and error.code != "decoder_memory":
                raise
            self._kept.clear()
            again, spare = spare, None
            self._fill(job, again, facts)
        finally:
            if spare is not None:
                os.close(spare)

    def rest(self) -> None:
        """Nothing was asked for a while: let go of the images that are kept for further views."""
        self._kept.clear()

    @property
    def keeps(self) -> bool:
        """Whether any image is kept for a further view."""
        return len(self._kept) > 0

    def _examined(self, job: child_messages.Job, file: BinaryIO, facts: _Facts) -> BinaryIO:
        """Give what is to be decoded; read as a whole first where its digest must be known, or its position is shared.

        Raises:
            CodedError: ``decoder_died``: it is on the poison list; ``unreadable`` as ``_read``.
        """
        size = os.fstat(file.fileno()).st_size
        hashed = job.identity or job.suspect or job.probe or size in self._poison_sizes
        if not hashed and not job.descriptor:
            return file
        content, stamp = _read(file.fileno(), self._limits.max_bytes)
        if hashed:
            digest = hashlib.sha256(content).hexdigest()
            if job.identity or job.probe:
                facts.identity = (*stamp, digest)
            if (len(content), digest) in self._poison:
                raise CodedError("decoder_died", "it is on the poison list: it ended decoders before")
            if job.suspect:
                self._tell(child_messages.Suspected(job.number, len(content), digest))
        return io.BytesIO(content)

    def _opened(self, job: child_messages.Job, descriptor: int | None) -> BinaryIO:
        if not job.descriptor:
            return os.fdopen(safe_open.open_image(job.path, self._roots.narrowed(job.roots)), "rb")
        if descriptor is None:
            raise CodedError("unreadable", "the system could not pass its descriptor to a decoder")
        try:
            safe_open.check_passed(descriptor)
            file = os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
        return file


def _read(descriptor: int, max_bytes: int) -> tuple[bytes, child_messages.Stamp]:
    """Read a whole file, so that what is known of it is true of the very bytes that are then decoded.

    Read by position: who passed a descriptor shares its offset, and may pass it twice.

    Raises:
        CodedError: ``unreadable`` when it cannot be read or is being written to; a retry may help.
    """
    pieces: list[bytes] = []
    at = 0
    try:
        before = os.fstat(descriptor)
        while at <= max_bytes and (piece := os.pread(descriptor, max(before.st_size + 1 - at, 1), at)):
            pieces.append(piece)
            at += len(piece)
        after = os.fstat(descriptor)
    except OSError as error:
        raise CodedError("unreadable", os.strerror(error.errno) if error.errno else "") from error
    stamp = _stamp(before)
    if stamp != _stamp(after) or at != before.st_size:
        raise CodedError("unreadable", "the file changed while it was read")
    return b"".join(pieces), stamp


def _view(facts: _Facts, *, stamped: bool, probe: int) -> tuple[int, int, int, int, str, child_messages.Stamp | None]:
    """What ``Decoded`` tells of the view, from ``next`` on; ``stamped`` where the image may be decoded once more."""
    if facts.pixels is None:
        return 0, 0, 1, 1, "", facts.stamp if probe else None
    shown = facts.pixels
    stamp = facts.stamp if shown.next or stamped else None
    return shown.next, shown.frame, shown.frames, shown.sampled, shown.background, stamp


def _stamp(found: os.stat_result) -> child_messages.Stamp:
    return child_messages.stamp_of(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _failed(job: child_messages.Job, error: Exception) -> child_messages.Decoded:
    """Return the result of a job whose own result has no place in a message."""
    return child_messages.Decoded(job.number, job.slot, job.lease_id, "internal", _defect(error), 0.0)


def _defect(error: Exception) -> str:
    """Report a defect on standard error, without its text, which may name files; return what the client reads."""
    where = "".join(traceback.format_tb(error.__traceback__))
    print(f"{type(error).__name__} at\n{where}", file=sys.stderr, flush=True)
    return f"a defect in the decoder: {type(error).__name__}"


def serve(link: Link, arena_fd: int) -> None:
    """Answer the server until it closes the link."""
    packet, _ = link.receive()
    setup = msgspec.msgpack.decode(packet, type=child_messages.DecoderSetup)
    arena = Arena.attach(arena_fd, setup.slot_bytes)
    decoder = Decoder(setup, arena, lambda message: link.send(child_messages.encode(message)))
    # The arena is shared by all and not counted as this decoder's memory.
    applied, missing = sandbox.apply(
        memory=setup.limits.memory + arena.bytes,
        files=FILES,
        roots=setup.roots,
        descriptors=(link.fileno(), arena_fd),
    )
    link.send(child_messages.encode(child_messages.Hello(applied, missing)))
    requests = msgspec.msgpack.Decoder(child_messages.Decode | child_messages.Poison)
    waiting = select.poll()
    waiting.register(link.fileno(), select.POLLIN)
    while True:
        if decoder.keeps and not waiting.poll(open_image_cache.SECONDS * 1000):
            decoder.rest()
        packet, descriptors = link.receive()
        request = requests.decode(packet)
        if isinstance(request, child_messages.Poison):
            decoder.avoid(request.digests)
            continue
        for group in decoder.groups(request.jobs, descriptors):
            link.send(child_messages.encode(group))


def main() -> None:
    """Run as ``python -m nsfwd.imaging.decoder LINK_FD ARENA_FD``."""
    link, (arena_fd,) = run_child()
    try:
        serve(link, arena_fd)
    except (EOFError, sandbox.Outdated):
        pass  # the server wants no more, or is gone; or it will start another in our place


if __name__ == "__main__":
    main()
