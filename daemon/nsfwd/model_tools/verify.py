"""Verify a bundle on disk: digests, the model, the networks derived from it, golden pictures. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nsfwd.bundles.bundle_store import Bundle, open_bundle, verify_file
from nsfwd.engines import framework_logging, hardware, keras_loading
from nsfwd.errors import EngineError
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
        BundleError: a file is altered, the model cannot be loaded or has other shapes, or scores are no probabilities.
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
        say: takes lines of progress: what does not run here, and why.

    Yields:
        (precision, the drift of each golden picture); judge it with ``goldens.require``.

    Raises:
        BundleError: a network is not the bundle's, or scores are no probabilities.
    """
    if not (has_network(bundle) and hardware.installed("openvino")):
        say(f"{bundle.manifest.name}: no network for OpenVINO to verify")
        return
    from nsfwd.engines.contract import EngineOptions
    from nsfwd.engines.openvino import OpenVinoEngine
    from nsfwd.model_tools import goldens

    for precision in ("f32", "bf16", "int8"):
        if precision == "int8" and bundle.manifest.quantized is None:
            continue
        opened = open_bundle(bundle.directory, precision=precision)
        try:
            engine = OpenVinoEngine(EngineOptions(bundle=opened, device="cpu", alone=False))
        except EngineError as error:
            say(f"{bundle.manifest.name}: {precision} not verified: {error}")
            continue
        yield precision, goldens.measure_engine(engine, opened)
