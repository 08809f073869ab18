"""Tiny bundles made by code: right in every digest, but with no network in them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from nsfwd.bundles.bundle_store import Bundle, open_bundle
from nsfwd.bundles.manifest import GOLDENS, MANIFEST, WEIGHTS, Golden, Licence, Manifest, Output, Recipe, dump_manifest
from tests.echo_bundle import FIVE_TIERS, LABELS


def manifest(**changes: Any) -> Manifest:
    """A manifest in the image of the real ones."""
    plain = Manifest(
        name="tiny",
        version="1",
        short="nsfw",
        summary="a bundle without a network",
        licence=Licence(name="MIT"),
        recipe=Recipe(width=8, height=8),
        output=Output(labels=LABELS, activation="softmax"),
        policy=FIVE_TIERS,
        tolerance={"f32": 0.005},
        goldens=(Golden(file="one.png", scores=dict.fromkeys(LABELS, 0.2)),),
    )
    return msgspec.structs.replace(plain, **changes)


def make_bundle(models_dir: Path, **changes: Any) -> Bundle:
    """Write a bundle below ``models_dir`` and open it."""
    made = manifest(**changes)
    directory = models_dir / made.name
    contents = {WEIGHTS: b"no weights", **{f"{GOLDENS}/{golden.file}": b"no picture" for golden in made.goldens}}
    for path, data in contents.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    files = {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    (directory / MANIFEST).write_text(dump_manifest(msgspec.structs.replace(made, files=files)))
    return open_bundle(directory)
