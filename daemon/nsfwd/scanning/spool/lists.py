"""A spool: lists of paths that other programs hand in as files, and replies that they take away as files.

    in/NAME.list       paths, each ended by LF, or by NUL where there is one; renamed into place when it is whole
    out/NAME.ndjson    a reply a line, as they come; ``id`` is the number of the path in its list, from 0
    out/NAME.done      JSON: counts, or why the list was not taken; it ends the job, and then the list is gone
    work/NAME.json     which list is under way
    refused/           what is no list: ``in`` is always empty in the end

A job that was killed goes on after the last whole line; no path is answered twice. Knows files and lists; who answers
is given. For one process at a time, which a lock on ``work`` sees to.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsfwd.errors import ActionFailure, SweepRuns
from nsfwd.protocol import jsonio
from nsfwd.scanning.trees.files import write_new

DIRECTORY = Path("/var/spool/nsfwd")

PARTS = ("in", "out", "work", "refused")

LIST, RESULT, DONE = ".list", ".ndjson", ".done"

LONGEST = 64 * 1024
"""Bytes of one path; the daemon takes no longer ones."""

_CHUNK = 1024 * 1024
_NAME = re.compile(r"[^./\0][^/\0]{0,199}")


@dataclass(slots=True)
class Job:
    """A list that is under way.

    Attributes:
        answered: one bit a path: those that have a line in the result.
        counts: lines of the result by status; ``verdicts`` of those scored.
        at, size: bytes of the list that were read, of all.
    """

    name: str
    source: int
    result: int
    identity: dict[str, int]
    answered: bytearray = field(default_factory=bytearray)
    counts: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    alarms: int = 0
    started: float = field(default_factory=time.time)
    at: int = 0
    size: int = 0

    def paths(self) -> Iterator[tuple[int, bytes]]:
        """Yield the paths that were not answered yet, with their numbers."""
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
        """Return what ``NAME.done`` says."""
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
        head = os.pread(self.source, LONGEST, 0)
        end = b"\0" if b"\0" in head else b"\n"
        rest = b""
        while chunk := os.pread(self.source, _CHUNK, self.at):
            self.at += len(chunk)
            *whole, rest = (rest + chunk).split(end)
            yield from whole
            rest = rest[: LONGEST + 1]  # too long a path is answered as one that is
        if rest:
            yield rest


class Spool:
    """The directories of a spool, made below one that is there. Use as a context manager.

    Raises:
        ActionFailure: they cannot be used, or their disk is full. As every method.
        SweepRuns: another process is at work in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._places: dict[str, int] = {}
        try:
            for part in PARTS:
                (root / part).mkdir(mode=0o750, exist_ok=True)
                self._places[part] = os.open(root / part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._places["work"], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise SweepRuns(f"{root}: another process is at work in this spool") from None
        except OSError as error:
            self.close()
            raise ActionFailure(f"{error.filename or root}: {error.strerror}") from error

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
            with suppress(FileNotFoundError):  # taken back by who gave it
                found = self._look("in", name)
                if not self._refused(name, found):
                    waiting.append((found.st_mtime_ns, name))
        return min(waiting)[1].removesuffix(LIST) if waiting else None

    def begin(self, name: str) -> Job | None:
        """Open a job, to be begun or gone on with; None when it was over already, or is refused."""
        try:
            source = os.open(
                name + LIST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._places["in"]
            )
        except OSError as error:
            self.refuse(name + LIST, error.strerror or str(error))
            return None
        found = os.fstat(source)
        identity = {"dev": found.st_dev, "ino": found.st_ino, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
        if self._under_way(name) != identity:
            if self._exists("out", name + DONE) or self._exists("out", name + RESULT):
                os.close(source)
                self.refuse(name + LIST, "the results of an earlier list of this name are still there")
                return None
            self._write("work", f"{name}.json", identity)
        elif self._exists("out", name + DONE):  # killed after its end
            os.close(source)
            self._clear(name)
            return None
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC
        result = os.open(name + RESULT, flags, 0o640, dir_fd=self._places["out"])
        job = Job(name, source, result, identity, size=found.st_size)
        _resume(job)
        return job

    def end(self, job: Job) -> None:
        """Write down that a job is over, and take its list away."""
        os.fsync(job.result)
        self._write("out", job.name + DONE, job.summary())
        self._clear(job.name)

    def refuse(self, name: str, why: str) -> None:
        """Put aside what is no list that can be done, and say why where its results are looked for."""
        aside = name
        while self._exists("refused", aside):
            aside = f"{aside}~"
        try:
            os.rename(name, aside, src_dir_fd=self._places["in"], dst_dir_fd=self._places["refused"])
        except FileNotFoundError:
            return
        except OSError as error:
            raise ActionFailure(f"{self.root}/in/{name}: cannot be put aside: {error.strerror}") from error
        told = name.removesuffix(LIST)
        if name.endswith(LIST) and not self._exists("out", told + DONE) and not self._exists("out", told + RESULT):
            self._write("out", told + DONE, {"error": why})

    def _refused(self, name: str, found: os.stat_result) -> bool:
        """Put aside what is no list; tell whether it was."""
        if not name.endswith(LIST) or not _NAME.fullmatch(name.removesuffix(LIST)):
            self.refuse(name, "no name of a list")
        elif not stat.S_ISREG(found.st_mode):
            self.refuse(name, "no regular file")
        else:
            return False
        return True

    def _under_way(self, name: str) -> dict[str, int] | None:
        try:
            known: dict[str, int] = json.loads((self.root / "work" / f"{name}.json").read_bytes())
            return known
        except (FileNotFoundError, ValueError):
            return None

    def _clear(self, name: str) -> None:
        """Forget a job that is over: the list first, so that one without the other is a new list."""
        for part, file in (("in", name + LIST), ("work", f"{name}.json")):
            if self._exists(part, file):
                os.unlink(file, dir_fd=self._places[part])

    def _look(self, part: str, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._places[part], follow_symlinks=False)

    def _exists(self, part: str, name: str) -> bool:
        try:
            self._look(part, name)
        except FileNotFoundError:
            return False
        return True

    def _write(self, part: str, name: str, value: dict[str, Any]) -> None:
        try:
            write_new(self._places[part], os.fsencode(name), jsonio.dumps(value) + b"\n", 0o640)
        except OSError as error:
            raise ActionFailure(f"{self.root}/{part}/{name}: {error.strerror}") from error


def _resume(job: Job) -> None:
    """Count the whole lines of a result that was begun, and cut off what a kill left in pieces."""
    whole, rest, at = 0, b"", 0
    with suppress(ValueError, KeyError):  # a power cut may leave anything behind the last whole line
        while chunk := os.pread(job.result, _CHUNK, at):
            at += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                reply = json.loads(line)
                job.count(reply["id"], reply)
                whole += len(line) + 1
    os.ftruncate(job.result, whole)
