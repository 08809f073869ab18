"""Formats of the replies of a scan on stdout: text, JSON, NDJSON, CSV. Each writer streams.

Knows replies, but neither the daemon nor exit codes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from nsfwd.escaping import escape, visible

if TYPE_CHECKING:
    from nsfwd.client.results import Reply

COLUMNS = (
    "path",
    "status",
    "verdict",
    "alarm",
    "label",
    "score",
    "code",
    "message",
    "group",
    "group_score",
    "threshold",
)
"""``score`` belongs to ``label``; ``group_score`` is the one that was compared with ``threshold``."""


class Writer(Protocol):
    """Writes replies one by one; ``close`` ends the document."""

    def write(self, reply: Reply) -> None:
        """Write one reply."""

    def close(self) -> None:
        """End the document."""


class _Stream:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def _put(self, text: str) -> None:
        """Write and flush; names that are not UTF-8 get their bytes back."""
        self._out.write(text.encode("utf-8", "surrogateescape"))
        self._out.flush()

    def close(self) -> None:
        """Nothing to end."""


_RED, _YELLOW, _GREEN, _DIM, _PLAIN = "\x1b[1;31m", "\x1b[33m", "\x1b[32m", "\x1b[2m", "\x1b[0m"


class TextWriter(_Stream):
    """One line per image for people; a name can neither forge a line nor control the terminal.

    Args:
        colour: red for an alarm, yellow for a result to look at, green for the rest, dim for skipped.
    """

    def __init__(self, out: BinaryIO, *, colour: bool = False) -> None:
        super().__init__(out)
        self._colour = colour

    def write(self, reply: Reply) -> None:
        """Write one reply."""
        if reply.scored:
            what = judgement(reply.graded, reply.label, reply.score, alarm=reply.alarm, override=reply.override)
        else:
            what = f"{reply.status} {reply.code}: {reply.message}"
        what = visible(what)
        self._put(f"{escape(reply.path)}: {_paint(reply) + what + _PLAIN if self._colour else what}\n")


def judgement(
    graded: str, label: str, score: float | None, *, alarm: bool, override: Mapping[str, Any] | None = None
) -> str:
    """Return the result of a picture as text: ``sensitive 0.86 (porn 54.6%) ALARM``.

    Args:
        graded: the verdict and the score that decided it.
        label: the label with the highest score. ``score``: its own, where it is known.
        override: the override, if there is one.
    """
    top = f"{label} {score:.1%}" if score is not None else label
    decided = f", {_decided(override)}" if override else ""
    return f"{graded} ({top}){' ALARM' if alarm else ''}{decided}"


def _decided(override: Mapping[str, Any]) -> str:
    """Return author and reason of an override."""
    by, reason = override.get("by"), override.get("reason")
    return "override" + (f" by {by}" if by else "") + (f": {reason}" if reason else "")


def _paint(reply: Reply) -> str:
    if reply.scored:
        threshold = reply.because.get("threshold")
        reached = threshold is not None and reply.because.get("score", 0.0) >= threshold
        return _RED if reply.alarm else _YELLOW if reached else _GREEN
    return _DIM if reply.status == "skipped" else _YELLOW


class ReplyWriter:
    """Replies as rows: ``json`` and ``ndjson`` as the daemon sent them, without the id; ``csv`` as a table."""

    def __init__(self, out: BinaryIO, form: str) -> None:
        from nsfwd.row_writer import RowWriter

        self._rows = RowWriter(out, COLUMNS, form, nulls=True, live=True)
        self._row = _cells if form == "csv" else _object

    def write(self, reply: Reply) -> None:
        """Write one reply."""
        self._rows.write(self._row(reply))

    def close(self) -> None:
        """End the document."""
        self._rows.close()


def _cells(reply: Reply) -> dict[str, Any]:
    score = (reply.verdict, reply.alarm, reply.label, reply.score) if reply.scored else (None, None, None, None)
    message = _decided(reply.override) if reply.override else reply.message
    decided = (reply.because.get(key) for key in ("group", "score", "threshold"))
    return dict(zip(COLUMNS, (reply.path, reply.status, *score, reply.code, message, *decided), strict=True))


class PathWriter(_Stream):
    """The paths alone, byte for byte, for ``xargs``; each is followed by ``end``."""

    def __init__(self, out: BinaryIO, end: str) -> None:
        super().__init__(out)
        self._end = end

    def write(self, reply: Reply) -> None:
        """Write one reply."""
        self._put(reply.path + self._end)


def writer(form: str, out: BinaryIO, *, colour: bool) -> Writer:
    """Return a writer of ``text``, ``json``, ``ndjson`` or ``csv``."""
    return TextWriter(out, colour=colour) if form == "text" else ReplyWriter(out, form)


def _object(reply: Reply) -> dict[str, Any]:
    """Return a reply as the daemon sent it; a name that is not UTF-8 as base64 beside what people can read of it."""
    keys = {key: value for key, value in reply.raw.items() if key not in ("id", "done")}
    if reply.path and "path_bytes" not in keys:
        keys = {"path": reply.path} | keys
        try:
            reply.path.encode()
        except UnicodeEncodeError:
            import base64

            name = base64.b64encode(os.fsencode(reply.path)).decode()
            keys = {"path": escape(reply.path), "path_bytes": name} | {k: v for k, v in keys.items() if k != "path"}
    return keys
