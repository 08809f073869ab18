"""Previous versions of a bundle, kept beside it under hidden names. Reads only; ``model_tools.versions`` writes.

A bundle that was replaced on disk is served until a reload: an engine that opens it again names its identity.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from nsfwd.bundles.bundle_store import Bundle, open_bundle
from nsfwd.errors import BundleError

_PLACE = re.compile(r"\.former-(\d+)-(.+)", re.DOTALL)
"""Name of a directory with a previous version: the higher the number, the later it was replaced."""


def kept_versions(directory: Path) -> list[Path]:
    """Return the directories with previous versions of the bundle in ``directory``, the latest first."""
    found = []
    for path in directory.parent.glob(".former-*"):
        match = _PLACE.fullmatch(path.name)
        if match is not None and match[2] == directory.name:
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found, reverse=True)]


def next_kept_place(directory: Path) -> Path:
    """Return the place for the version in ``directory`` when it is replaced now."""
    kept = kept_versions(directory)
    last = int(kept[0].name.split("-")[1]) if kept else 0
    return directory.with_name(f".former-{last + 1}-{directory.name}")


def version_names(bundle: Bundle) -> tuple[str, str, str]:
    """Return what distinguishes a version of a bundle: its version, and the digests of its model and its policy."""
    model, policy = bundle.model_identity.partition("@")[2], bundle.policy_identity.partition("@")[2]
    return bundle.manifest.version, model.partition("/")[0], policy


def open_version(directory: Path, identity: str, *, precision: str | None = None) -> Bundle:
    """Open the bundle in ``directory`` in the version that has this identity: the present one, or a previous one.

    Args:
        identity: of the model; empty for the present version, whatever it is.
        precision: as for ``open_bundle``.

    Raises:
        BundleError: it is not there any more. The operator can fix that: a reload serves the present one.
    """
    present = open_bundle(directory, precision=precision)
    if identity in ("", present.model_identity):
        return present
    for place in kept_versions(directory):
        with suppress(BundleError):
            bundle = open_bundle(place, precision=precision)
            if bundle.model_identity == identity:
                return bundle
    raise BundleError(f"{directory}: {identity} was replaced and is not kept; a reload serves what is there now")
