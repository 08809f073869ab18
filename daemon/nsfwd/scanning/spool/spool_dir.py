"""A spool: lists of paths that other programs hand in as files, and replies that they take away as files.

    in/NAME.list       paths, each ended by LF, or by NUL where there is one; renamed into place when it is whole
    out/NAME.ndjson    a reply a line, as they come; ``id`` is the number of the path in its list, from 0
    out/NAME.done      JSON: counts, or why the list was not taken; it ends the job, and then the list is gone
    work/NAME.json     which list is under way
    refused/           anything but lists, and lists that cannot be done: ``in`` is empty in the end

A job that was killed goes on after the last whole line; no path is answered twice. Knows files and lists, and no
daemon. For one process at a time, which a lock on ``work`` sees to.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from nsfwd.errors import ActionFailure, SweepRuns
from nsfwd.protocol import jsonio
from nsfwd.scanning.trees.files import HOPELESS, write_new
from nsfwd.scanning.trees.safe_paths import LONGEST_NAME, name_beside, safe_directory

DIRECTORY = Path("/var/spool/nsfwd")

PARTS = ("in", "out", "work", "refused")

LIST, RESULT, DONE = ".list", ".ndjson", ".done"

LONGEST = 64 * 1024
"""Bytes of one path; the daemon takes no longer ones."""

LONGEST_STEM = 200
"""Bytes of a list's name without its ending: names that are made of it must fit in 255."""

_CHUNK = 1024 * 1024
_NAME = re.compile(r"[^./\0][^/\0]*")

_SOURCE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RESULT = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC


class ListFailure(Exception):
    """One list cannot be read, or answered, to its end; the message says why. Others can."""


@dataclass(slots=True)
class SpoolJob:
    """A list that is under way.

    Attributes:
        answered: one bit a path: those that have a line in the result.
        counts: lines of the result by status; ``verdicts`` of those scored.
        at, size: bytes of the list that were read, of all.
    """

    name: str
    source: int
    result: int
    answered: bytearray = field(default_factory=bytearray)
    counts: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    alarms: int = 0
    started: float = field(default_factory=time.time)
    at: int = 0
    size: int = 0

    def paths(self) -> Iterator[tuple[int, bytes]]:
        """Yield the paths that were not answered yet, with their numbers.

        Raises:
            ListFailure: it cannot be read.
        """
        for number, path in enumerate(self._records()):
            if path and not self._is_answered(number):
                yield number, path

    def write(self, number: int, reply: dict[str, Any]) -> None:
        """Add a reply to the result."""
        line = memoryview(jsonio.dumps({**reply, "id": number}) + b"\n")
        while line:
            line = line[os.write(self.result, line) :]
        self.count(number, reply)

    def count(self, number: int, reply: dict[str, Any]) -> None:
        """Note that a path was answered."""
        place, bit = divmod(number, 8)
        if place >= len(self.answered):
            self.answered.extend(bytes(place + 1 - len(self.answered)))
        self.answered[place] |= 1 << bit
        self.counts[str(reply.get("status"))] += 1
        if reply.get("status") == "ok":
            self.verdicts[str(reply.get("verdict"))] += 1
            self.alarms += bool(reply.get("alarm"))

    def summary(self) -> dict[str, Any]:
        """Return the content of ``NAME.done``."""
        return {
            "files": self.counts.total(),
            "ok": self.counts["ok"],
            "skipped": self.counts["skipped"],
            "errors": self.counts["error"],
            "alarms": self.alarms,
            "verdicts": dict(self.verdicts),
            "seconds": round(time.time() - self.started, 3),
        }

    def close(self) -> None:
        """Let go of both files."""
        os.close(self.source)
        os.close(self.result)

    def _is_answered(self, number: int) -> bool:
        place, bit = divmod(number, 8)
        return place < len(self.answered) and bool(self.answered[place] >> bit & 1)

    def _records(self) -> Iterator[bytes]:
        end = b"\0" if b"\0" in self._read(LONGEST, 0) else b"\n"
        rest = b""
        while chunk := self._read(_CHUNK, self.at):
            self.at += len(chunk)
            *whole, rest = (rest + chunk).split(end)
            yield from whole
            rest = rest[: LONGEST + 1]  # too long a path is answered as one that is
        if rest:
            yield rest

    def _read(self, size: int, at: int) -> bytes:
        try:
            return os.pread(self.source, size, at)
        except OSError as error:
            raise ListFailure(f"the list cannot be read: {error.strerror}") from error


class Spool:
    """The directories of a spool, made below one that is there. Use as a context manager.

    An error about one name costs that list alone: it is refused, or where it cannot even be put aside, left and said.

    Args:
        say: reports errors that cannot be written into ``out``.

    Attributes:
        left: lists that can be neither done nor taken away; they are not tried again until they are taken from here.

    Raises:
        ActionFailure: they cannot be used, or their disk is full. As every method.
        SweepRuns: another process is at work in it.
    """

    def __init__(self, root: Path, *, say: Callable[[str], None]) -> None:
        self.root, self._say = root, say
        self._places: dict[str, int] = {}
        self.left: set[str] = set()
        try:
            for part in PARTS:
                with safe_directory(os.fsencode(root.absolute() / part), make=0o750) as opened:
                    self._places[part] = os.dup(opened)
            fcntl.flock(self._places["work"], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise SweepRuns(f"{root}: another process is at work in this spool") from None
        except OSError as error:
            self.close()
            raise ActionFailure(f"{root}/{part}: {error.strerror}") from error

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave. Idempotent."""
        while self._places:
            os.close(self._places.popitem()[1])

    def next(self) -> str | None:
        """Return the name of a list that is to be done, the oldest first; None when there is none."""
        waiting: list[tuple[int, str]] = []
        for name in os.listdir(self._places["in"]):  # noqa: PTH208  # of a descriptor
            if name in self.left:
                continue
            try:
                found = self._look("in", name)
            except FileNotFoundError:  # taken back by its owner
                continue
            except OSError as error:
                self._refuse_for(name, error)
                continue
            if not self._refused(name, found):
                waiting.append((found.st_mtime_ns, name))
        return min(waiting)[1].removesuffix(LIST) if waiting else None

    def begin(self, name: str) -> SpoolJob | None:
        """Open a job, to be begun or gone on with; None when it was over already, or is refused."""
        with ExitStack() as opened:
            try:
                source = os.open(name + LIST, _SOURCE, dir_fd=self._places["in"])
                opened.callback(os.close, source)
                found = os.fstat(source)
                if not self._is_to_do(name, found):
                    return None
                result = os.open(name + RESULT, _RESULT, 0o640, dir_fd=self._places["out"])
                opened.callback(os.close, result)
                _check_own(result)
                job = SpoolJob(name, source, result, size=found.st_size)
                _resume(job)
            except OSError as error:
                self._refuse_for(name + LIST, error)
                return None
            opened.pop_all()
        return job

    def _is_to_do(self, name: str, found: os.stat_result) -> bool:
        """Note that a list is under way; False where it was over already, or is refused."""
        identity = {"dev": found.st_dev, "ino": found.st_ino, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
        if self._under_way(name) != identity:
            if self._exists("out", name + DONE) or self._exists("out", name + RESULT):
                self.refuse(name + LIST, "the results of an earlier list of this name are still there")
                return False
            self._write("work", f"{name}.json", identity)
        elif self._exists("out", name + DONE):  # killed after its end
            self._clear(name)
            return False
        return True

    def end(self, job: SpoolJob, *, why: str | None = None) -> None:
        """Write down that a job is over, and take its list away; ``why`` it could not be done to its end."""
        summary = job.summary() if why is None else {"error": why, **job.summary()}
        try:
            os.fsync(job.result)
            self._write("out", job.name + DONE, summary)
        except OSError as error:
            raise ActionFailure(f"{self.root}/out/{job.name}: {error.strerror}") from error
        if why is not None:
            self.refuse(job.name + LIST, why)
        self._clear(job.name)

    def refuse(self, name: str, why: str) -> None:
        """Put aside a file that is not a list, or a list that cannot be done; its ``NAME.done`` says why."""
        try:
            self._put_aside(name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._leave(name, f"{why}; and it cannot be put aside", error)
        stem = name.removesuffix(LIST)
        if not name.endswith(LIST) or len(os.fsencode(stem + DONE)) > LONGEST_NAME:
            return
        try:
            if not self._exists("out", stem + DONE) and not self._exists("out", stem + RESULT):
                self._write("out", stem + DONE, {"error": why})
        except OSError as error:
            self._check_hope(name, error)
            self._say(f"{name}: {why}; and {stem + DONE} cannot be written: {error.strerror}")

    def _put_aside(self, name: str) -> None:
        aside, raw = os.fsencode(name), os.fsencode(name)
        for number in count(1):
            if not self._exists("refused", os.fsdecode(aside)):
                break
            aside = name_beside(raw, b"~" if number == 1 else b"~%d" % number)
        os.rename(raw, aside, src_dir_fd=self._places["in"], dst_dir_fd=self._places["refused"])

    def _refuse_for(self, name: str, error: OSError) -> None:
        self._check_hope(name, error)
        self.refuse(name, error.strerror or str(error))

    def _leave(self, name: str, what: str, error: OSError) -> None:
        """Leave alone a list that can be neither done nor taken away."""
        self._check_hope(name, error)
        self.left.add(name)
        self._say(f"{self.root}/in/{name}: {what}: {error.strerror or error}")

    def _check_hope(self, name: str, error: OSError) -> None:
        if error.errno in HOPELESS:
            raise ActionFailure(f"{self.root}: {name}: {error.strerror}") from error

    def _refused(self, name: str, found: os.stat_result) -> bool:
        """Put aside anything but a list; return whether it was put aside."""
        stem = name.removesuffix(LIST)
        if not name.endswith(LIST) or not _NAME.fullmatch(stem):
            self.refuse(name, "not the name of a list")
        elif len(os.fsencode(stem)) > LONGEST_STEM:
            self.refuse(name, f"the name of a list has at most {LONGEST_STEM} bytes")
        elif not stat.S_ISREG(found.st_mode):
            self.refuse(name, "not a regular file")
        else:
            return False
        return True

    def _under_way(self, name: str) -> dict[str, int] | None:
        try:
            descriptor = os.open(
                f"{name}.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._places["work"]
            )
            with os.fdopen(descriptor, "rb") as file:
                known: dict[str, int] = json.load(file)
            return known
        except (FileNotFoundError, ValueError, RecursionError):
            return None

    def _clear(self, name: str) -> None:
        """Forget a job that is over: the list first, so that one without the other is a new list."""
        for part, file in (("in", name + LIST), ("work", f"{name}.json")):
            try:
                os.unlink(file, dir_fd=self._places[part])
            except FileNotFoundError:
                continue
            except OSError as error:
                self._leave(name + LIST, "it is done, and cannot be taken away", error)
                return

    def _look(self, part: str, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._places[part], follow_symlinks=False)

    def _exists(self, part: str, name: str) -> bool:
        try:
            self._look(part, name)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # too long to be there
                raise
            return False
        return True

    def _write(self, part: str, name: str, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode() + b"\n"  # times may need more than 64 bits
        write_new(self._places[part], os.fsencode(name), content, 0o640)


def _check_own(result: int) -> None:
    """See that a result is a file of its own: through a FIFO, or a hard link, something else would be written to.

    Raises:
        OSError: EEXIST.
    """
    found = os.fstat(result)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise FileExistsError(errno.EEXIST, "its result is not a regular file of its own")


def _resume(job: SpoolJob) -> None:
    """Count the whole lines of a result that was begun, and cut off what a kill left in pieces."""
    whole, rest, at = 0, b"", 0
    with suppress(ValueError, KeyError, TypeError, RecursionError):  # a power cut may leave anything behind the last
        while chunk := os.pread(job.result, _CHUNK, at):
            at += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                reply = json.loads(line)
                job.count(_number(reply["id"], job.size), reply)
                whole += len(line) + 1
    os.ftruncate(job.result, whole)


def _number(value: object, size: int) -> int:
    """Return the number of a path. A list has fewer paths than bytes.

    Raises:
        ValueError: it is none of this list.
    """
    if not isinstance(value, int) or not 0 <= value <= size:
        raise ValueError("no number of a path")
    return value
