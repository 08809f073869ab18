"""Make a bundle: its model, goldens, digests and derived networks, tested before it gets its name.

Pull, import and every other source of weights end here. Knows no source and no framework: the networks are exported
and scored by programs of their own, which a network that is damaged or hostile may take down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from nsfwd.bundles.bundle_store import Bundle, open_bundle
from nsfwd.bundles.manifest import GOLDENS, Manifest
from nsfwd.engines import openvino_ir
from nsfwd.errors import BundleError, EngineError
from nsfwd.model_tools.derived_networks import add_network
from nsfwd.model_tools.staging import flush, staged, write_manifest
from nsfwd.model_tools.verify import verify_elsewhere

WriteModel = Callable[[Path], object]
"""Writes ``model.keras`` into a directory, and the networks derived from it that its source brings."""

Say = Callable[[str], None]
"""Takes one line of progress."""


def build_bundle(
    model: WriteModel,
    manifest: Manifest,
    goldens: Mapping[str, bytes],
    *,
    models_dir: Path,
    finish: Callable[[Bundle], object] | None,
    notices: Mapping[str, bytes] | None = None,
    origin: Path | None = None,
) -> Path:
    """Put a bundle into a directory of bundles in one step, or leave nothing behind. Only inside ``installing``.

    Args:
        model: writes the weights.
        manifest: of the bundle; its digests are made here.
        goldens: file name -> the golden picture, where ``model`` does not write them.
        models_dir: where the bundle gets the name of its manifest.
        finish: completes and tests the bundle before it gets its name (``derive_and_test``).
        notices: file name -> a text that travels with the weights.
        origin: what messages name instead of the unfinished directory; the finished one when None.

    Returns:
        The directory of the bundle.

    Raises:
        BundleError: the bundle is wrong, or the directory cannot be written. Nothing was changed.
        EngineError: its network cannot be run here. Nothing was changed.
    """
    final = models_dir / manifest.name
    with staged(models_dir, manifest.name) as directory:
        try:
            model(directory)
            for folder, files in ((GOLDENS, goldens), (".", notices or {})):
                for name, data in files.items():
                    (directory / folder).mkdir(exist_ok=True)
                    (directory / folder / name).write_bytes(data)
            write_manifest(directory, manifest)
            bundle = open_bundle(directory)
            if (openvino_ir.beside(bundle) / openvino_ir.RECORD).exists():
                openvino_ir.check(bundle, openvino_ir.beside(bundle))
            if finish is not None:
                finish(bundle)
            flush(directory)
        except (BundleError, EngineError) as error:  # nobody knows that directory
            raise type(error)(str(error).replace(str(directory), str(origin or final))) from None
    return final


def derive_and_test(bundle: Bundle, say: Say) -> None:
    """Export the network for OpenVINO where it is missing, then score the golden pictures with what will serve.

    Raises:
        BundleError: the weights cannot be loaded, or their scores are not those of the manifest.
        EngineError: the network cannot be run here.
    """
    try:
        bundle = add_network(bundle, say)
    except EngineError as error:  # Keras may serve it
        say(f"{bundle.manifest.name}: no network for OpenVINO: {error}")
    verify_elsewhere(bundle, say)
