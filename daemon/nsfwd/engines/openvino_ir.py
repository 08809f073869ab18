"""Where a bundle's OpenVINO form lies, whether it is really that bundle's, and how one comes to be. No framework.

It lies beside the model (``BUNDLE/openvino/``), put there when the bundle was pulled or imported; where it does not,
it is made once into the cache directory, by another process, so that the one that serves never loads TensorFlow. The
one of 8 bits (``BUNDLE/openvino-int8/``) is never made here: it takes pictures to calibrate it.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import msgspec

from nsfwd.bundles.bundle_store import Bundle, hash_file
from nsfwd.bundles.manifest import INT8_FOLDER, NETWORK_FOLDER
from nsfwd.documents import DocumentError, decode_json, read_document
from nsfwd.engines import hardware
from nsfwd.errors import BundleError, EngineError
from nsfwd.ipc.interpreter import command, run_python

NETWORK = "model.xml"
WEIGHTS = "model.bin"
RECORD = "source.json"

EXPORT = "nsfwd.engines.openvino_export"
"""The program that makes one."""

BAD_BUNDLE = 3
"""Exit code of the export where the bundle itself is wrong, so that no other engine could serve it either."""

MOST_SECONDS = 300.0
"""An export takes 5 to 15 seconds; one that takes this long is stuck."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an exported network was made from, written beside it.

    Attributes:
        source: sha256 of the Keras file.
        version: of OpenVINO.
        files: name -> sha256 of what was written.
    """

    source: str
    version: str
    files: dict[str, str]


def beside(bundle: Bundle) -> Path:
    """Where the network to be served lies inside a bundle, at the precision it is opened with."""
    return bundle.directory / (INT8_FOLDER if bundle.precision == "int8" else NETWORK_FOLDER)


def cached(bundle: Bundle, cache: Path) -> Path:
    """Where it lies in the cache: by the weights' digest, the library's version and the processor."""
    version = metadata.version("openvino")
    return cache / NETWORK_FOLDER / f"{bundle.manifest.weights_digest[:16]}-{version}-{hardware.cpu_key()}"


def unheard(line: str) -> None:
    """Where a line about progress goes that nobody wants."""


def obtain(bundle: Bundle, cache: Path | None, say: Callable[[str], None] = unheard) -> Path:
    """Find the exported network of a bundle, or have it made in the cache.

    Args:
        cache: directory that may be written to; None when there is none.
        say: is told before one is made, which takes 5 to 15 seconds.

    Returns:
        The directory with ``NETWORK`` and ``WEIGHTS``, checked against the record.

    Raises:
        BundleError: what lies beside the model was made from other weights, or was altered.
        EngineError: there is none and none can be made; the message says what to do.
    """
    if (beside(bundle) / RECORD).is_file():
        check(bundle, beside(bundle))
        return beside(bundle)
    if bundle.precision == "int8":
        raise EngineError(
            f"{bundle.directory} has no {INT8_FOLDER}; run: nsfwd models quantize {bundle.manifest.name} "
            "--calibrate DIR, or set precision = f32"
        )
    if cache is None:
        raise EngineError(
            f"{bundle.directory} has no exported network and there is no cache directory to make one in; "
            f"run: {_hint(bundle)}"
        )
    place = cached(bundle, cache)
    if (place / RECORD).is_file():
        try:
            check(bundle, place)
            return place
        except BundleError:
            pass  # a cache may be made again
    say(f"no network for OpenVINO in {bundle.directory}: making one in {place}, which takes some seconds, once")
    export_elsewhere(bundle, place)
    check(bundle, place)
    return place


def _hint(bundle: Bundle) -> str:
    """The command that a person enters to make the network."""
    return shlex.join(command(EXPORT, bundle.directory))


def check(bundle: Bundle, place: Path) -> None:
    """Refuse a network that was not made from this bundle's weights, or was altered since.

    Raises:
        BundleError: so it is; the operator's fault, no retry helps.
    """
    if bundle.precision == "int8":
        mend = f"run: nsfwd models quantize {bundle.manifest.name} --calibrate DIR"
    else:
        mend = f"remove {place} and run: {_hint(bundle)}"
    try:
        record = decode_json(read_document(place / RECORD), Record)
    except (OSError, DocumentError):
        raise BundleError(f"{place / RECORD} cannot be read; {mend}") from None
    if record.source != bundle.manifest.weights_digest:
        raise BundleError(f"{place} was made from other weights than the bundle's; {mend}")
    for name in (NETWORK, WEIGHTS):
        found = hash_file(place / name)
        # Beside the model the bundle's own word counts as well: a record can be replaced together with its network.
        told = bundle.manifest.files.get(f"{place.name}/{name}", found) if place == beside(bundle) else found
        if {record.files.get(name), told} != {found}:
            raise BundleError(f"{place / name} was altered; {mend}")


def export_elsewhere(bundle: Bundle, place: Path) -> None:
    """Export the network in a process of its own: TensorFlow and its 700 MB are gone with it.

    Raises:
        BundleError, EngineError: as of ``run_on_bundle``.
    """
    task = f"export {bundle.directory} for OpenVINO"
    run_on_bundle(EXPORT, bundle, "--into", place, task=task, advice="; or set engine = keras")


def run_on_bundle(program: str, bundle: Bundle, *arguments: str | Path, task: str, advice: str = "") -> None:
    """Run a program that loads a bundle's network, which a damaged or hostile network may take down.

    Args:
        task: what it does, as a verb with its object.
        advice: end of the message where another engine may do.

    Raises:
        BundleError: the bundle itself is wrong; the message is that program's last line.
        EngineError: another engine may do; the message is that line too.
    """
    try:
        ended = run_python(program, bundle.directory, *arguments, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise EngineError(f"cannot {task}: it took over {MOST_SECONDS:.0f} s") from None
    if ended.returncode < 0:
        raise BundleError(f"cannot {task}: the program was killed by signal {-ended.returncode}")
    if ended.returncode != 0:
        lines = ended.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {ended.returncode}"]
        if ended.returncode == BAD_BUNDLE:
            raise BundleError(lines[-1])
        raise EngineError(f"cannot {task}: {lines[-1]}{advice}")
