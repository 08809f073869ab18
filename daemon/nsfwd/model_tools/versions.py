"""Put one version of a bundle in the place of another in one step, keep the former one, and go back to it.

Knows files only: not where a bundle comes from, and no framework.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from nsfwd.bundles.bundle_store import Bundle, open_bundle, verify_file
from nsfwd.bundles.previous_versions import formers, next_place, words
from nsfwd.errors import BundleError

KEPT = 2
"""Former versions that are kept of each bundle: the last one, and the one before should the last one be bad as well."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def put_in_place(directory: Path, final: Path) -> None:
    """Give a new version the name ``final``; the one that has it becomes a former version, unless it is the same.

    At every moment there is a whole version under the name.
    """
    if not (final.exists() or final.is_symlink()):
        directory.rename(final)
        return
    if _version(final) in (None, _version(directory)):
        exchange(directory, final)
        discard(directory)
        return
    place = next_place(final)
    directory.rename(place)
    exchange(place, final)
    for path in formers(final)[KEPT:]:
        discard(path)


def go_back(directory: Path, version: str = "") -> Bundle:
    """Let a former version of the bundle in ``directory`` take its place again; going back once more undoes it.

    Only inside ``installing``.

    Args:
        version: which one: its version, or the first digits of the digest of its model or its policy. When empty, the
            one put aside last; one that is no longer whole is passed over.

    Returns:
        The bundle that is there now.

    Raises:
        BundleError: none is kept, or it is not whole; nothing was changed.
    """
    place = _chosen(directory, version)
    try:
        aside = next_place(directory)
        if directory.exists() or directory.is_symlink():
            exchange(place, directory)
            place.rename(aside)
        else:
            place.rename(directory)
    except OSError as error:
        raise BundleError(f"{error.filename or directory}: {error.strerror}") from None
    return open_bundle(directory)


def _chosen(directory: Path, version: str) -> Path:
    kept = formers(directory)
    if not kept:
        raise BundleError(f"no former version of {directory.name} is kept in {directory.parent}")
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
    raise BundleError(f"no former version of {directory.name} in {directory.parent} is {version}")


def _called(kept: list[Path], version: str) -> list[Path]:
    """Those that are called so; a whole version is meant rather than the first digits of a digest."""
    if not version:
        return kept
    names = {}
    for place in kept:
        with suppress(BundleError):
            names[place] = words(open_bundle(place))
    exactly = [place for place, (number, *_) in names.items() if number == version]
    return exactly or [
        place for place, found in names.items() if any(digest.startswith(version) for digest in found[1:])
    ]


def _version(directory: Path) -> tuple[str, str, str] | None:
    """What tells two versions from each other; None for what is no whole bundle, which nobody wants back."""
    try:
        bundle = open_bundle(directory)
    except BundleError:
        return None
    return bundle.manifest.version, bundle.model_identity, bundle.policy_identity


def exchange(one: Path, other: Path) -> None:
    """Swap what two names stand for: in one step where the file system can, else by renames.

    Raises:
        OSError: it cannot be done; both are as they were.
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
