"""Packs a bundle into one file, and installs it from there: for a machine without npm, internet or TensorFlow.

The file is a plain tar with fixed metadata, so equal bundles give equal files. Nothing in it is trusted: a file with a
member that the manifest does not name, or whose digest differs, is refused. Standard library only, beside ``bundles``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from nsfwd.bundles.bundle_store import Bundle, hash_file, open_bundle, verify_file
from nsfwd.bundles.manifest import MANIFEST, WEIGHTS, Manifest, parse_manifest
from nsfwd.documents import DocumentError, decode_text
from nsfwd.errors import BundleError
from nsfwd.model_tools.bundle_builder import build_bundle
from nsfwd.model_tools.staging import installing
from nsfwd.model_tools.tarfiles import Member, read_members

_MANIFEST_BYTES = 1024 * 1024
"""Largest manifest read from a packed bundle; real ones have a few kilobytes."""

MOST_BYTES = 8 * 1024**3
"""Largest bundle that is imported: twice the weights of the largest image classifiers, with the same for OpenVINO."""

_SPARE_BYTES = 64 * 1024 * 1024
"""Free space that an import leaves on the disk."""


def pack(bundle: Bundle, file: Path) -> str:
    """Write a verified bundle into one file, in one step.

    Returns:
        Sha256 of the file, for the person who imports it.

    Raises:
        BundleError: the bundle was altered, or the file cannot be written.
    """
    manifest = bundle.manifest
    for path in manifest.files:
        verify_file(bundle, path)
    if _is_stream(file) or (file.exists() and not file.is_file()):
        raise BundleError(f"{file}: this is a device, a directory or a stream; name a file")
    place = file.resolve()  # a link stays one
    unfinished = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
            for path in (MANIFEST, *sorted(manifest.files)):
                _add(tar, bundle.directory / path, f"{manifest.name}/{path}")
        unfinished.replace(place)
    except OSError as error:
        raise BundleError(f"{file}: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return hash_file(place)


def _is_stream(file: Path) -> bool:
    """Tell whether a path is a name of an open file, such as ``-`` or ``/dev/stdout``, which must not be replaced."""
    leads = file.parent / file.readlink() if file.is_symlink() else file
    return str(file) == "-" or any(one.parent.resolve().is_relative_to("/proc") for one in (file, leads))


def _add(tar: tarfile.TarFile, source: Path, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = 0o644, source.stat().st_size  # time, owner and group stay at zero
    with source.open("rb") as opened:
        tar.addfile(entry, opened)


def import_packed(
    file: Path, models_dir: Path, *, sha256: str | None = None, finish: Callable[[Bundle], object] | None = None
) -> Bundle:
    """Install a packed bundle under the name its manifest gives, in one step after all checks, or not at all.

    Args:
        file: written by ``pack``.
        models_dir: made when it does not exist.
        sha256: the digest that ``pack`` printed, when it is known from a better source than the file.
        finish: checks or completes the unpacked bundle before it gets its name.

    Raises:
        BundleError: another digest, an unsafe or unknown member, a missing or altered file. Nothing is changed.
        BundleError, EngineError: from ``finish``. Nothing is changed.
    """
    if sha256 is not None and hash_file(file) != sha256.lower():
        raise BundleError(f"{file}: its sha256 is not {sha256}; nothing was read")
    try:
        with file.open("rb") as packed:
            members = read_members(packed)
            manifest = _read_manifest(members, file)
            unpack = partial(_unpack, members, manifest, file)
            with installing(models_dir):
                directory = build_bundle(unpack, manifest, {}, models_dir=models_dir, finish=finish, origin=file)
    except (tarfile.TarError, EOFError) as error:
        raise BundleError(f"{file}: not a packed bundle ({error})") from None
    except OSError as error:
        raise BundleError(f"{error.filename or file}: {error.strerror}") from None
    return open_bundle(directory)


def _read_manifest(members: Iterator[Member], file: Path) -> Manifest:
    """The first member, which must be ``NAME/bundle.toml`` and name itself so."""
    first = next(members, None)
    if first is None or first.size > _MANIFEST_BYTES:
        raise BundleError(f"{file}: the first member must be a bundle's {MANIFEST}")
    text = b"".join(first.chunks)
    try:
        manifest = parse_manifest(decode_text(text), f"{file}: {MANIFEST}")
    except DocumentError as error:
        raise BundleError(f"{file}: {MANIFEST} is {error}") from None
    if first.name != f"{manifest.name}/{MANIFEST}":
        raise BundleError(f"{file}: member {first.name!r} is not {manifest.name}/{MANIFEST}")
    return manifest


def _unpack(members: Iterator[Member], manifest: Manifest, file: Path, directory: Path) -> None:
    """Write the members that the manifest names, under the manifest's paths, which are known to be safe."""
    missing = {f"{manifest.name}/{path}": path for path in manifest.files}
    if WEIGHTS not in manifest.files:
        raise BundleError(f"{file}: the manifest has no digest of {WEIGHTS}")
    total = 0
    for member in members:
        path = missing.pop(member.name, None)
        if path is None:
            raise BundleError(f"{file}: member {member.name!r} is not in the manifest, or occurs twice")
        total += member.size
        _check_room(total, member.size, directory, file)
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if _copy(member.chunks, target) != manifest.files[path]:
            raise BundleError(f"{file}: {path} was altered: its digest is not the manifest's")
    if missing:
        raise BundleError(f"{file}: {', '.join(sorted(missing.values()))} is missing")


def _check_room(total: int, size: int, directory: Path, file: Path) -> None:
    if total > MOST_BYTES:
        raise BundleError(f"{file}: its files have more than {MOST_BYTES >> 30} GiB")
    if size + _SPARE_BYTES > shutil.disk_usage(directory).free:
        raise BundleError(f"{directory.parent}: too little free space for a file of {size} bytes")


def _copy(chunks: Iterator[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as opened:
        for chunk in chunks:
            digest.update(chunk)
            opened.write(chunk)
    return digest.hexdigest()
