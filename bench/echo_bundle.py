"""A bundle with no network in it, for the echo engine: the rest is the cost of nsfwd itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

from nsfwd.bundles.manifest import WEIGHTS, Licence, Manifest, Output, Recipe, dump_manifest
from nsfwd.bundles.policy import Policy, Tier

NAME = "echo"
_POLICY = Policy(
    name="default",
    groups={"safe": ("drawings", "neutral"), "sensitive": ("hentai", "porn", "sexy")},
    tiers=(
        Tier(name="safe"),
        Tier(name="review", group="sensitive", threshold=0.5),
        Tier(name="sensitive", group="sensitive", threshold=0.8, alarm=True),
    ),
)


def bundle(models_dir: Path, *, side: int = 32) -> Path:
    """Write it below ``models_dir``: the five labels and the policy of the real ones, pictures of ``side`` pixels."""
    directory = models_dir / NAME
    directory.mkdir(parents=True, exist_ok=True)
    weights = b"no network\n"
    (directory / WEIGHTS).write_bytes(weights)
    manifest = Manifest(
        name=NAME,
        version="1",
        short="nsfw",
        summary="Scores made of pixels, for measuring what surrounds an engine",
        licence=Licence(name="Apache-2.0"),
        recipe=Recipe(width=side, height=side),
        output=Output(labels=("drawings", "hentai", "neutral", "porn", "sexy"), activation="softmax"),
        policy=_POLICY,
        tolerance={"f32": 1e-4},
        files={WEIGHTS: hashlib.sha256(weights).hexdigest()},
    )
    (directory / "bundle.toml").write_text(dump_manifest(manifest), "utf-8")
    return models_dir
