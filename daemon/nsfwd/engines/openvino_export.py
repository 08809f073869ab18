"""Make a bundle's OpenVINO form from its Keras model: ``python -P -m nsfwd.engines.openvino_export BUNDLE [--into D]``.

A program of its own, because it loads TensorFlow. It writes the network as it is, in full precision and for any batch
size; preprocessing and precision are applied when it is loaded, so that a changed recipe needs no new export.

Source: Keras's own ``model.export(format="openvino")`` does the same two steps, but imports SciPy for it.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import msgspec

from nsfwd.bundles.bundle_store import Bundle, hash_file, open_bundle, verify_weights
from nsfwd.engines import framework_logging, hardware, keras_loading, openvino_ir
from nsfwd.errors import BundleError, EngineError, NsfwdError

_DRAFT = ".export-"
"""What names of unfinished directories begin with."""

_MEMORY = 3 * 1024**3
"""Bytes of writable memory for the export of the smallest network. Source: 0.7 GB were seen, of 2.5 GB reserved."""

_MEMORY_OF_WEIGHTS = 10
"""The same for each byte of weights: they are held in seven forms, some of which are double."""

_THREAD_BYTES = 64 * 1024**2
"""The same for each core: stacks of the threads that both start for it."""

_LACKING = re.compile(r"-- (?:No conversion rule found for operations|Conversion is failed for): (.+)")


def export(bundle: Bundle, place: Path) -> Path:
    """Write the exported network of a bundle, at once or not at all.

    Args:
        bundle: its weights are verified first.
        place: the directory to make; one that is there is replaced.

    Returns:
        ``place``.

    Raises:
        BundleError: the weights are not the manifest's, or cannot be loaded.
        EngineError: an operator has no counterpart, or the place cannot be written to.
    """
    hardware.require_instructions()
    verify_weights(bundle)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear(place.parent)
        draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=place.parent))
    except OSError as error:
        raise EngineError(f"{place.parent} cannot be written to: {error.strerror}") from None
    try:
        _convert(bundle, draft)
        record = openvino_ir.Record(
            source=bundle.manifest.weights_digest,
            version=metadata.version("openvino"),
            files={name: hash_file(draft / name) for name in (openvino_ir.NETWORK, openvino_ir.WEIGHTS)},
        )
        (draft / openvino_ir.RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
        draft.chmod(0o755)
        _replace(draft, place)
    except OSError as error:
        raise EngineError(f"{place} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return place


def _clear(directory: Path) -> None:
    """Remove what killed exports left; one that is younger may still be at work."""
    for leftover in directory.glob(f"{_DRAFT}*"):
        if time.time() - leftover.stat().st_mtime > 2 * openvino_ir.MOST_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def limit_memory(bundle: Bundle) -> None:
    """Let this process take the memory that the export of a network of this size needs, whatever its layers ask for."""
    threads = _THREAD_BYTES * (os.cpu_count() or 1)
    most = _MEMORY + threads + _MEMORY_OF_WEIGHTS * bundle.weights.stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _convert(bundle: Bundle, draft: Path) -> None:
    """Keras file -> SavedModel -> OpenVINO."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # nothing here needs a GPU, and grabbing one could starve an engine
    framework_logging.silence()
    with framework_logging.muted():
        _convert_loaded(bundle, draft)


def _convert_loaded(bundle: Bundle, draft: Path) -> None:
    """The part of ``_convert`` that loads and runs the frameworks.

    OpenVINO reads the SavedModel from disk by its own reader. It could take a ``tf.function`` from memory as well, but
    its program for that does not run on Python 3.13: it relies on ``exec`` removing a local variable.
    """
    import openvino
    import tensorflow

    recipe = bundle.manifest.recipe
    saved = draft / "saved"
    model = keras_loading.load(bundle.weights, bundle.manifest)
    try:
        signature = [tensorflow.TensorSpec((None, recipe.height, recipe.width, 3), tensorflow.float32)]
        holder = tensorflow.Module()
        holder.tensors = [variable.value for variable in model.variables]  # what it holds is saved with it
        function = tensorflow.function(
            lambda pixels: model(pixels, training=False), input_signature=signature, autograph=False
        )
        tensorflow.saved_model.save(holder, saved, signatures=function)
        openvino.save_model(openvino.convert_model(saved), draft / openvino_ir.NETWORK, compress_to_fp16=False)
    except Exception as error:
        raise EngineError(f"{bundle.weights}: OpenVINO cannot take it over: {obstacle(error)}") from error
    finally:
        shutil.rmtree(saved, ignore_errors=True)


def obstacle(error: Exception) -> str:
    """What of OpenVINO's many words names the cause, in one line: the operators it lacks, else the last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lacking = [found[1] for line in lines if (found := _LACKING.match(line))]
    if lacking:
        return f"it has no counterpart of: {', '.join(lacking)}"
    return lines[-1] if lines else type(error).__name__


def _replace(draft: Path, place: Path) -> None:
    """Put the draft in its place. Another process may have done the same meanwhile; either result is good."""
    if place.exists():
        shutil.rmtree(place)
    try:
        draft.rename(place)
    except OSError:
        if not (place / openvino_ir.RECORD).is_file():
            raise


def main(arguments: list[str] | None = None) -> int:
    """Run the program. One line on stderr when it fails, and ``ir.BAD_BUNDLE`` or 1 as its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -P -m nsfwd.engines.openvino_export", description="Export a bundle for OpenVINO."
    )
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--into", type=Path, help="directory to make (default: openvino/ inside the bundle)")
    chosen = parser.parse_args(arguments)
    try:
        bundle = open_bundle(chosen.bundle)
        limit_memory(bundle)
        export(bundle, chosen.into or openvino_ir.beside(bundle))
    except NsfwdError as error:
        print(error, file=sys.stderr)
        return openvino_ir.BAD_BUNDLE if isinstance(error, BundleError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
