"""Replaces a version of a bundle in one step, keeps the previous one, and rolls back to it.

Knows files only: neither the source of a bundle nor a framework.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from nsfwd.bundles.bundle_store import Bundle, open_bundle, verify_file
from nsfwd.bundles.previous_versions import kept_versions, next_kept_place, version_names
from nsfwd.errors import BundleError

KEPT = 2
"""Previous versions that are kept of each bundle: two, in case the last one is bad as well."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def put_in_place(directory: Path, final: Path) -> None:
    """Give a new version the name ``final``; the one that has it becomes a previous version, unless it is the same.

    At every moment there is a whole version under the name.
    """
    if not (final.exists() or final.is_symlink()):
        directory.rename(final)
        return
    if _version(final) in (None, _version(directory)):
        exchange(directory, final)
        discard(directory)
        return
    place = next_kept_place(final)
    directory.rename(place)
    exchange(place, final)
    for path in kept_versions(final)[KEPT:]:
        discard(path)


def roll_back(directory: Path, version: str = "") -> Bundle:
    """Put a previous version of the bundle in ``directory`` back in its place; a second roll-back undoes it.

    Only inside ``installing``.

    Args:
        version: its version, or the first digits of the digest of its model or its policy. When empty, the one that
            was replaced last; one that is no longer whole is skipped.

    Returns:
        The bundle that is there now.

    Raises:
        BundleError: none is kept, or it is not whole; nothing was changed.
    """
    place = _chosen(directory, version)
    try:
        aside = next_kept_place(directory)
        if directory.exists() or directory.is_symlink():
            exchange(place, directory)
            place.rename(aside)
        else:
            place.rename(directory)
    except OSError as error:
        raise BundleError(f"{error.filename or directory}: {error.strerror}") from None
    return open_bundle(directory)


def _chosen(directory: Path, version: str) -> Path:
    kept = kept_versions(directory)
    if not kept:
        raise BundleError(f"no previous version of {directory.name} is kept in {directory.parent}")
    refusals = []
    for place in _called(kept, version):
        try:
            bundle = open_bundle(place)
            for path in bundle.manifest.files:
                verify_file(bundle, path)
        except BundleError as error:
            refusals.append(error)
        else:
            return place
    if refusals:
        raise refusals[0]
    raise BundleError(f"no previous version of {directory.name} in {directory.parent} is {version}")


def _called(kept: list[Path], version: str) -> list[Path]:
    """Return those that have this name; a whole version comes before the first digits of a digest."""
    if not version:
        return kept
    names = {}
    for place in kept:
        with suppress(BundleError):
            names[place] = version_names(open_bundle(place))
    exactly = [place for place, (number, *_) in names.items() if number == version]
    return exactly or [
        place for place, found in names.items() if any(digest.startswith(version) for digest in found[1:])
    ]


def _version(directory: Path) -> tuple[str, str, str] | None:
    """Return what distinguishes two versions; None for an incomplete bundle, which is not worth keeping."""
    try:
        bundle = open_bundle(directory)
    except BundleError:
        return None
    return bundle.manifest.version, bundle.model_identity, bundle.policy_identity


def exchange(one: Path, other: Path) -> None:
    """Exchange two names: in one step where the file system can, else by renames.

    Raises:
        OSError: it is impossible; both are unchanged.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(other))
    _exchange_by_renames(one, other)


def _exchange_by_renames(one: Path, other: Path) -> None:
    aside = one.with_name(f"{one.name}.aside")
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)


def discard(path: Path) -> None:
    """Remove a directory, or a link to one."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
