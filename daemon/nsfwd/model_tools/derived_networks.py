"""Networks derived from a bundle's Keras file: they lie beside it, and the manifest has their digests.

A server finds them ready, and a packed bundle carries them to a machine without TensorFlow. No framework is loaded
here: the export is a program of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from nsfwd.bundles.bundle_store import Bundle, hash_file, open_bundle
from nsfwd.bundles.manifest import MANIFEST, NETWORK_FOLDER, Manifest, dump_manifest
from nsfwd.engines import hardware, openvino_ir
from nsfwd.errors import BundleError
from nsfwd.model_tools.staging import flush


def has_network(bundle: Bundle) -> bool:
    """Tell whether the bundle brings its network as OpenVINO reads it."""
    return f"{NETWORK_FOLDER}/{openvino_ir.NETWORK}" in bundle.manifest.files


def add_network(bundle: Bundle, say: Callable[[str], None]) -> Bundle:
    """Export the network beside the model where it is missing; where that is impossible, say why and what to do.

    Args:
        bundle: opened; its directory must be writable.
        say: takes lines of progress.

    Raises:
        BundleError: the weights are not the manifest's, or the directory cannot be written.
        EngineError: the network cannot be exported; the message names the cause.
    """
    if has_network(bundle):
        return bundle
    if not (hardware.installed("openvino") and hardware.installed("tensorflow")):
        say(
            f"{bundle.manifest.name}: no network for OpenVINO in it, and none can be made here without TensorFlow; "
            "pack the bundle on a machine that has it, after: nsfwd models export"
        )
        return bundle
    say(f"{bundle.manifest.name}: exporting the network for OpenVINO")
    openvino_ir.export_elsewhere(bundle, openvino_ir.beside(bundle))
    add_to_manifest(bundle.directory, bundle.manifest, NETWORK_FOLDER)
    return open_bundle(bundle.directory, short=bundle.name)


def add_to_manifest(directory: Path, manifest: Manifest, folder: str) -> None:
    """Add a folder's files to the manifest of a bundle that is in use; the manifest changes in one step.

    Raises:
        BundleError: the directory cannot be written.
    """
    others = {path: digest for path, digest in manifest.files.items() if not path.startswith(f"{folder}/")}
    added = {f"{folder}/{path.name}": hash_file(path) for path in sorted((directory / folder).iterdir())}
    text = dump_manifest(msgspec.structs.replace(manifest, files=dict(sorted({**others, **added}.items()))))
    draft = directory / f".{MANIFEST}.{os.getpid()}"
    try:
        flush(directory / folder)
        draft.write_text(text, "utf-8")
        draft.replace(directory / MANIFEST)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise BundleError(f"{directory}: {error.strerror}") from None
