"""Pulls a bundle of the catalogue: download, verify, rebuild, test, put in place.

The framework is imported only when there is something to rebuild: a second pull of a complete bundle is quick.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nsfwd.bundles.bundle_store import Bundle, catalogue, open_bundle, verify_file
from nsfwd.bundles.manifest import WEIGHTS, Manifest, Source
from nsfwd.engines import framework_logging
from nsfwd.errors import BundleError
from nsfwd.model_tools.bundle_builder import Say, build_bundle, derive_and_test
from nsfwd.model_tools.derived_networks import add_network
from nsfwd.model_tools.golden_images import draw
from nsfwd.model_tools.npm import check_integrity, npm_package, read_members
from nsfwd.model_tools.staging import installing

if TYPE_CHECKING:
    import keras

LICENCE_FILE = "LICENSE"


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
            raise BundleError(f"{models_dir}: not writable by this user")
        with _package(manifest.source, package_file, say) as file:
            check_integrity(file, manifest.source.integrity)
            say(f"{name}: the digest is the pinned one; rebuilding the network")
            directory = build_bundle(
                lambda directory: _write_model(manifest, file, directory / WEIGHTS),
                manifest,
                dict(draw(golden.file for golden in manifest.goldens)),
                models_dir=models_dir,
                finish=lambda bundle: derive_and_test(bundle, say),
                notices=read_members(file, [LICENCE_FILE]),
            )
    say(f"{name}: ready in {directory}")
    return open_bundle(directory)


def _present(directory: Path, manifest: Manifest) -> Bundle | None:
    """Return the bundle when all its files have their digests and its manifest is that of the catalogue."""
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


def _write_model(manifest: Manifest, package_file: Path, path: Path) -> None:
    """Rebuild the network and write its Keras file."""
    with framework_logging.muted():
        from nsfwd.model_tools import keras_file

        model = _rebuild(manifest, package_file)
        if model.count_params() != manifest.parameters:
            raise BundleError(
                f"{manifest.name}: {model.count_params()} parameters, the catalogue says {manifest.parameters}"
            )
        keras_file.save(model, path)
