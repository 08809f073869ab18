"""Puts a bundle under its name in one step, or not at all; one installation at a time in a directory of bundles.

Knows files only: not where a bundle comes from, and no framework.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import msgspec

from nsfwd.bundles.bundle_store import hash_file
from nsfwd.bundles.manifest import MANIFEST, Manifest, dump_manifest
from nsfwd.errors import BundleError
from nsfwd.model_tools.versions import discard, put_in_place

_STAGE = ".stage-"
"""Prefix of the names of unfinished directories, which are never taken for a bundle."""


@contextmanager
def installing(models_dir: Path) -> Iterator[None]:
    """Hold the directory of bundles for one installation, and remove the remains of a killed one.

    Raises:
        BundleError: the directory cannot be made or read.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(models_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BundleError(f"{models_dir}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for leftover in models_dir.glob(f"{_STAGE}*"):
            discard(leftover)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def staged(models_dir: Path, name: str) -> Iterator[Path]:
    """A directory to build a bundle in, which becomes ``models_dir/name`` when the block ends well, else vanishes.

    Only inside ``installing``. The version that was there before is kept (``versions``).

    Raises:
        BundleError: the directory cannot be written.
    """
    try:
        directory = Path(mkdtemp(prefix=_STAGE, dir=models_dir))
    except OSError as error:
        raise BundleError(f"{models_dir}: {error.strerror}") from None
    try:
        yield directory
        directory.chmod(0o755)
        put_in_place(directory, models_dir / name)
    except OSError as error:
        raise BundleError(f"{error.filename or models_dir}: {error.strerror}") from None
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write ``bundle.toml`` over the files that are there, as the last step. Again, when files were added."""
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    files = {str(path.relative_to(directory)): hash_file(path) for path in found if path != directory / MANIFEST}
    text = dump_manifest(msgspec.structs.replace(manifest, files=files))
    (directory / MANIFEST).write_text(text, "utf-8")
    flush(directory)


def flush(directory: Path) -> None:
    """Bring all files below ``directory`` to the disk, so that the rename that follows never outlives them."""
    for path in directory.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
