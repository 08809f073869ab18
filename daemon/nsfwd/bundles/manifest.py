"""The manifest of a bundle: source, licence, preprocessing, labels, policy, goldens. Pure data, no framework.

The catalogue and every ``bundle.toml`` have the same keys; that of a bundle has ``files`` (digests) in addition.
Unknown keys are refused, so that a misspelled one is never silently the default. This module opens no file.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import msgspec

from nsfwd.bundles.policy import IDENTITY_DIGITS, Policy, check_policy
from nsfwd.bundles.toml_writer import dump_toml
from nsfwd.documents import DocumentError, parse_toml
from nsfwd.errors import BundleError

WEIGHTS = "model.keras"
"""Name of the Keras file inside a bundle's directory."""

MANIFEST = "bundle.toml"
"""Name of the manifest inside a bundle's directory."""

GOLDENS = "goldens"
"""Name of the folder of golden pictures inside a bundle's directory."""

Precision = Literal["f32", "bf16", "f16", "int8"]

NETWORK_FOLDER = "openvino"
"""Name of the folder of the network as OpenVINO reads it: made from the Keras file, in full precision."""

INT8_FOLDER = "openvino-int8"
"""Name of the folder of the network with weights and activations of 8 bits, which only calibration can make."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RGB = 3


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts of a manifest: immutable, and a key that is not known is an error."""


class FrameSampling(_Part, frozen=True, kw_only=True):
    """The frames of an animation that are scored, and how their scores are combined. A page of a TIFF is a frame too.

    Attributes:
        sample: how many frames at most, spread evenly over the time they are shown; a request may ask for others.
        quorum: how many of those must reach a tier before the image does (all, where there are fewer); 1 is the worst.
        combine: ``max`` lets the worst frame decide, or with a quorum of k the k-th worst; ``mean`` judges the mean of
            the frames' scores.
    """

    sample: int = 1
    quorum: int = 1
    combine: Literal["max", "mean"] = "max"


class Recipe(_Part, frozen=True, kw_only=True):
    """Preprocessing as data: how encoded bytes become the network's input.

    The decoder makes uint8 RGB (height, width, 3) by ``rotate``, ``background``, ``fit`` and ``filter``; the engine
    applies ``channels``, ``scale``, ``mean`` and ``std``.

    Attributes:
        width, height: of the network's input, in pixels.
        fit: ``stretch`` ignores the aspect ratio, ``pad`` keeps it with bars, ``crop`` keeps it and cuts the centre.
        filter: how pixels are resampled.
        antialias: widen the filter when shrinking, as Pillow does.
        align_corners: corner pixels keep their places, as TensorFlow 1 and nsfwjs resize; only without antialias.
        channels: order of the channels the network was trained with.
        scale: multiplied with the uint8 values.
        mean, std: subtracted from and divided into the scaled values, per channel; empty for none.
        background: colour below transparent pixels; ``both`` scores the image on each, and the worse counts.
        rotate: turn the image as its EXIF orientation says.
        draft: smallest multiple of the target size a JPEG may be decoded at before ``filter`` is applied; 0 for never.
        frames: which frames of an animation are scored.
        reason: why it is so, for people; not part of the identity.
    """

    width: int
    height: int
    fit: Literal["stretch", "pad", "crop"] = "stretch"
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    antialias: bool = True
    align_corners: bool = False
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    background: Literal["white", "black", "both"] = "white"
    rotate: bool = True
    draft: float = 2.0
    frames: FrameSampling = FrameSampling()
    reason: str = ""


class Output(_Part, frozen=True, kw_only=True):
    """The network's output: one probability for each label, in this order.

    Attributes:
        labels: in the order of the output units.
        hidden: labels that are scored (a group may sum them) but neither shown nor ever the top label.
        activation: ``softmax`` sums to 1; ``sigmoid`` is one probability a label, each for itself.
    """

    labels: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    activation: Literal["softmax", "sigmoid"]


class Source(_Part, frozen=True, kw_only=True):
    """The origin of the weights.

    Attributes:
        kind: ``npm`` or ``pypi`` for a package of that registry, ``local`` for weights that the operator brought,
            ``trained`` for weights that nsfwd trained.
        package, version: of the package.
        integrity: the registry's published digest of the package file (``sha512-`` and base64).
        folder: of the network inside the package.
        network: format of the network there.
        home: page of the project.
        bytes: size of the package file, which is what a pull downloads.
    """

    kind: Literal["npm", "pypi", "local", "trained"] = "local"
    package: str = ""
    version: str = ""
    integrity: str = ""
    folder: str = ""
    network: Literal["", "tfjs-layers", "tfjs-graph"] = ""
    home: str = ""
    bytes: int = 0


class Licence(_Part, frozen=True, kw_only=True):
    """The terms of use of the weights: SPDX name, and the notices that must travel with them."""

    name: str
    notices: tuple[str, ...] = ()


class Golden(_Part, frozen=True, kw_only=True):
    """A picture with known scores at full precision. ``file`` lies in the bundle's ``goldens`` folder."""

    file: str
    scores: dict[str, float]


class Figures(_Part, frozen=True, kw_only=True):
    """Numbers about quality, size and speed: published by the makers, and measured here, with the machine."""

    published: dict[str, float | str] = {}
    measured: dict[str, float | str] = {}


class Quantized(_Part, frozen=True, kw_only=True):
    """The calibration of a bundle's network of 8 bits and its measured error; written by ``models quantize``.

    Attributes:
        by: the library that made it, with its version.
        images: how many pictures calibrated it.
        tolerance: largest error of a golden's scores.
        drift: see ``Manifest.drift``.
        mean_change: of the highest tier's group, over those pictures and others.
    """

    by: str
    images: int
    tolerance: float
    drift: float
    mean_change: float


class Manifest(_Part, frozen=True, kw_only=True):
    """The description of one bundle.

    Attributes:
        name: of the bundle; ``short`` is the model's name in replies (``name`` when empty).
        summary: one line; ``description`` as long as needed.
        precision: the default one.
        policy: None gives one group per label.
        goldens: pictures with pinned scores; ``tolerance`` is the allowed difference for each precision.
        drift: precision -> how far the score of a group was seen to be off from full precision, and a quarter more. An
            image that lies this near to a threshold is scored again in full precision.
        quantized: of the network of 8 bits; None in the catalogue and where none was made.
        good_for, bad_for: what to use it for, and what not.
        files: path inside the bundle -> sha256; empty in the catalogue, where no weights are.
    """

    name: str
    version: str
    short: str = ""
    summary: str
    description: str = ""
    licence: Licence
    source: Source = Source()
    parameters: int = 0
    precision: Precision = "f32"
    recipe: Recipe
    output: Output
    policy: Policy | None = None
    tolerance: dict[Precision, float] = {}
    drift: dict[Precision, float] = {}
    goldens: tuple[Golden, ...] = ()
    quantized: Quantized | None = None
    good_for: tuple[str, ...] = ()
    bad_for: tuple[str, ...] = ()
    figures: Figures = Figures()
    files: dict[str, str] = {}

    @property
    def weights_digest(self) -> str:
        """Sha256 of the Keras file, as hex.

        Raises:
            BundleError: the manifest names none (it is of the catalogue, or incomplete).
        """
        try:
            return self.files[WEIGHTS]
        except KeyError:
            raise BundleError(f"{self.name}: the manifest has no digest of {WEIGHTS}") from None

    def tolerance_for(self, precision: str) -> float:
        """Return the largest error of a golden's scores at ``precision``.

        Raises:
            BundleError: the bundle was never checked at that precision, so nothing vouches for it.
        """
        if precision == "int8" and self.quantized is not None:
            return self.quantized.tolerance
        for known, allowed in self.tolerance.items():
            if known == precision:
                return allowed
        raise BundleError(f"{self.name}: no tolerance for precision {precision}; known: {', '.join(self.tolerance)}")

    def drift_for(self, precision: str) -> float:
        """Return the distance from a threshold within which an image is scored again; 0 for never.

        Raises:
            BundleError: nobody measured it for that precision, nor how far goldens may be off.
        """
        if precision == "f32":
            return 0.0
        if precision == "int8" and self.quantized is not None:
            return self.quantized.drift
        for known, drift in self.drift.items():
            if known == precision:
                return drift
        return self.tolerance_for(precision)


def parse_manifest(text: str, where: str) -> Manifest:
    """Read a manifest and check that it agrees with itself.

    Args:
        text: TOML.
        where: what the error message begins with, for instance the file's path.

    Raises:
        BundleError: one line with the key that is unknown, missing or wrong; the operator's fault.
    """
    try:
        manifest = msgspec.convert(parse_toml(text), Manifest)
        _check(manifest)
    except (DocumentError, msgspec.ValidationError, BundleError) as error:
        raise BundleError(f"{where}: {error}") from None
    return manifest


def dump_manifest(manifest: Manifest) -> str:
    """Write a manifest as TOML, defaults included, so that a bundle means the same to every later version."""
    return dump_toml(msgspec.to_builtins(manifest))


def identity(manifest: Manifest, precision: str) -> str:
    """Return the model's identity: ``name@digest/precision`` over weights, preprocessing, output and precision.

    Values that equal their default are left out of the digest, so that a new key with a default changes no identity.
    Therefore a default may never be changed.
    """
    recipe = _without_defaults(manifest.recipe)
    recipe.pop("reason", None)
    described = {
        "weights": manifest.weights_digest,
        "recipe": recipe,
        "output": _without_defaults(manifest.output),
        "precision": precision,
    }
    if precision == "int8":
        described["network"] = _int8_digest(manifest)
    digest = hashlib.sha256(msgspec.json.encode(described, order="sorted")).hexdigest()
    return f"{manifest.name}@{digest[:IDENTITY_DIGITS]}/{precision}"


def _int8_digest(manifest: Manifest) -> str:
    """Sha256 of the weights of 8 bits: other calibration pictures make another model.

    Raises:
        BundleError: there are none.
    """
    try:
        return manifest.files[f"{INT8_FOLDER}/model.bin"]
    except KeyError:
        raise BundleError(
            f"{manifest.name}: no network of precision int8; make one with: "
            f"nsfwd models quantize {manifest.name} --calibrate DIR, or set precision = f32"
        ) from None


def _without_defaults(part: _Part) -> dict[str, Any]:
    return {
        field.name: _without_defaults(value) if isinstance(value, _Part) else value
        for field in msgspec.structs.fields(part)
        if (value := getattr(part, field.name)) != field.default
    }


def _check(manifest: Manifest) -> None:
    if not _NAME.fullmatch(manifest.name):
        raise BundleError(f"name {manifest.name!r} must be lower-case letters, digits, '.', '_' or '-'")
    if manifest.short and not _NAME.fullmatch(manifest.short):
        raise BundleError(f"short {manifest.short!r} must be lower-case letters, digits, '.', '_' or '-'")
    _check_recipe(manifest.recipe)
    _check_output(manifest.output)
    if manifest.policy is not None:
        check_policy(manifest.policy, manifest.output.labels)
    for golden in manifest.goldens:
        if not _FILE.fullmatch(golden.file) or "/" in golden.file:
            raise BundleError(f"golden {golden.file!r} must be a plain file name")
        if set(golden.scores) != set(manifest.output.labels):
            raise BundleError(f"golden {golden.file!r} must have one score for each label")
    for precision, drift in manifest.drift.items():
        if not 0.0 <= drift <= 1.0:
            raise BundleError(f"drift: {precision} must be in 0..1, not {drift}")
    for path, digest in manifest.files.items():
        if not _FILE.fullmatch(path) or ".." in path:
            raise BundleError(f"files: {path!r} is not a safe path inside a bundle")
        if not _DIGEST.fullmatch(digest):
            raise BundleError(f"files: the digest of {path!r} is not 64 hex digits")


def _check_recipe(recipe: Recipe) -> None:
    if not (0 < recipe.width <= 4096 and 0 < recipe.height <= 4096):
        raise BundleError(f"recipe: width and height must be in 1..4096, not {recipe.width} and {recipe.height}")
    if recipe.scale <= 0:
        raise BundleError("recipe: scale must be above 0")
    for name, values in (("mean", recipe.mean), ("std", recipe.std)):
        if values and len(values) != _RGB:
            raise BundleError(f"recipe: {name} must have three values or none")
    if 0.0 in recipe.std:
        raise BundleError("recipe: std may not be 0")
    if recipe.align_corners and recipe.antialias:
        raise BundleError("recipe: align_corners needs antialias = false")
    if recipe.filter == "lanczos" and not recipe.antialias:
        raise BundleError("recipe: the filter lanczos exists only with antialias")
    if recipe.draft != 0 and recipe.draft < 1:
        raise BundleError("recipe: draft must be 0 (never) or at least 1")
    if not 1 <= recipe.frames.quorum <= recipe.frames.sample:
        raise BundleError("recipe: frames need 1 <= quorum <= sample")
    if recipe.frames.combine == "mean" and recipe.frames.quorum != 1:
        raise BundleError('recipe: a quorum of frames is counted only with combine = "max"')


def _check_output(output: Output) -> None:
    labels = output.labels
    if not labels or len(set(labels)) != len(labels) or not all(labels):
        raise BundleError("output: labels must be one or more words, none twice")
    if unknown := set(output.hidden) - set(labels):
        raise BundleError(f"output: hidden names {', '.join(sorted(unknown))}, which is not a label of this model")
    if set(output.hidden) == set(labels):
        raise BundleError("output: at least one label must be shown")
    if output.activation == "softmax" and len(labels) == 1:
        raise BundleError("output: a softmax over one label is always 1; use sigmoid")
