"""``take`` moves a judged file into a store, whole; ``copy_out`` copies it. A file that has changed stays.

Steps, between any two of which the machine may stop: the manifest is on the disk before the file is touched; then the
file is renamed, or, across file systems, copied, compared, and taken away under a name of our own; then the caller
writes down what was done and files the manifest (``Store.file``). So either the original is in its place or a
manifest says where it is, and ``recovery`` goes on or back. What fails half-way is left to it as well.
Nothing is deleted but a copy of which the original is known to exist, and the original of a copy that was compared.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from nsfwd.errors import ActionFailure
from nsfwd.protocol.messages import FileIdentity
from nsfwd.scanning.actions.quarantine import Store
from nsfwd.scanning.actions.quarantine_manifest import ManifestEntry, text_of
from nsfwd.scanning.trees.file_entry import FileEntry, join
from nsfwd.scanning.trees.files import (
    HOPELESS,
    Attributes,
    Changed,
    check_writable,
    content_is,
    copy,
    digest_of,
    regular,
    rename,
    stat_regular,
    write_new,
)
from nsfwd.scanning.trees.safe_paths import Diverted, Obstructed, below, name_beside, safe_directory

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass(frozen=True, slots=True)
class Subject:
    """A file that is to be taken.

    Attributes:
        found: which, and in which state it was judged.
        digest: of the content that was judged.
        facts: fields of its entry that record the reason and the run.
        placeholder: put a picture in its place.
        home: its directory with links resolved that lie above the trees of the run; its own when left out.
        ours: its state as it is after another of its hard links was taken; None where none was.
    """

    found: FileEntry
    digest: bytes
    facts: Mapping[str, Any] = field(default_factory=dict)
    placeholder: bool = False
    home: bytes | None = None
    ours: FileIdentity | None = None


def take(store: Store, subject: Subject) -> tuple[ManifestEntry, FileIdentity]:
    """Take a file away. The caller files its manifest then.

    Returns:
        Its entry, and the inode's state now, which its other hard links share.

    Raises:
        Changed: it is no longer the file that was judged, or no longer there; what is there stays.
        OSError: this one file cannot be taken; it is where it was.
        ActionFailure: no file can; this one is where it was.
    """
    with _explained(subject), _home(subject) as source:
        return _take(store, source, subject)


def copy_out(root: Path, subject: Subject) -> bytes:
    """Copy a file, with its attributes as far as this process may, to its path below ``root``.

    Returns:
        Where the copy is. The same content at that path is taken for it; beside another file it gets its own name.

    Raises:
        Changed, OSError, ActionFailure: as ``take``. Nothing of the copy is left.
    """
    base, (parent, _, name) = os.fsencode(root.absolute()), subject.found.path.lstrip(b"/").rpartition(b"/")
    with _explained(subject), _home(subject) as source, regular(source, subject.found.name) as file:
        _compare(file, subject)
        with safe_directory(base, make=0o777) as shelf, below(shelf, parent, make=0o777) as place:
            known = _is_taken(place, name)
            if not (known and content_is(place, name, subject.digest)):
                name = name_beside(name, b"~" + secrets.token_hex(4).encode()) if known else name
                _copy_as(file, place, name, subject)
    return join(join(base, parent), name) if parent else join(base, name)


def _home(subject: Subject) -> AbstractContextManager[int]:
    """Lend the directory of a file. A link below the trees of the run is not followed: it may lead anywhere by now."""
    return safe_directory(subject.home or subject.found.directory)


def _is_taken(place: int, name: bytes) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=place, follow_symlinks=False)
        return True
    return False


def _copy_as(file: int, place: int, name: bytes, subject: Subject) -> None:
    part = b".nsfwd-%b.part" % hashlib.sha256(name).hexdigest()[:16].encode()
    with suppress(FileNotFoundError):  # of a run that was cut off
        os.unlink(part, dir_fd=place)
    copied = copy(file, place, part)
    try:
        if digest_of(copied) != subject.digest:
            raise Changed("its content is no longer what was judged")
        Attributes.of(file).apply(copied)
        rename(place, part, place, name)
    except BaseException:
        os.unlink(part, dir_fd=place)
        raise
    finally:
        os.close(copied)
    os.fsync(place)


@contextmanager
def _explained(subject: Subject) -> Iterator[None]:
    try:
        yield
    except (Diverted, Obstructed):
        raise
    except OSError as error:
        if error.errno in _GONE:
            raise Changed("it is no longer there") from error
        if error.errno in HOPELESS:
            raise ActionFailure(f"{text_of(subject.found.path)}: {error.strerror}") from error
        raise


def _take(store: Store, source: int, subject: Subject) -> tuple[ManifestEntry, FileIdentity]:
    with regular(source, subject.found.name) as file:
        _compare(file, subject)
        check_writable(source)
        entry = _entry(store, subject, Attributes.of(file), os.fstat(source))
        store.note(entry)
        try:
            entry = _move(store, source, file, entry)
        except BaseException:
            if not _lies_in(store, entry):
                store.forget(entry)
            raise
        settle(store, source, entry)
        return entry, FileIdentity.of(os.fstat(file))


def _lies_in(store: Store, entry: ManifestEntry) -> bool:
    try:
        with store.place(entry) as (place, name):
            return stat_regular(place, name) is not None
    except Obstructed:
        return False


def _compare(file: int, subject: Subject) -> None:
    judged, now = subject.found.identity, FileIdentity.of(os.fstat(file))
    if now != judged and not (now == subject.ours and now.same_content(judged)):
        raise Changed("it was changed or replaced since it was judged")


def _entry(store: Store, subject: Subject, before: Attributes, home: os.stat_result) -> ManifestEntry:
    found, digest = subject.found, subject.digest.hex()
    name = f"{digest}.{secrets.token_hex(4)}"
    target = f"files/{digest[:2]}/{name}".encode() if store.sealed else found.path.lstrip(b"/")
    if not store.sealed and os.path.lexists(b"%b/%b" % (os.fsencode(store.root), target)):
        parent, slash, last = target.rpartition(b"/")
        target = parent + slash + name_beside(last, b"~" + name[-8:].encode())
    return ManifestEntry(
        name=name,
        kind=store.kind,
        time=time.time(),
        path=found.path,
        path_text=text_of(found.path),
        target=target,
        target_text=text_of(target),
        digest=digest,
        dev=found.dev,
        ino=found.ino,
        size=found.size,
        mtime_ns=found.mtime_ns,
        ctime_ns=found.ctime_ns,
        atime_ns=before.atime_ns,
        mode=before.mode,
        uid=before.uid,
        gid=before.gid,
        links=before.links,
        extended=dict(before.extended),
        place=(home.st_dev, home.st_ino),
        placeholder=subject.placeholder,
        **subject.facts,
    )


def _move(store: Store, source: int, file: int, entry: ManifestEntry) -> ManifestEntry:
    with store.place(entry) as (place, name):
        try:
            rename(source, entry.basename, place, name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            _verify(source, entry, place, name)
            os.fsync(place)
            os.fsync(source)
            return entry
        entry = msgspec.structs.replace(entry, how="copy")
        store.note(entry)
        _bring(source, file, entry, place, name)
        try:
            _leave(source, entry)
        except BaseException as error:
            # Only while the original is known not to have been unlinked; else the copy is all there is.
            if isinstance(error, Changed) or is_the_one(entry, stat_regular(source, entry.basename)):
                os.unlink(name, dir_fd=place)
            raise
        return entry


def _verify(source: int, entry: ManifestEntry, place: int, name: bytes) -> None:
    """Send a file back that took the name between the comparison and the rename, or was written to."""
    if not is_the_one(entry, stat_regular(place, name)):
        rename(place, name, source, entry.basename)
        raise Changed("it was replaced while it was taken")


def is_the_one(entry: ManifestEntry, found: os.stat_result | None) -> bool:
    """Return whether this is the inode of an entry with its content; each rename changes its ctime."""
    judged = FileIdentity(entry.dev, entry.ino, entry.size, entry.mtime_ns, entry.ctime_ns)
    return found is not None and judged.same_content(FileIdentity.of(found))


def _bring(source: int, file: int, entry: ManifestEntry, place: int, name: bytes) -> None:
    """Copy it beside the final name, compare, give the copy its attributes, and only then that name."""
    part = entry.passing
    copied = copy(file, place, part)
    try:
        if digest_of(copied).hex() != entry.digest or not _unchanged(file, entry):
            raise Changed("its content is no longer what was judged")
        attributes_of(entry).apply(copied, mode=entry.mode & 0o600 if entry.kind == "quarantine" else None)
        os.fsync(copied)
        rename(place, part, place, name)
        os.fsync(place)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=place)
        raise
    finally:
        os.close(copied)


def _unchanged(file: int, entry: ManifestEntry) -> bool:
    return is_the_one(entry, os.fstat(file))


def _leave(source: int, entry: ManifestEntry) -> None:
    """Take the original away under a name of our own, so that what is unlinked is what was compared."""
    rename(source, entry.basename, source, entry.passing)
    if not is_the_one(entry, stat_regular(source, entry.passing)):
        rename(source, entry.passing, source, entry.basename)
        raise Changed("it was replaced while it was taken")
    os.unlink(entry.passing, dir_fd=source)
    os.fsync(source)


def attributes_of(entry: ManifestEntry) -> Attributes:
    """Return the attributes of the file of an entry."""
    return Attributes(entry.mode, entry.uid, entry.gid, entry.atime_ns, entry.mtime_ns, entry.links, entry.extended)


def settle(store: Store, source: int | None, entry: ManifestEntry) -> None:
    """Finish a file that is in the store: seal it, put the placeholder. May be done twice.

    Args:
        source: the directory where it was; None where that is gone.
    """
    with store.place(entry) as (place, name):
        if store.sealed and entry.how == "rename" and entry.links == 1:
            with suppress(OSError), regular(place, name) as file:  # of another's file: the directory keeps all out
                os.fchmod(file, entry.mode & 0o600)
    if entry.placeholder and source is not None:
        # The file is safe already: a place that cannot be filled stays empty.
        with suppress(OSError):
            _fill(source, entry)


def _fill(source: int, entry: ManifestEntry) -> None:
    """Put the placeholder where the file was, unless something is there again."""
    write_new(source, entry.passing, PLACEHOLDER, entry.mode & 0o666)
    try:
        with regular(source, entry.passing) as file, suppress(OSError):
            os.fchown(file, entry.uid, entry.gid)
        rename(source, entry.passing, source, entry.basename)
    except OSError:
        os.unlink(entry.passing, dir_fd=source)
        raise


# -- the placeholder ---------------------------------------------------------------------------------------------------

_SIDE = 64
"""Pixels; above the daemon's smallest side, so that it is an image like any other."""

_EDGE, _FIELD = 96, 192


def _placeholder_rows() -> bytes:
    """Return rows of grey with a darker frame and diagonal, which cannot be taken for the picture that was here."""
    rows = bytearray()
    for y in range(_SIDE):
        rows.append(0)  # no filter
        for x in range(_SIDE):
            dark = min(x, y) < 2 or max(x, y) >= _SIDE - 2 or abs(x - y) < 2
            rows.append(_EDGE if dark else _FIELD)
    return bytes(rows)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _stored(data: bytes) -> bytes:
    """Return data as zlib stores it without compressing: compressors differ between versions; the digest must not."""
    block = struct.pack("<BHH", 1, len(data), len(data) ^ 0xFFFF) + data
    return b"\x78\x01" + block + struct.pack(">I", zlib.adler32(data))


PLACEHOLDER = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0))
    + _chunk(b"IDAT", _stored(_placeholder_rows()))
    + _chunk(b"IEND", b"")
)
"""The picture that may lie where a file was taken away: small, grey, the same for all, made by code.

A PNG of some 4 KiB. Browsers and viewers go by content, so it shows under a name that ends in .jpg as well.
"""

PLACEHOLDER_DIGEST = hashlib.sha256(PLACEHOLDER).digest()
"""Known, so that it is never acted on itself and can be distinguished from a file that was put there since."""
