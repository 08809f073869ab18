"""Bundles on disk, and the catalogue of known ones. Reads only; ``model_tools`` writes.

A bundle is a directory with ``bundle.toml``, ``model.keras`` and ``goldens/``; it may be read-only, shared, or reached
through a link. Opening one reads a small file: the weights are hashed only before they are loaded. No framework.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

from nsfwd.bundles.manifest import GOLDENS, MANIFEST, WEIGHTS, Golden, Manifest, identity, parse_manifest
from nsfwd.bundles.policy import Policy, PolicyChange, check_policy
from nsfwd.config import Settings, parse_model
from nsfwd.documents import DocumentError, read_document
from nsfwd.errors import BundleError
from nsfwd.file_trust import changeable_by_others

SYSTEM = Path("/var/lib/nsfwd/models")
"""Where the packaged settings keep bundles."""

_CHECKOUT = Path(str(resources.files("nsfwd_catalogue")))
"""Where ``make setup`` puts bundles: beside the code, and as trustworthy."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its manifest, and the name, policy and precision under which it is served.

    Attributes:
        name: the model's short name in requests and replies.
        directory: where its files are.
        manifest: its ``bundle.toml``.
        policy: the site's, else the bundle's, else one group per label.
        precision: served.
        model_identity: ``name@digest/precision``.
        policy_identity: ``name@digest``.
    """

    name: str
    directory: Path
    manifest: Manifest
    policy: Policy
    precision: str
    model_identity: str
    policy_identity: str

    @property
    def weights(self) -> Path:
        """The Keras file."""
        return self.directory / WEIGHTS

    @property
    def tolerance(self) -> float:
        """Largest error of a golden's scores at the precision served."""
        return self.manifest.tolerance_for(self.precision)

    @property
    def drift(self) -> float:
        """Distance from a threshold within which an image is scored again in full precision; 0 for never."""
        return self.manifest.drift_for(self.precision)

    def judging(self, change: PolicyChange) -> Bundle:
        """Return the bundle with the site's changes of its policy. Its model stays the same.

        Raises:
            BundleError: as of ``PolicyChange.apply``; the operator's fault, no retry helps.
        """
        policy = change.apply(self.policy, self.manifest.output.labels)
        return replace(self, policy=policy, policy_identity=policy.identity)

    def golden_files(self) -> Iterator[tuple[Golden, Path]]:
        """The golden pictures and where they lie."""
        for golden in self.manifest.goldens:
            yield golden, self.directory / GOLDENS / golden.file


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A known bundle: its manifest without weights, and the text it was read from."""

    name: str
    manifest: Manifest
    text: str


def bundle_places(settings: Settings) -> tuple[Path, ...]:
    """The directories in which bundles are looked for: the setting's alone where it was given.

    Otherwise also that of the installed checkout and that of the system's daemon.
    """
    own = Path(settings.models_dir)
    return (own,) if "models_dir" in settings.given else (own, _CHECKOUT, SYSTEM)


def locate(settings: Settings, name: str) -> Path:
    """Find the directory of a bundle.

    Args:
        name: of the bundle, a short name under which the settings serve it, or a path where it has a slash.

    Raises:
        BundleError: there is none; the message says where it was looked for, and how to get it. Or it was found in the
            working directory alone, and another user may change it.
    """
    places = bundle_places(settings)
    served = {short: full for full, short in map(parse_model, settings.models)}
    for each in (name, served.get(name, name)):
        for directory in [Path(name)] if "/" in name else [place / each for place in places]:
            if (directory / MANIFEST).is_file():
                _refuse_foreign(settings, directory)
                return directory
    tried = " nor in ".join(map(str, places))
    if name in catalogue():
        raise BundleError(f"bundle {name} is not in {tried}; get it with: nsfwd models pull {name}")
    there = ", ".join(installed(places[0])) or "none"
    raise BundleError(f"no bundle {name} in {tried} (there: {there}) nor in the catalogue")


def _refuse_foreign(settings: Settings, directory: Path) -> None:
    """Refuse a bundle that lies in the working directory by chance, where another user may change it.

    Raises:
        BundleError: names the file or directory, and the setting that allows it.
    """
    own = Path(settings.models_dir)
    if "models_dir" in settings.given or directory.parent != own or (_CHECKOUT.is_dir() and own.samefile(_CHECKOUT)):
        return
    try:
        changeable = changeable_by_others(directory)
    except OSError as error:
        raise BundleError(f"{error.filename or directory}: {error.strerror}") from None
    if changeable is not None:
        raise BundleError(
            f"{directory}: bundle in the working directory, and another user may change {changeable}; "
            f"to use it, set models_dir = {own.absolute()}"
        )


def installed(models_dir: Path) -> list[str]:
    """Names of the bundles below ``models_dir``, sorted; empty when the directory does not exist."""
    return sorted(path.parent.name for path in models_dir.glob(f"*/{MANIFEST}") if path.parent.name[0] != ".")


def open_bundle(
    directory: Path,
    *,
    short: str | None = None,
    precision: str | None = None,
) -> Bundle:
    """Read a bundle's manifest and decide the name, precision and policy under which it is served.

    Args:
        directory: of the bundle.
        short: name in replies; the manifest's when None.
        precision: the manifest's default when None.

    Raises:
        BundleError: one line; a file is missing, unreadable or wrong. The operator's fault, no retry helps.
    """
    manifest = read_manifest(directory)
    for path in (WEIGHTS, *(f"{GOLDENS}/{golden.file}" for golden in manifest.goldens)):
        if not (directory / path).is_file():
            raise BundleError(f"{directory}: {path} is missing; pull or import the bundle again")
        if path not in manifest.files:
            raise BundleError(f"{directory}: the manifest has no digest of {path}")
    policy = manifest.policy or default_policy(manifest)
    check_policy(policy, manifest.output.labels)
    precision = precision or manifest.precision
    if precision not in ("f32", "bf16", "f16", "int8"):
        raise BundleError(f"{manifest.name}: unknown precision {precision!r}; use f32, bf16, f16 or int8")
    return Bundle(
        name=short or manifest.short or manifest.name,
        directory=directory,
        manifest=manifest,
        policy=policy,
        precision=precision,
        model_identity=identity(manifest, precision),
        policy_identity=policy.identity,
    )


def default_policy(manifest: Manifest) -> Policy:
    """The policy of a bundle that has none, over the labels it shows."""
    return Policy.default_for([label for label in manifest.output.labels if label not in manifest.output.hidden])


def read_manifest(directory: Path) -> Manifest:
    """The manifest in ``directory``.

    Raises:
        BundleError: it is missing, unreadable or wrong.
    """
    path = directory / MANIFEST
    try:
        text = read_document(path)
    except (OSError, DocumentError) as error:
        raise BundleError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None
    return parse_manifest(text, str(path))


def hash_file(path: Path) -> str:
    """Sha256 of a file, as hex.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None


def verify_file(bundle: Bundle, path: str) -> None:
    """Refuse a file of the bundle whose digest is not the manifest's.

    Raises:
        BundleError: it is missing or altered.
    """
    expected = bundle.manifest.files[path]
    found = hash_file(bundle.directory / path)
    if found != expected:
        raise BundleError(
            f"{bundle.directory / path}: digest {found[:12]}... is not the manifest's {expected[:12]}...; "
            "the file was altered: pull or import the bundle again"
        )


def verify_weights(bundle: Bundle) -> None:
    """Refuse weights that are not the ones the manifest names. Reads the whole file; called before it is loaded.

    Raises:
        BundleError: they are missing or altered.
    """
    verify_file(bundle, WEIGHTS)


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """The known bundles by name, in alphabetical order.

    Raises:
        BundleError: an entry of the installed catalogue is wrong; a defect of the package.
    """
    entries = {}
    shelf = resources.files("nsfwd_catalogue")
    for file in sorted(shelf.iterdir(), key=lambda one: one.name):
        if not file.name.endswith(".toml"):
            continue
        text = file.read_text("utf-8")
        manifest = parse_manifest(text, file.name)
        if file.name != f"{manifest.name}.toml":
            raise BundleError(f"catalogue: {file.name} describes {manifest.name}")
        entries[manifest.name] = CatalogueEntry(manifest.name, manifest, text)
    return entries
