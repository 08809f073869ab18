"""The manifest of a file that was taken away: all that is needed to put it back, by ``nsfwd restore`` or by hand.

JSON, one file each, written and on the disk before the file itself is touched. Bytes (paths, extended attributes) are
base64; what ends in ``_text`` is the same for people. Knows no file system.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from nsfwd.documents import DocumentError, decode_json
from nsfwd.errors import ActionFailure
from nsfwd.escaping import escape

How = Literal["rename", "copy"]

_NAME = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{8}")


class ManifestEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """One file in a store.

    Attributes:
        name: of the entry: digest and a number of its own; a store has it once.
        kind: ``quarantine`` or ``move``.
        path: where the file was. ``target``: where it lies now, below the store.
        how: ``rename`` kept the inode; ``copy`` (from another file system) made a new one with the same content.
        digest: SHA-256 of the content, hexadecimal.
        dev, ino, size, mtime_ns, ctime_ns, atime_ns, mode, uid, gid, links, extended: the file as it was.
        place: device and inode of the directory it was in.
        placeholder: a picture was to be put in its place.
        run, index: the run that took it, and the index that has the run. The rest: why.
    """

    version: int = 1
    name: str
    kind: str
    time: float
    path: bytes
    path_text: str
    target: bytes
    target_text: str
    how: How = "rename"
    digest: str
    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    mode: int
    uid: int
    gid: int
    links: int
    extended: dict[str, bytes] = {}
    place: tuple[int, int] | None = None
    placeholder: bool = False
    verdict: str = ""
    label: str = ""
    score: float | None = None
    models: dict[str, str] = {}
    policy: str = ""
    run: int | None = None
    index: str = ""

    @property
    def directory(self) -> bytes:
        """The directory where the file was."""
        return os.path.dirname(self.path)  # noqa: PTH120  # bytes, as the file system has them

    @property
    def basename(self) -> bytes:
        """Its name there."""
        return os.path.basename(self.path)  # noqa: PTH119

    def is_of(self, index: str | os.PathLike[str]) -> bool:
        """Return whether a run of this index took the file, whichever path the index has now."""
        return bool(self.index) and os.path.realpath(self.index) == os.path.realpath(index)

    @property
    def passing(self) -> bytes:
        """A hidden name beside the original one, which the file has for a moment on its way."""
        return b".nsfwd-%b" % self.name[-8:].encode()


def text_of(path: bytes) -> str:
    """Return a path for people."""
    return escape(path)


def dump(entry: ManifestEntry) -> bytes:
    """Return a manifest as JSON."""
    return json.dumps(msgspec.to_builtins(entry), indent=2).encode() + b"\n"  # times may need more than 64 bits


def load(content: bytes, where: str, *, kind: str) -> ManifestEntry:
    """Read a manifest of a store of this kind.

    Raises:
        ActionFailure: it is none, of a newer version, or speaks of a place where the store puts nothing.
    """
    try:
        entry = decode_json(content, ManifestEntry)
    except DocumentError as error:
        raise ActionFailure(f"{where}: no manifest: {error}") from error
    if entry.version > 1:
        raise ActionFailure(f"{where}: written by a newer nsfwd (version {entry.version}, this one knows 1)")
    if not _is_consistent(entry, kind):
        raise ActionFailure(f"{where}: its name, path or target is not one that nsfwd writes; nothing is done with it")
    return entry


def _is_consistent(entry: ManifestEntry, kind: str) -> bool:
    """Return whether an entry can be one of the store's: root follows it into directories of other users."""
    if entry.kind != kind or not _NAME.fullmatch(entry.name) or not entry.name.startswith(entry.digest + "."):
        return False
    if not entry.path.startswith(b"/") or not _is_plain(entry.path[1:]):
        return False
    if kind == "quarantine":
        return entry.target == f"files/{entry.name[:2]}/{entry.name}".encode()
    return _is_plain(entry.target) and not entry.target.startswith(b".nsfwd/")


def _is_plain(relative: bytes) -> bool:
    return b"\0" not in relative and not {b"", b".", b".."} & set(relative.split(b"/"))


def because(reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an entry that record the reason, from a reply."""
    return {
        "verdict": str(reply.get("verdict") or ""),
        "label": str(reply.get("label") or ""),
        "score": reply.get("score"),
        "models": dict(reply.get("model") or {}),
        "policy": str(reply.get("policy") or ""),
    }
