"""``nsfwd models``: lists, gets, checks, packs and installs bundles.

Results on standard output, progress on standard error. ``model_tools``, and with it numpy and Keras, is imported only
by the verbs that need it; ``list``, ``info``, ``pack`` and ``import`` never load a framework (``import`` starts
programs that do).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from nsfwd.bundles.bundle_store import (
    Bundle,
    CatalogueEntry,
    bundle_places,
    catalogue,
    installed,
    locate,
    open_bundle,
    read_manifest,
)
from nsfwd.bundles.manifest import Manifest, dump_manifest
from nsfwd.bundles.previous_versions import kept_versions, version_names
from nsfwd.cli.compare import compare
from nsfwd.cli.options.lazy_group import Group
from nsfwd.config import Settings, find_file, load_settings
from nsfwd.errors import BundleError

_MB = 1e6

_TUNE_ROUNDS = 25
"""Measurements of each candidate: a few seconds in all, and a median that one slow moment does not move."""


def _models_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that says where bundles are; the settings of the daemon otherwise. The verb gets ``settings``."""
    return click.option(
        "--models-dir",
        "settings",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        callback=_settings,
        help="Directory of bundles.  [default: the setting models_dir; the daemon's usual places are searched as well]",
    )(command)


def _settings(context: click.Context, parameter: click.Parameter, value: Path | None) -> Settings:
    if value is not None:
        return Settings(models_dir=str(value), given={"models_dir": "--models-dir"})
    return load_settings(find_file(None, os.environ))


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.group("models", cls=Group)
def models() -> None:
    """Manage bundles: the networks that nsfwd can serve.

    Example: nsfwd models pull nsfw-mobilenet-v2-140
    """


@models.command("list")
@_models_dir
def list_models(settings: Settings) -> None:
    """List known bundles, and which of them are installed.

    Example: nsfwd models list
    """
    rows = [("NAME", "INSTALLED", "SIZE", "LICENCE", "SUMMARY")]
    here = {name: place / name for place in reversed(bundle_places(settings)) for name in installed(place)}
    for name in sorted({*catalogue(), *here}):
        rows.append(_row(name, here.get(name)))
        rows += _former_rows(here.get(name, Path(settings.models_dir, name)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        click.echo("  ".join([*cells, row[4]]))


def _row(name: str, directory: Path | None) -> tuple[str, str, str, str, str]:
    if directory is None:
        manifest = catalogue()[name].manifest
        return (
            name,
            "no",
            f"{manifest.source.bytes / _MB:.0f} MB to download",
            manifest.licence.name,
            manifest.summary,
        )
    try:
        manifest = open_bundle(directory).manifest
    except BundleError as error:
        return (name, "broken", "-", "-", str(error))
    return (name, "yes", f"{_size(directory, manifest) / _MB:.0f} MB", manifest.licence.name, manifest.summary)


def _former_rows(directory: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Rows for the previous versions that are kept, with the command that rolls back to each."""
    others: set[str] = set()
    for place in kept_versions(directory):
        _, here, size, licence, _ = row = _row(directory.name, place)
        if here == "broken":
            yield row
            continue
        bundle = open_bundle(place)
        names = version_names(bundle)
        its_own = next((name for name in names if name not in others), names[-1])
        command = f"nsfwd models rollback {directory.name}" + (f" --to {its_own}" if others else "")
        others.update(names)
        what = f"version {names[0]}, {bundle.model_identity}, policy {bundle.policy_identity}"
        yield (directory.name, "kept", size, licence, f"{what}; to go back: {command}")


def _size(directory: Path, manifest: Manifest) -> int:
    return sum((directory / path).stat().st_size for path in manifest.files)


@models.command("info")
@click.argument("name")
@_models_dir
def info(name: str, settings: Settings) -> None:
    """Print the manifest of one bundle, as TOML: the installed one, else the catalogue's.

    Example: nsfwd models info nsfw-inception-v3
    """
    known: CatalogueEntry | None = catalogue().get(name)
    try:
        directory = locate(settings, name)
    except BundleError as error:
        if known is None:
            raise
        click.echo(f"# {error}\n{known.text}", nl=False)
        return
    bundle = open_bundle(directory)
    click.echo(f"# directory: {directory}\n# model: {bundle.model_identity}\n# policy: {bundle.policy_identity}")
    for _, here, _, _, what in _former_rows(directory):
        click.echo(f"# {here}: {what}")
    click.echo(dump_manifest(read_manifest(directory)), nl=False)


@models.command("pull")
@click.argument("name")
@click.option(
    "--from",
    "package_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of the package, instead of a download; the pinned digest is the same.",
)
@_models_dir
def pull(name: str, package_file: Path | None, settings: Settings) -> None:
    """Install a bundle of the catalogue: download with npm, verify, rebuild as a Keras model, test, put in place.

    Example: nsfwd models pull nsfw-mobilenet-v2-140 --from nsfwjs-4.4.0.tgz
    """
    from nsfwd.model_tools.pull import pull as pull_bundle

    pull_bundle(name, Path(settings.models_dir), package_file=package_file, say=_say)


@models.command("pack")
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Output file.  [default: NAME.bundle]"
)
@_models_dir
def pack(name: str, output: Path | None, settings: Settings) -> None:
    """Write a bundle into one file, for a machine without npm, network or TensorFlow; print its sha256.

    Example: nsfwd models pack nsfw-mobilenet-v2-140 -o nsfw.bundle
    """
    from nsfwd.model_tools.pack import pack as pack_bundle

    bundle = open_bundle(locate(settings, name))
    file = output or Path(f"{bundle.manifest.name}.bundle")
    click.echo(f"{pack_bundle(bundle, file)}  {file}")


@models.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--sha256", help="Digest printed by pack; any other file is refused.")
@_models_dir
def import_file(file: Path, sha256: str | None, settings: Settings) -> None:
    """Install a packed bundle: check every path and digest, score its golden pictures, then put it in place.

    Example: nsfwd models import nsfw.bundle
    """
    from nsfwd.model_tools.bundle_builder import derive_and_test
    from nsfwd.model_tools.pack import import_packed

    bundle = import_packed(
        file, Path(settings.models_dir), sha256=sha256, finish=lambda bundle: derive_and_test(bundle, _say)
    )
    _say(f"installed {bundle.model_identity} in {bundle.directory}")


@models.command("rollback")
@click.argument("name")
@click.option("--to", "version", default="", help="Version to restore, or the first digits of its digest.")
@_models_dir
def rollback(name: str, version: str, settings: Settings) -> None:
    """Put the previous version of a bundle back in its place. A second rollback undoes the first.

    pull and import keep the versions they replace, two of each bundle; models list shows them.

    Example: nsfwd models rollback nsfw-mobilenet-v2-140
    """
    from nsfwd.model_tools.staging import installing
    from nsfwd.model_tools.versions import roll_back

    directory = Path(name) if "/" in name else Path(settings.models_dir, name)
    with installing(directory.parent):
        bundle = roll_back(directory, version)
    what = f"{bundle.model_identity}, version {bundle.manifest.version}, policy {bundle.policy_identity}"
    _say(f"{what} is in {bundle.directory} again")
    _say("a running daemon serves it after: nsfwd reload")


@models.command("export")
@click.argument("name")
@_models_dir
def export(name: str, settings: Settings) -> None:
    """Export a bundle's network for OpenVINO beside its model, where it is missing, so that the first start is quick.

    pull and import do this by themselves; the command is for bundles that were made or copied by hand.

    Example: nsfwd models export nsfw-mobilenet-v2-140
    """
    from nsfwd.model_tools.derived_networks import add_network

    bundle = add_network(open_bundle(locate(settings, name)), _say)
    _say(f"{bundle.model_identity}: {bundle.directory} is complete")


@models.command("quantize")
@click.argument("name")
@click.option(
    "--calibrate",
    "pictures",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Directory of pictures like those that will be scored.",
)
@click.option(
    "--images",
    type=click.IntRange(10, 3_000),
    default=300,
    show_default=True,
    help="Pictures to calibrate with.",
)
@_models_dir
def quantize(name: str, pictures: Path, images: int, settings: Settings) -> None:
    """Make a bundle's network of 8 bits, and print its error against full precision. Serve it with --precision int8.

    Needs the extra quantize (NNCF). Every second picture at most calibrates, all are compared (up to 1,000).

    Example: nsfwd models quantize nsfw-mobilenet-v2-140 --calibrate ~/photos
    """
    from nsfwd.model_tools.derived_networks import add_network
    from nsfwd.model_tools.quantize import quantize as quantize_bundle

    bundle = add_network(open_bundle(locate(settings, name), precision="f32"), _say)
    report = quantize_bundle(bundle, pictures, images=images, say=_say)
    made = report.bundle.manifest
    for file, drift in report.goldens.items():
        click.echo(f"{file:<16} drift {drift:.6f}  allowed {made.tolerance_for('int8')}")
    click.echo(f"{report.compared} pictures: mean change {report.mean_change:.6f}, largest {report.largest:.6f}")
    click.echo(f"scored again within {made.drift_for('int8')} of a threshold: {report.near:.1%} of them")
    click.echo(f"{report.bundle.model_identity}  ok")


@models.command("verify")
@click.argument("name")
@click.option("--tune", is_flag=True, help="Measure the best streams and threads for this processor, and keep them.")
@click.option("--precision", help="Precision to tune.  [default: the bundle's]")
@_models_dir
def verify(name: str, *, tune: bool, precision: str | None, settings: Settings) -> None:
    """Hash a bundle's files, load its model, score its golden pictures, and print their errors.

    Example: nsfwd models verify nsfw-mobilenet-v2-140
    """
    from nsfwd.model_tools.goldens import require
    from nsfwd.model_tools.verify import verify as verify_bundle
    from nsfwd.model_tools.verify import verify_networks

    bundle = open_bundle(locate(settings, name), precision=precision)
    for how, drifts in (("keras f32", verify_bundle(bundle, _say)), *_openvino(verify_networks(bundle, _say))):
        for drift in drifts:
            click.echo(f"{how:<14} {drift.file:<16} drift {drift.largest:.6f}  allowed {drift.allowed}")
        require(bundle.manifest, drifts)
    click.echo(f"{bundle.model_identity}  ok")
    if tune:
        _tune(bundle)


def _openvino(found: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for precision, drifts in found:
        yield f"openvino {precision}", drifts


def _tune(bundle: Bundle) -> None:
    """Measure on this processor and print the result."""
    from nsfwd.model_tools.tune import tune

    cache = Path(load_settings(find_file(None, os.environ)).cache_dir)
    _say(f"{bundle.manifest.name}: measuring streams and threads at {bundle.precision}; keep the machine idle")
    found = tune(bundle, cache, rounds=_TUNE_ROUNDS)
    for what, measured, chosen in (
        ("alone", found.alone, found.chosen.alone),
        ("queue", found.crowd, found.chosen.crowd),
    ):
        for streams, seconds in measured:
            mark = "  chosen" if streams == chosen else ""
            click.echo(f"{what}  {streams.streams} streams, {streams.threads} threads: {1000 * seconds:.2f} ms{mark}")
    click.echo(f"saved in {found.file}")


models.add_command(compare)
