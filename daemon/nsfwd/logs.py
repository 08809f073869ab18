"""The log: one line per event on stderr, safe to read on a terminal and to parse; with fields in the journal.

Built on the standard library's logging, so that a library user keeps control of it. Names of files come from strangers:
control characters are escaped, a line break can never forge a second event, and paths may be shown in full, as a digest
or not at all. Results are never logged and logs never go to stdout.

This module knows no room of the house.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
import struct
import sys
import time
from enum import StrEnum
from typing import TextIO

from nsfwd.escaping import escape, visible

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_ROOT = "nsfwd"

_JOURNAL = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Syslog priorities, which journald reads from a ``<N>`` before the line (sd-daemon(3))."""

JOURNAL_SOCKET = "/run/systemd/journal/socket"

FIELD_BYTES = 64 * 1024
"""Longest message handed to the journal: a datagram holds some 200 KiB, and no event needs more."""

BURST = 20
WINDOW = 60.0
"""More than ``BURST`` events of one kind within ``WINDOW`` seconds are counted instead of shown."""

KINDS = 1024
"""Kinds of events that are counted apart; while there are so many, further ones of the same text count as one kind."""


class PathStyle(StrEnum):
    """How the paths of images appear in the log."""

    FULL = "full"
    HASHED = "hashed"
    HIDDEN = "hidden"


def fields(kind: str = "", burst: int = BURST, **values: object) -> dict[str, object]:
    """Return the ``extra`` of a logging call: fields of the event, which the journal keeps.

    Args:
        kind: events with the same text and another kind are counted separately when they repeat.
        burst: how many of them are shown within ``WINDOW`` seconds.
        values: by name; None is left out.
    """
    return {
        "kind": kind,
        "burst": burst,
        "fields": {name: value for name, value in values.items() if value is not None},
    }


class PathFilter:
    """Formats paths for the log in one style.

    Digests are keyed with a secret of this process: equal paths look equal within one run, and a list of guessed names
    does not reveal which were scanned.
    """

    def __init__(self, style: PathStyle = PathStyle.FULL) -> None:
        self.style = style
        self._key = secrets.token_bytes(16)

    def show(self, path: bytes | None) -> str:
        """Return ``path`` as the log may show it; None is an image that came as bytes."""
        if path is None:
            return "(bytes)"
        if self.style is PathStyle.HIDDEN:
            return "(hidden)"
        if self.style is PathStyle.HASHED:
            return "path:" + hashlib.blake2b(path, digest_size=8, key=self._key).hexdigest()
        return escape(path)


paths = PathFilter()
"""The process's own filter; ``setup`` sets its style."""


class LineFormatter(logging.Formatter):
    """Formats one record as one line: time, level, room, message; a traceback is folded into the same line."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line end."""
        message = record.getMessage()
        if record.exc_info:
            message += " | " + self.formatException(record.exc_info)
        line = f"{record.levelname.lower()} {record.name.removeprefix(_ROOT + '.')}: {visible(message)}"
        if self._journal:
            return f"<{_JOURNAL.get(record.levelno, 6)}>{line}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{stamp}.{int(record.msecs):03d}Z {line}"


class JournalHandler(logging.Handler):
    """Sends each event to the journal with its fields (systemd.journal-fields(7)); a traceback keeps its lines.

    Args:
        fallback: gets the events that the journal refuses, after the reason.
        address: the journal's socket.
    """

    def __init__(self, fallback: logging.Handler, address: str = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._fallback = fallback
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._refused = False

    def emit(self, record: logging.LogRecord) -> None:
        """Send one event; never waits and never fails."""
        try:
            self._socket.sendto(self.encode(record), self._address)
        except OSError as error:
            if not self._refused:
                self._refused = True
                why = "cannot write to the journal (%s): events go to standard error"
                self._fallback.handle(logging.LogRecord(_ROOT, logging.WARNING, "", 0, why, (error.strerror,), None))
            self._fallback.handle(record)

    def encode(self, record: logging.LogRecord) -> bytes:
        """Return the event in the journal's own format: every value with its length, so that none can forge a field."""
        message = visible(record.getMessage())
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            message = "\n".join((message, *map(visible, trace.splitlines())))
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(_JOURNAL.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": _ROOT,
            "NSFWD_ROOM": record.name.removeprefix(_ROOT + "."),
            "CODE_MODULE": record.module,
            "CODE_FUNC": record.funcName or "",
            "CODE_LINE": str(record.lineno),
        }
        for name, value in getattr(record, "fields", {}).items():
            fields[f"NSFWD_{name.upper()}"] = visible(str(value))
        values = {name: text.encode()[:FIELD_BYTES] for name, text in fields.items()}
        return b"".join(
            b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value) for name, value in values.items()
        )


class Coalescer(logging.Filter):
    """Keeps an event that repeats from filling the log: beyond a burst it is counted, and the count is logged once.

    Events are of one kind when their text before the arguments is the same, and the kind given by ``fields``; debug
    events always pass. A kind that has not begun anew within ``WINDOW`` seconds is forgotten when memory is wanted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show the event; the first one of a new window says how many were suppressed."""
        if record.levelno <= logging.DEBUG:
            return True
        burst: int = getattr(record, "burst", BURST)
        kind = f"{record.name} {record.msg} {getattr(record, 'kind', '')}"
        if kind not in self._kinds and len(self._kinds) >= KINDS:
            self._forget(record.created)
            if len(self._kinds) >= KINDS:
                kind = f"{record.name} {record.msg}"
        since, count = self._kinds.get(kind, (record.created, 0))
        if record.created - since >= WINDOW:
            if count > burst:
                record.msg = f"{record.msg} ({count - burst} earlier events like this were suppressed)"
            since, count = record.created, 0
        self._kinds[kind] = (since, count + 1)
        return count < burst

    def _forget(self, now: float) -> None:
        self._kinds = {kind: seen for kind, seen in self._kinds.items() if now - seen[0] < WINDOW}


def setup(level: str = "info", style: str = "full", stream: TextIO | None = None) -> None:
    """Send the events of ``nsfwd`` to stderr. May be called again: the last call counts.

    Args:
        level: a name in ``LEVELS``.
        style: a value of ``PathStyle``.
        stream: destination instead of stderr.
    """
    journal = stream is None and _is_journal(sys.stderr)
    handler: logging.Handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(journal=journal))
    if journal:
        handler = JournalHandler(handler)
    handler.addFilter(Coalescer())
    root = logging.getLogger(_ROOT)
    root.handlers = [handler]
    root.propagate = False
    adjust(level, style)


def adjust(level: str, style: str) -> None:
    """Change level and path style of a log that is set up."""
    logging.getLogger(_ROOT).setLevel(LEVELS[level])
    paths.style = PathStyle(style)


def _is_journal(stream: TextIO) -> bool:
    """Return whether ``stream`` is the journal: its inode is then the one in JOURNAL_STREAM (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
