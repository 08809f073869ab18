"""Golden scores of a bundle: pictures through preprocessing, then Keras directly or an engine.

Standard library, Pillow (by ``imaging``) and Keras; nothing is downloaded or written.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from nsfwd.bundles.manifest import Manifest
from nsfwd.bundles.verdict import golden_drift
from nsfwd.errors import BundleError, CodedError
from nsfwd.imaging.preprocess import decode
from nsfwd.ipc.child_messages import ImageLimits
from nsfwd.model_tools import keras_file

if TYPE_CHECKING:
    import keras

    from nsfwd.bundles.bundle_store import Bundle
    from nsfwd.engines.contract import Engine

_LIMITS = ImageLimits(max_bytes=16 << 20, max_pixels=16 << 20, min_side=1, max_frames=1, memory=0)
"""Golden pictures are small; the limits only guard against a file that was put in their place."""


class Drift(NamedTuple):
    """The largest error of one golden picture's scores, and the allowed one."""

    file: str
    largest: float
    allowed: float


def scores_of(model: keras.Model, manifest: Manifest, pictures: Mapping[str, bytes]) -> dict[str, list[float]]:
    """Score encoded pictures by the bundle's recipe.

    Args:
        model: loaded.
        manifest: of its bundle.
        pictures: file name -> encoded bytes.

    Raises:
        BundleError: a picture cannot be decoded.
    """
    pixels = _pixels_of(manifest, pictures)
    return dict(zip(pictures, keras_file.score(model, pixels, manifest), strict=True))


def _pixels_of(manifest: Manifest, pictures: Mapping[str, bytes]) -> list[bytes]:
    """Decode pictures by the bundle's recipe."""
    pixels = []
    for file, encoded in pictures.items():
        try:
            pixels.append(bytes(decode(io.BytesIO(encoded), manifest.recipe, _LIMITS).data))
        except CodedError as error:
            raise BundleError(f"{manifest.name}: golden {file}: {error.message}") from None
    return pixels


def measure(model: keras.Model, manifest: Manifest, pictures: Mapping[str, bytes]) -> list[Drift]:
    """Measure the error of every golden picture at full precision. Does not judge; see ``require``.

    Raises:
        BundleError: a picture cannot be decoded, or its scores are not probabilities.
    """
    return _drifts(manifest, "f32", scores_of(model, manifest, pictures))


def measure_engine(engine: Engine, bundle: Bundle) -> list[Drift]:
    """Measure the same through an engine, at the precision the bundle is opened with.

    Raises:
        BundleError: a picture cannot be decoded, or its scores are not probabilities.
        EngineError: the device failed.
    """
    import numpy as np

    manifest = bundle.manifest
    pictures = {golden.file: path.read_bytes() for golden, path in bundle.golden_files()}
    shape = (manifest.recipe.height, manifest.recipe.width, 3)
    images = [np.frombuffer(bytearray(one), np.uint8).reshape(shape) for one in _pixels_of(manifest, pictures)]
    scores = dict(zip(pictures, engine.score(images).tolist(), strict=True))
    return _drifts(manifest, bundle.precision, scores)


def _drifts(manifest: Manifest, precision: str, scores: Mapping[str, list[float]]) -> list[Drift]:
    allowed = manifest.tolerance_for(precision)
    drifts = []
    for file, row in scores.items():
        try:
            drifts.append(Drift(file, golden_drift(manifest, file, row), allowed))
        except CodedError as error:
            raise BundleError(f"{manifest.name}: golden {file}: {error.message}") from None
    return drifts


def require(manifest: Manifest, drifts: list[Drift]) -> None:
    """Refuse scores with a larger error than the bundle allows.

    Raises:
        BundleError: names the picture that is furthest off.
    """
    worst = max(drifts, key=lambda one: one.largest, default=None)
    if worst is not None and worst.largest > worst.allowed:
        raise BundleError(
            f"{manifest.name}: golden {worst.file} is off by {worst.largest:.4f}, allowed is {worst.allowed}; "
            "the network or its preprocessing is not what the manifest says"
        )
