"""Makes a bundle's network of 8 bits: calibrated on pictures, compared with full precision, put beside the model.

Weights and activations become whole numbers from -128 to 127; the range of values behind them is learnt from pictures
like those that will be scored. The error is measured on the same folder and written into the manifest: it is the limit
for goldens, and images within that distance of a threshold are scored again in full precision.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import msgspec
import numpy as np

from nsfwd.bundles.bundle_store import Bundle, hash_file, open_bundle, verify_weights
from nsfwd.bundles.manifest import INT8_FOLDER, Quantized, Recipe
from nsfwd.bundles.verdict import borders
from nsfwd.engines import framework_logging, hardware, openvino_ir
from nsfwd.engines.contract import EngineOptions, Pixels, Probabilities
from nsfwd.engines.openvino import OpenVinoEngine
from nsfwd.engines.recheck import near_a_border
from nsfwd.errors import BundleError, CodedError, EngineError
from nsfwd.extras import install_command
from nsfwd.imaging.preprocess import decode
from nsfwd.ipc.child_messages import ImageLimits, Recheck
from nsfwd.model_tools.derived_networks import add_to_manifest
from nsfwd.model_tools.staging import installing

FEWEST = 20
"""Fewest calibration pictures; with fewer the ranges are guesses."""

WORST_GOLDEN = 0.25
"""Largest error of a golden; a larger one means that calibration failed."""

COMPARED = 1000
"""Most pictures that are compared; the recheck must cover the rarest change among them."""

MARGIN = 1.25
"""Expected error of other pictures, as a multiple of the measured one."""

_DRAFT = ".quantize-"
"""Prefix of the names of unfinished directories."""

_LIMITS = ImageLimits(max_bytes=64 << 20, max_pixels=100_000_000, min_side=16, max_frames=2000, memory=0)

Say = Callable[[str], None]
"""Takes one line of progress."""


class Report(NamedTuple):
    """The error of the network of 8 bits against full precision, before anything is scored again.

    Attributes:
        bundle: opened at int8.
        calibrated, compared: how many pictures.
        goldens: picture -> largest difference of any score.
        mean_change: of the highest tier's group.
        largest: change of any group of any picture.
        near: share of the compared pictures that would be scored again.
    """

    bundle: Bundle
    calibrated: int
    compared: int
    goldens: dict[str, float]
    mean_change: float
    largest: float
    near: float


def quantize(bundle: Bundle, pictures: Path, *, images: int, say: Say) -> Report:
    """Quantise a bundle's network and put it beside the model; one that is there is replaced.

    Args:
        bundle: opened at full precision, with its network for OpenVINO; its directory must be writable.
        pictures: directory of calibration pictures, searched below as well.
        images: how many of them calibrate, at most every second one; all are compared.
        say: takes lines of progress.

    Raises:
        BundleError: too few pictures, or the result is too far off; nothing was changed.
        EngineError: NNCF is missing, or cannot take the network; the message names the cause and what to install.
    """
    if not hardware.installed("nncf"):
        raise EngineError(f"NNCF is missing; install it: {install_command('quantize')}")
    verify_weights(bundle)
    seen = _decode_all(pictures, bundle, max(2 * images, COMPARED))
    chosen = seen[:: max(2, math.ceil(len(seen) / images))]
    say(f"{bundle.manifest.name}: calibrating with {len(chosen)} of {len(seen)} pictures")
    with installing(bundle.directory.parent), _draft(bundle) as draft:
        trial = replace(bundle, directory=draft, precision="int8")
        _make(bundle, chosen, openvino_ir.beside(trial))
        say(f"{bundle.manifest.name}: comparing with full precision")
        report = _compare(bundle, trial, seen, calibrated=len(chosen))
        _put_in_place(bundle, openvino_ir.beside(trial), report)
    opened = open_bundle(bundle.directory, short=bundle.name, precision="int8")
    return report._replace(bundle=opened)


def _decode_all(pictures: Path, bundle: Bundle, most: int) -> Pixels:
    """Up to ``most`` pictures of a directory, spread evenly over their sorted names, by the bundle's recipe."""
    try:
        os.scandir(pictures).close()  # rglob takes a directory that may not be read for an empty one
    except OSError as error:
        raise BundleError(f"{pictures}: {error.strerror}") from None
    files = sorted(path for path in pictures.rglob("*") if path.is_file() and path.name[0] != ".")
    recipe = bundle.manifest.recipe
    chosen = [files[number * len(files) // most] for number in range(most)] if len(files) > most else files
    pixels = []
    for path in chosen:
        try:
            pixels.append(_decode(path, recipe))
        except (CodedError, OSError):
            continue  # a folder of real pictures holds other files too
    if len(pixels) < FEWEST:
        raise BundleError(f"{pictures}: {len(pixels)} pictures can be read of {len(chosen)} files; {FEWEST} are needed")
    return np.stack(pixels)


def _decode(path: Path, recipe: Recipe) -> Pixels:
    with path.open("rb") as file:
        data = decode(file, recipe, _LIMITS).data
    return np.frombuffer(data, np.uint8).reshape(recipe.height, recipe.width, 3)


@contextmanager
def _draft(bundle: Bundle) -> Iterator[Path]:
    """Lend a directory inside the bundle's, from which the result is moved into place in one step.

    Only inside ``installing``: the remains of a killed process are removed.
    """
    try:
        for leftover in bundle.directory.glob(f"{_DRAFT}*"):
            shutil.rmtree(leftover)
        directory = Path(mkdtemp(prefix=_DRAFT, dir=bundle.directory))
    except OSError as error:
        raise BundleError(f"{bundle.directory} cannot be written to: {error.strerror}") from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _make(bundle: Bundle, pixels: Pixels, place: Path) -> None:
    """Calibrate and write the network, with the record of its sources."""
    full = openvino_ir.obtain(bundle, None)
    with framework_logging.muted():
        try:
            _calibrate(bundle, full / openvino_ir.NETWORK, pixels, place)
        except (RuntimeError, ValueError, ImportError, AttributeError) as error:
            raise EngineError(f"NNCF cannot quantise {bundle.manifest.name}: {str(error).splitlines()[0]}") from error
    record = openvino_ir.Record(
        source=bundle.manifest.weights_digest,
        version=metadata.version("openvino"),
        files={name: hash_file(place / name) for name in (openvino_ir.NETWORK, openvino_ir.WEIGHTS)},
    )
    (place / openvino_ir.RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def _calibrate(bundle: Bundle, network: Path, pixels: Pixels, place: Path) -> None:
    """Run the pictures, note the ranges, and write the network with NNCF."""
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    from nsfwd.model_tools.keras_file import prepare

    place.mkdir()
    images = nncf.Dataset(list(pixels), lambda one: prepare(one[np.newaxis], bundle.manifest.recipe))
    quantised = nncf.quantize(
        openvino.Core().read_model(network),
        images,
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(pixels),
        target_device=nncf.TargetDevice.CPU,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            # By histogram, not by the extremes: over 1,680 pictures the mean change fell from 0.011 to 0.007.
            activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
        ),
    )
    openvino.save_model(quantised, place / openvino_ir.NETWORK, compress_to_fp16=False)


def _compare(bundle: Bundle, trial: Bundle, pixels: Pixels, *, calibrated: int) -> Report:
    """Score all pictures and the goldens in both precisions."""
    names = [golden.file for golden in bundle.manifest.goldens]
    drawn = [_decode(path, bundle.manifest.recipe) for _, path in bundle.golden_files()]
    images = np.stack([*pixels, *drawn])
    exact, quick = (_scores(one, images) for one in (bundle, trial))
    change = quick - exact
    groups = groups_of(change, bundle)
    largest = float(groups.max())
    report = Report(
        bundle=bundle,
        calibrated=calibrated,
        compared=len(pixels),
        goldens=dict(zip(names, np.abs(change[len(pixels) :]).max(axis=1).tolist(), strict=True)),
        mean_change=float(groups[: len(pixels), -1].mean()),
        largest=largest,
        near=0.0,
    )
    worst = max(report.goldens.values(), default=0.0)
    if worst > WORST_GOLDEN:
        raise BundleError(f"{bundle.manifest.name}: a golden is off by {worst:.3f}; calibrate with other pictures")
    near = near_a_border(quick[: len(pixels)], Recheck(_expected(largest), *borders(bundle)))
    return report._replace(near=float(near.mean()))


def _scores(bundle: Bundle, images: Pixels) -> Probabilities:
    engine = OpenVinoEngine(EngineOptions(bundle=bundle, device="cpu", alone=False))
    return engine.score(images)


def groups_of(change: Probabilities, bundle: Bundle) -> Probabilities:
    """Return the change of the score of each group that a tier uses, or of each label where the top one is the verdict.

    Shape:
        change: (n, labels)

    Returns:
        (n, groups), the highest tier's group last.
    """
    thresholds, contest = borders(bundle)
    members = [list(labels) for labels, _ in thresholds] or [[label] for label in contest]
    return np.stack([np.abs(change[:, labels].sum(axis=1)) for labels in members], axis=1)


def _expected(seen: float) -> float:
    """Return the expected error after the largest measured one: rounded up to hundredths, at least one."""
    return min(1.0, max(0.01, math.ceil(100 * MARGIN * seen) / 100))


def _put_in_place(bundle: Bundle, made: Path, report: Report) -> None:
    """Move the network into the bundle, then name it in the manifest."""
    final = bundle.directory / INT8_FOLDER
    found = Quantized(
        by=f"nncf {metadata.version('nncf')}",
        images=report.calibrated,
        tolerance=_expected(max(report.goldens.values(), default=0.0)),
        drift=_expected(report.largest),
        mean_change=round(report.mean_change, 6),
    )
    try:
        if final.exists():
            final.rename(made.with_name("replaced"))
        made.rename(final)
    except OSError as error:
        raise BundleError(f"{final}: {error.strerror}") from None
    add_to_manifest(bundle.directory, msgspec.structs.replace(bundle.manifest, quantized=found), INT8_FOLDER)
