"""Write and load ``model.keras``. The bytes written depend on the model and the library alone, not on the clock.

The one border at which Keras's exceptions become ours in the workshop. Importing this module loads no framework.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsfwd.bundles.manifest import Manifest, Recipe
from nsfwd.errors import BundleError

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


def load(path: Path, manifest: Manifest) -> keras.Model:
    """Load a model and check that its shapes are the manifest's.

    Raises:
        BundleError: Keras cannot read it, or it takes or returns something else than the manifest says.
    """
    import keras

    try:
        model = keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise BundleError(f"{path}: Keras cannot load it: {str(error).splitlines()[0][:200]}") from None
    check_shapes(model, manifest)
    return model


def check_shapes(model: keras.Model, manifest: Manifest) -> None:
    """Refuse a model whose input or output is not what the manifest says.

    Raises:
        BundleError: with both shapes.
    """
    recipe, width = manifest.recipe, len(manifest.output.labels)
    if tuple(model.input_shape) != (None, recipe.height, recipe.width, 3):
        raise BundleError(
            f"{manifest.name}: the model takes {model.input_shape}, not {recipe.width}x{recipe.height} RGB"
        )
    if tuple(model.output_shape) != (None, width):
        raise BundleError(f"{manifest.name}: the model returns {model.output_shape}, the manifest has {width} labels")


def score(model: keras.Model, pixels: Iterable[bytes], manifest: Manifest) -> list[list[float]]:
    """Score decoded pictures with a direct call of the model: the reference for every engine.

    Args:
        model: see ``load``.
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
    """The engine's part of a recipe: channel order, scale, mean and std.

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
