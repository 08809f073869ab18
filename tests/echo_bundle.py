"""The one bundle without a network, for the echo engine, with goldens like any other. Needs nsfwd and Pillow.

python -m tests.echo_bundle DIRECTORY [VERSION]
"""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nsfwd.bundles.manifest import GOLDENS, WEIGHTS, Golden, Licence, Manifest, Output, Recipe, dump_manifest
from nsfwd.bundles.policy import Policy, Tier
from nsfwd.engines.echo import echo_scores
from nsfwd.imaging.preprocess import decode
from nsfwd.ipc.child_messages import ImageLimits
from tests import pictures

LABELS = ("drawings", "hentai", "neutral", "porn", "sexy")

FIVE_TIERS = Policy(
    name="default",
    groups={"safe": ("drawings", "neutral"), "sensitive": ("hentai", "porn", "sexy")},
    tiers=(
        Tier(name="safe"),
        Tier(name="review", group="sensitive", threshold=0.5),
        Tier(name="sensitive", group="sensitive", threshold=0.8, alarm=True),
    ),
)
_LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20, min_side=1, max_frames=1, memory=0)


def echo_bundle(
    models_dir: Path,
    name: str = "echo",
    *,
    side: int = 64,
    version: str = "1",
    policy: Policy | None = FIVE_TIERS,
    goldens: bool = True,
    **recipe: Any,
) -> Path:
    """Write it: five labels, three tiers, two goldens with the scores that the echo engine gives them.

    Args:
        side: of its pixels.
        version: another one is another model.
        policy: None for one verdict a label.
        goldens: without them there is no self-test, so that a measurement sees its own images alone.
        recipe: what its preprocessing has besides its size.
    """
    directory = models_dir / name
    (directory / GOLDENS).mkdir(parents=True)
    rule = Recipe(**{"width": side, "height": side, "draft": 0.0, **recipe})
    weights = f"no network: only the echo engine serves this bundle, version {version}\n".encode()
    seeds = (901, 902) if goldens else ()
    drawn = {f"photo{seed}.png": pictures.encoded(pictures.photo(seed, (160, 120))) for seed in seeds}
    files = {WEIGHTS: weights, **{f"{GOLDENS}/{file}": data for file, data in drawn.items()}}
    for file, data in files.items():
        (directory / file).write_bytes(data)
    manifest = Manifest(
        name=name,
        version=version,
        short="nsfw",
        summary="Scores made of pixels, for tests",
        licence=Licence(name="Apache-2.0"),
        recipe=rule,
        output=Output(labels=LABELS, activation="softmax"),
        policy=policy,
        tolerance={"f32": 1e-4},
        goldens=tuple(Golden(file=file, scores=_scores(data, rule)) for file, data in drawn.items()),
        files={file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
    )
    (directory / "bundle.toml").write_text(dump_manifest(manifest), "utf-8")
    return directory


def _scores(encoded: bytes, rule: Recipe) -> dict[str, float]:
    data = bytes(decode(io.BytesIO(encoded), rule, _LIMITS).data)
    pixels = np.frombuffer(data, np.uint8).reshape(rule.height, rule.width, 3)
    return dict(zip(LABELS, echo_scores(pixels, len(LABELS)).tolist(), strict=True))


if __name__ == "__main__":
    place = Path(sys.argv[1])
    echo_bundle(place.parent, place.name, version=(sys.argv[2:] or ["1"])[0], policy=None)
