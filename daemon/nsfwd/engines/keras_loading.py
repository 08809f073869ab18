"""Opens a bundle's Keras file, or says in one line why that cannot be done.

The one border at which Keras's exceptions on loading become ours, whoever loads: the engine, the export, the workshop.
The caller has chosen the back end; no framework is imported before ``load`` is called.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from nsfwd.bundles.manifest import Manifest
from nsfwd.engines.error_classes import is_out_of_memory
from nsfwd.errors import BundleError, EngineError

MOST_ENTRIES = 1000
"""Files in a Keras file: three, and one for each asset of a layer."""

MOST_TEXT = 32 * 1024 * 1024
"""Bytes of its configuration: fifty times that of a network with a thousand layers."""

MOST_GROWTH = 4
"""How much larger it may be unpacked: Keras does not compress weights, and they hardly can be."""

LONGEST = 200
"""Characters of Keras's own words: the line is for people."""

_UNKNOWN = re.compile(r"Could not locate (?:class|function) '([^']+)'")
_OWN_LAYERS = "make the model of Keras's own layers"


def load(path: Path, manifest: Manifest) -> Any:
    """Load a model and check that it takes and returns what its manifest says.

    Args:
        path: of the Keras file; its digest was verified.
        manifest: of its bundle.

    Returns:
        The ``keras.Model``, not compiled.

    Raises:
        BundleError: the file is damaged, holds what Keras does not know or will not run, or has other shapes. The
            operator's fault, no retry helps.
        EngineError: there is too little memory.
    """
    check_archive(path)
    import keras

    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:
        if is_out_of_memory(error):
            raise EngineError(f"too little memory to load {path}; free some, or serve a smaller bundle") from error
        raise BundleError(f"{path}: Keras cannot load it: {cause(str(error) or type(error).__name__)}") from error
    check_shapes(model, path, manifest)
    return model


def check_archive(path: Path) -> None:
    """Refuse a Keras file that would become much larger when it is unpacked, before anything of it is.

    Raises:
        BundleError: so it is, or it is no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        raise BundleError(
            f"{path} is not a Keras file, or its end is missing; pull or import the bundle again"
        ) from None
    unpacked, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    texts = sum(entry.file_size for entry in entries if entry.filename.endswith(".json"))
    if len(entries) > MOST_ENTRIES or texts > MOST_TEXT or unpacked > MOST_GROWTH * packed + MOST_TEXT:
        raise BundleError(
            f"{path}: {packed} bytes that would be unpacked to {unpacked} bytes in {len(entries)} files; "
            "this is not a Keras file as nsfwd or Keras writes it"
        )


def cause(words: str) -> str:
    """What of Keras's many words names the cause, in one line."""
    if "Lambda" in words and "safe_mode" in words:
        return f"it has a Lambda layer, which is a program and is not run; {_OWN_LAYERS}"
    if unknown := _UNKNOWN.search(words):
        return f"it has a layer of a class that Keras does not know, {unknown[1]}; {_OWN_LAYERS}"
    said = words.partition("Exception encountered:")[2] or words
    return next((line.strip() for line in said.splitlines() if line.strip()), "it does not say why")[:LONGEST]


def check_shapes(model: Any, path: Path, manifest: Manifest) -> None:
    """Refuse a model that does not take one RGB picture of the recipe's size, or returns no score for each label.

    A model that takes pictures of any size is right as well.

    Raises:
        BundleError: says what it takes or returns, and what its manifest says.
    """
    recipe, labels = manifest.recipe, len(manifest.output.labels)
    for what, tensors in (("inputs", model.inputs), ("outputs", model.outputs)):
        if len(tensors) != 1:
            raise BundleError(f"{path} has {len(tensors)} {what}, not one")
    taken, returned = tuple(model.inputs[0].shape[1:]), tuple(model.outputs[0].shape[1:])
    if taken not in {(recipe.height, recipe.width, 3), (None, None, 3)}:
        wanted = (recipe.height, recipe.width, 3)
        raise BundleError(f"{path} takes pictures of {taken}, its manifest says {wanted} (height, width, channels)")
    if returned != (labels,):
        raise BundleError(f"{path} returns {returned} for a picture, its manifest has {labels} labels")
