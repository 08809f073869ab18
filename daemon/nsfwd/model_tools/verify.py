"""Verifies a bundle on disk: digests, the model, the networks derived from it, golden pictures. Changes nothing.

Run as a program on a directory it scores the golden pictures once, with the network that will serve: in a process of
its own, because the network may come from a stranger.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nsfwd.bundles.bundle_store import Bundle, open_bundle, verify_file
from nsfwd.engines import framework_logging, hardware, keras_loading, openvino_ir
from nsfwd.errors import BundleError, EngineError, NsfwdError
from nsfwd.model_tools.derived_networks import has_network

if TYPE_CHECKING:
    from nsfwd.model_tools.goldens import Drift


def verify(bundle: Bundle, say: Callable[[str], None]) -> list[Drift]:
    """Hash every file, load the model with Keras, and score the golden pictures at full precision.

    Args:
        bundle: opened.
        say: takes lines of progress.

    Returns:
        The drift of each golden picture; judge it with ``goldens.require``.

    Raises:
        BundleError: a file is altered, the model cannot be loaded or has other shapes, or scores are not probabilities.
    """
    for path in bundle.manifest.files:
        verify_file(bundle, path)
    say(f"{bundle.manifest.name}: {len(bundle.manifest.files)} files have their digests; loading the model")
    with framework_logging.muted():
        from nsfwd.model_tools import goldens

        model = keras_loading.load(bundle.weights, bundle.manifest)
        pictures = {golden.file: path.read_bytes() for golden, path in bundle.golden_files()}
        return goldens.measure(model, bundle.manifest, pictures)


def verify_networks(bundle: Bundle, say: Callable[[str], None]) -> Iterator[tuple[str, list[Drift]]]:
    """Score the golden pictures with the OpenVINO engine, at each precision that the bundle has and this machine runs.

    Args:
        bundle: opened; nothing is scored where it brings no network for OpenVINO.
        say: takes lines of progress: a precision that does not run here, and why.

    Yields:
        (precision, the drift of each golden picture); judge it with ``goldens.require``.

    Raises:
        BundleError: a network is not the bundle's, or scores are not probabilities.
    """
    if not (has_network(bundle) and hardware.installed("openvino")):
        say(f"{bundle.manifest.name}: no network for OpenVINO to verify")
        return
    for precision in ("f32", "bf16", "int8"):
        if precision == "int8" and bundle.manifest.quantized is None:
            continue
        opened = open_bundle(bundle.directory, precision=precision)
        try:
            drifts = _score_with_openvino(opened)
        except EngineError as error:
            say(f"{bundle.manifest.name}: {precision} not verified: {error}")
        else:
            yield precision, drifts


def _score_with_openvino(bundle: Bundle) -> list[Drift]:
    from nsfwd.engines.contract import EngineOptions
    from nsfwd.engines.openvino import OpenVinoEngine
    from nsfwd.model_tools import goldens

    engine = OpenVinoEngine(EngineOptions(bundle=bundle, device="cpu", alone=False))
    return goldens.measure_engine(engine, bundle)


def verify_elsewhere(bundle: Bundle, say: Callable[[str], None]) -> None:
    """Score the golden pictures at full precision in a process of its own.

    Args:
        bundle: opened; with OpenVINO where it has a network for it, else with Keras.
        say: takes lines of progress: why nothing can be scored here.

    Raises:
        BundleError: the weights cannot be loaded, or their scores are not those of the manifest.
        EngineError: the network cannot be run here.
    """
    if not bundle.manifest.goldens:
        say(f"{bundle.manifest.name}: no golden picture in it; its scores are not tested")
    elif has_network(bundle) or hardware.installed("tensorflow"):
        task = f"score the golden pictures of {bundle.directory}"
        openvino_ir.run_on_bundle("nsfwd.model_tools.verify", bundle, task=task)
        say(f"{bundle.manifest.name}: the golden pictures have the scores of the manifest")


def main(directory: str) -> int:
    """Run the program; one line on standard error when the bundle does not score as its manifest says."""
    from nsfwd.engines.openvino_export import limit_memory
    from nsfwd.model_tools import goldens

    try:
        bundle = open_bundle(Path(directory), precision="f32")
        limit_memory(bundle)
        if has_network(bundle):
            keras_loading.check_archive(bundle.weights)
            drifts = _score_with_openvino(bundle)
        else:
            drifts = verify(bundle, lambda line: None)
        goldens.require(bundle.manifest, drifts)
    except NsfwdError as error:
        print(error, file=sys.stderr)
        return openvino_ir.BAD_BUNDLE if isinstance(error, BundleError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
