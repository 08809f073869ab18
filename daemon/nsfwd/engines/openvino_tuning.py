"""How many streams and threads the OpenVINO engine runs: a fixed rule, unless somebody has measured this processor.

The rule holds where cores are whole and equal. Where two share one core's units, or some are slower than others, only
measuring tells: ``nsfwd models verify --tune`` does, and what it found lies in the cache directory, by processor. No
framework here.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import msgspec

from nsfwd.bundles.bundle_store import Bundle
from nsfwd.documents import DocumentError, decode_json, read_document
from nsfwd.engines import hardware
from nsfwd.errors import EngineError

FOLDER = "tuning"


class Streams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many images run at once, and how many threads they share."""

    streams: int
    threads: int


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The two ways a network is compiled.

    Attributes:
        alone: for one image by itself.
        crowd: for a deep queue.
    """

    alone: Streams
    crowd: Streams


def by_rule(threads: int) -> Tuning:
    """All cores for one image alone; one core each for many."""
    return Tuning(alone=Streams(1, threads), crowd=Streams(threads, threads))


def candidates(cores: int) -> tuple[list[Streams], list[Streams]]:
    """What is worth measuring, for one image alone and for a crowd; the rule's choice comes first in each."""
    rule, half = by_rule(cores), max(1, cores // 2)
    alone = [rule.alone, Streams(1, half)]
    crowd = [rule.crowd, Streams(half, cores), Streams(half, half), Streams(max(1, cores // 4), cores)]
    return list(dict.fromkeys(alone)), list(dict.fromkeys(crowd))


def place(bundle: Bundle, cache: Path) -> Path:
    """Where the choice for this bundle, precision, library, processor and number of cores lies."""
    version = metadata.version("openvino")
    words = (bundle.manifest.weights_digest[:16], bundle.precision, version, hardware.cpu_key(), str(hardware.cores()))
    return cache / FOLDER / f"{'-'.join(words)}.json"


def settle(bundle: Bundle, cache: Path | None, threads: int) -> Tuning:
    """The measured choice where there is one and the caller asks for no number of threads, else the rule.

    Args:
        threads: 0 for as many as there are cores.

    Raises:
        EngineError: what is stored cannot be read; the message says what to remove.
    """
    if threads or cache is None:
        return by_rule(threads or hardware.cores())
    file = place(bundle, cache)
    try:
        return decode_json(read_document(file), Tuning)
    except FileNotFoundError:
        return by_rule(hardware.cores())
    except (OSError, DocumentError) as error:
        raise EngineError(f"{file} cannot be read ({error}); remove it, or measure again") from None


def store(tuning: Tuning, bundle: Bundle, cache: Path) -> Path:
    """Keep a measured choice.

    Raises:
        EngineError: the cache directory cannot be written to.
    """
    file = place(bundle, cache)
    draft = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(tuning)) + b"\n")
        draft.replace(file)
    except OSError as error:
        raise EngineError(f"{file}: {error.strerror}") from None
    return file
