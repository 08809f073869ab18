"""A bundle without a network, for the echo engine. Needs nsfwd alone."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from nsfwd.bundles.manifest import WEIGHTS, Licence, Manifest, Output, Recipe, dump_manifest


def write(directory: Path, version: str = "1") -> None:
    """Write the bundle into ``directory``, which is made; another version is another model."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = f"no network: only the echo engine serves this bundle, version {version}\n".encode()
    (directory / WEIGHTS).write_bytes(weights)
    manifest = Manifest(
        name=directory.name,
        version=version,
        short="nsfw",
        summary="Scores made of pixels, for tests",
        licence=Licence(name="Apache-2.0"),
        recipe=Recipe(width=64, height=64, draft=0.0),
        output=Output(labels=("drawings", "hentai", "neutral", "porn", "sexy"), activation="softmax"),
        tolerance={"f32": 1e-4},
        files={WEIGHTS: hashlib.sha256(weights).hexdigest()},
    )
    (directory / "bundle.toml").write_text(dump_manifest(manifest), "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *sys.argv[2:])
