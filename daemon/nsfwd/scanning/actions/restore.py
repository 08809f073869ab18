"""``restore`` puts a file of a store back where it was, as it was, and never over another file.

May be repeated after it was cut off at any point: the places of the files show how far it came. Knows no index and no
override; the caller writes those first, so that a watch does not take the file again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from nsfwd.errors import ActionFailure
from nsfwd.scanning.actions.move_out import PLACEHOLDER_DIGEST, attributes_of
from nsfwd.scanning.actions.quarantine import Store
from nsfwd.scanning.actions.quarantine_manifest import ManifestEntry
from nsfwd.scanning.trees.files import (
    EXCHANGE,
    NOREPLACE,
    UNSUPPORTED,
    Changed,
    check_writable,
    content_is,
    copy,
    digest_of,
    regular,
    rename,
)


def restore(store: Store, entry: ManifestEntry) -> tuple[str, ...]:
    """Put one file back, with the owner that it has in the store, its mode, times and extended attributes.

    Returns:
        What of these could not be put back (owner, or names of attributes).

    Raises:
        ActionFailure: another file is in its place, its directory is gone, what lies in the store is not what was
            taken, or a disk is full. The file is still in the store.
    """
    with _explained(entry), store.home(entry) as home, store.place(entry) as (place, name):
        check_writable(home)
        if content_is(home, entry.basename, bytes.fromhex(entry.digest)):
            lost = _tidy(home, entry, place, name)
        else:
            lost = _bring_back(home, entry, place, name)
        if _is_placeholder(home, _aside(entry)):
            os.unlink(_aside(entry), dir_fd=home)
        os.fsync(home)
        store.drop(entry)
    return lost


def rehearse(store: Store, entry: ManifestEntry) -> None:
    """Check whether a file could be put back, and touch nothing.

    Raises:
        ActionFailure: as ``restore``, as far as can be known beforehand: not a disk that fills up.
    """
    with _explained(entry), store.home(entry) as home, store.place(entry) as (place, name):
        check_writable(home)
        if not content_is(home, entry.basename, bytes.fromhex(entry.digest)):
            _check_place(home, entry)
            with _taken(place, name, entry):
                pass


@contextmanager
def _explained(entry: ManifestEntry) -> Iterator[None]:
    try:
        yield
    except Changed as error:
        raise ActionFailure(f"{entry.path_text}: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise ActionFailure(f"{entry.path_text}: its directory is gone; make it again, then restore") from error
        raise ActionFailure(f"{entry.path_text}: {error.strerror or error}") from error


def _bring_back(home: int, entry: ManifestEntry, place: int, name: bytes) -> tuple[str, ...]:
    filled = _check_place(home, entry)
    with _taken(place, name, entry) as file:
        lost = _dress(file, entry, os.fstat(file))
        try:
            _put(place, name, home, entry, filled=filled)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            return lost
        with suppress(FileNotFoundError):  # of an attempt that was cut off; the file is still in the store
            os.unlink(entry.passing, dir_fd=home)
        copied, lies = copy(file, home, entry.passing), os.fstat(file)
    try:
        if digest_of(copied).hex() != entry.digest:
            raise Changed("the copy differs from the file in the store")
        lost = _dress(copied, entry, lies)
        os.fsync(copied)
    finally:
        os.close(copied)
    _put(home, entry.passing, home, entry, filled=filled)
    os.unlink(name, dir_fd=place)
    os.fsync(place)
    return lost


def _dress(file: int, entry: ManifestEntry, lies: os.stat_result) -> tuple[str, ...]:
    """Set a file's attributes; its owner is the owner of the file in the store, even where the manifest differs."""
    owned = replace(attributes_of(entry), uid=lies.st_uid, gid=lies.st_gid)
    other = (lies.st_uid, lies.st_gid) != (entry.uid, entry.gid)
    return tuple(dict.fromkeys([*owned.apply(file), *(["owner"] if other else [])]))


@contextmanager
def _taken(place: int, name: bytes, entry: ManifestEntry) -> Iterator[int]:
    """Lend the file in the store.

    Raises:
        Changed: it is not what was taken.
    """
    with regular(place, name) as file:
        if digest_of(file).hex() != entry.digest:
            raise Changed("the content in the store is not the one that was moved")
        yield file


def _check_place(home: int, entry: ManifestEntry) -> bool:
    """Return whether the placeholder is in the file's place, rather than nothing.

    Raises:
        Changed: something else is.
    """
    try:
        os.stat(entry.basename, dir_fd=home, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if _is_placeholder(home, entry.basename):
        return True
    raise Changed("another file is in its place; move that away, then restore")


def _is_placeholder(home: int, name: bytes) -> bool:
    return content_is(home, name, PLACEHOLDER_DIGEST)


def _put(source: int, name: bytes, home: int, entry: ManifestEntry, *, filled: bool) -> None:
    """Rename into place: into an empty one, or changing places with the placeholder, which goes then."""
    if not filled:
        rename(source, name, home, entry.basename, NOREPLACE)
        return
    try:
        rename(source, name, home, entry.basename, EXCHANGE)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _put_by_steps(source, name, home, entry)
        return
    if not _is_placeholder(source, name):
        rename(source, name, home, entry.basename, EXCHANGE)
        raise Changed(_OVERTAKEN)
    os.unlink(name, dir_fd=source)


def _put_by_steps(source: int, name: bytes, home: int, entry: ManifestEntry) -> None:
    """Put the placeholder aside, the file in its place, and drop the placeholder: where no two names change places."""
    rename(home, entry.basename, home, _aside(entry))
    try:
        if not _is_placeholder(home, _aside(entry)):
            raise Changed(_OVERTAKEN)
        rename(source, name, home, entry.basename)
    except BaseException:
        rename(home, _aside(entry), home, entry.basename)
        raise
    os.unlink(_aside(entry), dir_fd=home)


def _aside(entry: ManifestEntry) -> bytes:
    """A hidden name that the placeholder has for a moment."""
    return entry.passing + b".old"


_OVERTAKEN = "another file came into its place; move that away, then restore"


def _tidy(home: int, entry: ManifestEntry, place: int, name: bytes) -> tuple[str, ...]:
    """Delete leftovers where the same content is in its place: of an attempt that was cut off, or put there again."""
    for where, leftover in ((home, entry.passing), (place, name)):
        if _is_placeholder(where, leftover) or content_is(where, leftover, bytes.fromhex(entry.digest)):
            os.unlink(leftover, dir_fd=where)
    return ()
