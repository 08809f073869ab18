"""Writes ``model.keras``, and scores with it directly; ``keras_loading`` reads it. Importing this loads no framework.

The bytes written depend on the model and the library alone, not on the clock.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsfwd.bundles.manifest import Manifest, Recipe

if TYPE_CHECKING:
    import keras

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest moment that a zip file can name."""

_SAVED = "1980-01-01@00:00:00"


def save(model: keras.Model, path: Path) -> None:
    """Write a model in Keras's own format, without the time of day, so that equal models have equal digests."""
    rough = path.with_name("rough.keras")
    model.save(rough)
    with zipfile.ZipFile(rough) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename == "metadata.json":
                data = json.dumps({**json.loads(data), "date_saved": _SAVED}).encode()
            elif entry.filename == "config.json":
                data = json.dumps(_renumber(json.loads(data), {})).encode()
            target.writestr(zipfile.ZipInfo(entry.filename, _EPOCH), data)
    rough.unlink()


def _renumber(value: Any, seen: dict[int, int]) -> Any:
    """Number shared objects in the order of their appearance: Keras names them by their addresses in memory."""
    if isinstance(value, list):
        return [_renumber(one, seen) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: seen.setdefault(one, len(seen)) if key == "shared_object_id" else _renumber(one, seen)
        for key, one in value.items()
    }


def score(model: keras.Model, pixels: Iterable[bytes], manifest: Manifest) -> list[list[float]]:
    """Score decoded pictures with a direct call of the model: the reference for every engine.

    Args:
        model: loaded.
        pixels: uint8 (height, width, 3), RGB, as ``imaging`` decodes by the recipe.
        manifest: for scale, mean, std and channel order.

    Returns:
        One list of scores per picture, in label order.
    """
    import numpy as np

    shape = (manifest.recipe.height, manifest.recipe.width, 3)
    batch = np.stack([np.frombuffer(one, np.uint8).reshape(shape) for one in pixels])
    values = prepare(batch, manifest.recipe)
    return [[float(one) for one in row] for row in np.asarray(model(values, training=False))]


def prepare(batch: Any, recipe: Recipe) -> Any:
    """Apply the engine's part of a recipe: channel order, scale, mean and std.

    Shape:
        batch: uint8 (n, height, width, 3), RGB.

    Returns:
        float32 of the same shape, as the network takes it.
    """
    import numpy as np

    values: Any = batch.astype(np.float32) * np.float32(recipe.scale)
    if recipe.channels == "bgr":
        values = values[..., ::-1]
    if recipe.mean:
        values = values - np.asarray(recipe.mean, np.float32)
    if recipe.std:
        values = values / np.asarray(recipe.std, np.float32)
    return values
