"""The poison list: files that crashed decoders, by their content, so that none is decoded again after a restart.

It opens no image: digests come from decoders. A file that crashes one release of the imaging library need not crash the
next, so an entry is valid for the release it was made with, and for a week.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from nsfwd.documents import DocumentError, decode_json, read_document

CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGSYS})
"""Signals by which a file is found guilty. Not SIGKILL: that is a person, the kernel out of memory, or our time-out."""

CRASHES_BEFORE_LISTING = 2

LIFETIME = 7 * 86400.0
"""Seconds an entry holds."""

MOST_ENTRIES = 1000
"""The oldest goes first: decoders get the whole list."""

FILE = "poison.json"

_log = logging.getLogger("nsfwd.pipeline")


class PoisonEntry(msgspec.Struct, frozen=True):
    """One file that crashed decoders.

    Attributes:
        listed: ``time.time()`` at which it was listed.
        pillow: release of the imaging library that it crashed.
    """

    sha256: str
    size: int
    signal: str
    listed: float
    pillow: str


class PoisonList:
    """The list, kept in one file of the daemon's own directory.

    Args:
        directory: where the file lies; if it cannot be written, the list is lost at the next restart, which is logged
            once.
        clock: seconds since the epoch.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._file = directory / FILE
        self._clock = clock
        self._pillow = _pillow()
        self._unwritten = False
        self._entries: dict[str, PoisonEntry] = {entry.sha256: entry for entry in self._read()}
        self._forget_old()

    def entries(self) -> list[PoisonEntry]:
        """All valid entries, oldest first."""
        self._forget_old()
        return list(self._entries.values())

    def digests(self) -> tuple[tuple[int, str], ...]:
        """Size and SHA-256 of each file on the list: what a decoder needs to know one."""
        return tuple((entry.size, entry.sha256) for entry in self.entries())

    def add(self, size: int, sha256: str, number: int) -> None:
        """List a file that has crashed decoders by the signal ``number``."""
        entry = PoisonEntry(sha256, size, signal.Signals(number).name, self._clock(), self._pillow)
        self._entries.pop(sha256, None)
        self._entries[sha256] = entry
        while len(self._entries) > MOST_ENTRIES:
            del self._entries[next(iter(self._entries))]
        _log.warning("added to the poison list: sha256 %s, %d bytes, after %s", sha256, size, entry.signal)
        self._write()

    def clear(self) -> int:
        """Remove all entries; return their number."""
        count = len(self._entries)
        self._entries.clear()
        if count:
            self._write()
        return count

    def describe(self) -> list[dict[str, Any]]:
        """The entries, for ``stats``."""
        return [msgspec.to_builtins(entry) for entry in self.entries()]

    def _forget_old(self) -> None:
        oldest = self._clock() - LIFETIME
        for entry in tuple(self._entries.values()):
            if entry.listed < oldest or entry.pillow != self._pillow:
                del self._entries[entry.sha256]

    def _read(self) -> list[PoisonEntry]:
        try:
            return decode_json(read_document(self._file), list[PoisonEntry])
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, DocumentError) as error:
            _log.warning("%s: the poison list cannot be read, starting a new one: %s", self._file, error)
            return []

    def _write(self) -> None:
        """Replace the file as a whole: a reader sees the old list or the new one."""
        temporary = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.describe(), indent=1))
            temporary.replace(self._file)
        except OSError as error:
            if not self._unwritten:
                _log.warning("%s: the poison list cannot be written: %s", self._file, error.strerror)
            self._unwritten = True
        else:
            self._unwritten = False


def _pillow() -> str:
    """The release of the imaging library, found without importing it."""
    try:
        return version("pillow")
    except PackageNotFoundError:
        return ""
