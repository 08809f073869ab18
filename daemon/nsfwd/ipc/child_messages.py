"""What crosses the links between the server process and its children: msgpack arrays, one message a packet.

Every struct names its direction. A child is never trusted: the server decodes with these types, and a message that
does not fit ends the child. Pixels never travel here; they lie in the arena's slots.
"""

from __future__ import annotations

from typing import Any

import msgspec

NANOSECONDS = 1_000_000_000


class Wire(msgspec.Struct, array_like=True, tag=True, frozen=True, gc=False):
    """Base of all messages: a tagged msgpack array."""


class DecoderSetup(Wire, frozen=True):
    """Server -> decoder, once: how to decode and what may be opened.

    Attributes:
        worker: which note of the arena is this decoder's.
        slot_bytes: size of one slot; slots lie one after the other behind the notes.
        recipes: the preprocessing of each bundle as plain data (``bundles.manifest.Recipe``, ``msgspec.to_builtins``).
        roots: absolute directories below which files may be opened.
        limits: see ``ImageLimits``.
        poison: see ``Poison``.
    """

    worker: int
    slot_bytes: int
    recipes: list[dict[str, Any]]
    roots: tuple[bytes, ...]
    limits: ImageLimits
    poison: tuple[tuple[int, str], ...] = ()


class ImageLimits(msgspec.Struct, array_like=True, frozen=True):
    """Limits applied before work: bytes, pixels, shortest side, frames, and a decoder's address space in bytes."""

    max_bytes: int
    max_pixels: int
    min_side: int
    max_frames: int
    memory: int


class Job(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One view of an image to decode into ``slot``; a probe has none.

    Most images have one view. Others (animations, transparency) are asked for one view at a time.

    Attributes:
        path: empty when a descriptor travels with the packet instead.
        number: of this job, echoed.
        lease_id: which lease of the slot it is, echoed; the server drops stale answers.
        identity: hash the content as well (``Decoded.identity``).
        view: 0 for the first, then what ``Decoded.next`` said.
        frames: how many frames to look at most; 0 for as many as the recipe says.
        stamp: of the file that the first view came from (``Decoded.stamp``); another file is not the same image.
        suspect: a decoder ended on this file: report its digest (``Suspected``) before anything else.
        probe: ``STAT``: report only the stamp; ``HASH``: only stamp and identity; 0: decode.
        roots: below which the file must lie, beside the decoder's own; none for no further limit.
        recipe: place in ``DecoderSetup.recipes`` of the one to decode by; its pixels may fill a part of the slot only.
    """

    number: int
    slot: int
    lease_id: int
    path: bytes
    descriptor: bool
    identity: bool
    view: int = 0
    frames: int = 0
    stamp: Stamp | None = None
    suspect: bool = False
    probe: int = 0
    roots: tuple[bytes, ...] = ()
    recipe: int = 0


STAT, HASH = 1, 2
"""Values of ``Job.probe``."""

DIRECTORY = "is_directory"
"""``Decoded.code`` of a directory."""

Moment = tuple[int, int]
"""A time of a file: whole seconds since 1970, negative before, and nanoseconds. As one number of nanoseconds it may
exceed the 64 bits of a message: file systems keep times beyond the year 2554."""

Stamp = tuple[int, int, int, Moment, Moment]
"""A file as it was opened: dev, ino, size, mtime, ctime."""

HashedStamp = tuple[int, int, int, Moment, Moment, str]
"""A stamp, and the SHA-256 of the content in hex."""


def stamp_of(dev: int, ino: int, size: int, mtime_ns: int, ctime_ns: int) -> Stamp:
    """Return the stamp of a file with these values of stat(2)."""
    return dev, ino, size, divmod(mtime_ns, NANOSECONDS), divmod(ctime_ns, NANOSECONDS)


class Decode(Wire, frozen=True):
    """Server -> decoder: a group of jobs. The packet's descriptors go to the jobs with ``descriptor``, in order."""

    jobs: list[Job]


class Decoded(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The end of one job. The decoder no longer touches its slot.

    Attributes:
        code: empty when pixels are in the slot, ``DIRECTORY``, else a code of ``errors.CODES``.
        seconds: time spent on it.
        width, height, format: of the encoded image, once known.
        identity: of the opened descriptor, when it was asked for.
        next: the view to ask for after this one; 0 after the last of its recipe.
        frame, frames, sampled: which frame this view shows, of how many, and how many of them are looked at.
        background: what transparent pixels lie on, ``white`` or ``black``; empty where there are none.
        stamp: of the opened file, where there is a next view or another recipe, or it was asked for.
    """

    number: int
    slot: int
    lease_id: int
    code: str
    message: str
    seconds: float
    width: int = 0
    height: int = 0
    format: str = ""
    identity: HashedStamp | None = None
    next: int = 0
    frame: int = 0
    frames: int = 1
    sampled: int = 1
    background: str = ""
    stamp: Stamp | None = None


class Suspected(Wire, frozen=True):
    """Decoder -> server: size and digest of the suspect, before it is decoded. ``sha256`` in hex."""

    number: int
    size: int
    sha256: str


class Poison(Wire, frozen=True):
    """Server -> decoder: from now on exactly these files (size, sha256) are known to crash decoders."""

    digests: tuple[tuple[int, str], ...]


class DecodedGroup(Wire, frozen=True):
    """Decoder -> server: jobs that ended, in any order; sent at the latest after 5 ms of work."""

    results: list[Decoded]


class EncodedGroup(Wire, frozen=True, tag="DecodedGroup"):
    """A ``DecodedGroup`` as the decoder sends it: each result was encoded while its job was still noted."""

    results: list[msgspec.Raw]


class Hello(Wire, frozen=True):
    """Child -> server, once: ready for work. ``applied`` and ``missing`` name sandbox measures, for log and stats."""

    applied: list[str]
    missing: list[str]


class List(Wire, frozen=True):
    """Server -> lister: start listing ``path`` as ``number`` without its first ``skip`` files (a resumed list).

    Attributes:
        roots: below which it must lie, beside the lister's own; none for no further limit.
    """

    number: int
    path: bytes
    recursive: bool
    skip: int
    roots: tuple[bytes, ...] = ()


class More(Wire, frozen=True):
    """Server -> lister: send the next chunk of ``number``."""

    number: int


class Forget(Wire, frozen=True):
    """Server -> lister: the rest of ``number`` is not needed."""

    number: int


class Entries(Wire, frozen=True):
    """Lister -> server: the next regular files of a directory, as paths.

    Attributes:
        end: no more will follow.
        code: why the list was cut short (``errors.CODES``), else empty.
    """

    number: int
    paths: list[bytes]
    end: bool
    code: str
    message: str


class ListerSetup(Wire, frozen=True):
    """Server -> lister, once."""

    roots: tuple[bytes, ...]
    max_depth: int
    max_entries: int
    chunk: int


class Recheck(msgspec.Struct, array_like=True, frozen=True):
    """Which images to score again in full precision: those for which a reduced one may have changed the verdict.

    Attributes:
        drift: how far the score of a group may be off at the precision served.
        thresholds: (places of the labels that are summed, the sum at which the verdict changes).
        contest: places of the labels of which the highest is the verdict; empty where thresholds decide.
    """

    drift: float
    thresholds: tuple[tuple[tuple[int, ...], float], ...]
    contest: tuple[int, ...] = ()


class EngineSetup(Wire, frozen=True):
    """Server -> engine, once: what to load and how.

    Attributes:
        slot_bytes: as for decoders.
        cache: directory that may be written to; empty for none.
        gpu_memory: most bytes to take of a GPU's memory; 0 for no cap.
        recheck: None where the precision served is full precision.
        identity: which version of the bundle; its directory may hold another one by the time the engine is started.
    """

    bundle: str
    engine: str
    device: str
    backend: str
    precision: str
    max_batch: int
    slot_bytes: int
    cache: str
    gpu_memory: int = 0
    recheck: Recheck | None = None
    identity: str = ""


class EngineReady(Wire, frozen=True):
    """Engine -> server, once: warmed.

    Attributes:
        buckets: the warmed sizes in rising order; the last is the most that is worth sending at once.
        note: what the operator should know about the choice of device (an NVIDIA GPU that no library sees), for the
            log and stats; empty if nothing.
        streams: how many batches it works on at once; with more than two, small ones are hardly slower than large ones.
    """

    engine: str
    device: str
    precision: str
    buckets: list[int]
    load_seconds: float
    warm_seconds: float
    note: str = ""
    streams: int = 1


class EngineNote(Wire, frozen=True):
    """Engine -> server, at any time before the link ends: what takes long, or is worse from now on; for people.

    Attributes:
        note: before ``EngineReady`` what it is busy with, for the log; afterwards its note from now on, for stats too.
        buckets: the warmed sizes from now on; empty before ``EngineReady``.
    """

    note: str
    buckets: list[int]


class EngineFailed(Wire, frozen=True):
    """Engine -> server: it cannot be built here; one sentence with the cause and what to set. The process then ends."""

    message: str


class EngineLost(Wire, frozen=True):
    """Engine -> server: its GPU is gone or no longer answers; one sentence with the cause. The process then ends."""

    message: str


class Batch(Wire, frozen=True):
    """Server -> engine: score these slots. At most ``max_batch``."""

    number: int
    slots: list[int]


class Scores(Wire, frozen=True):
    """Engine -> server: float32 (len(slots), labels), C order, native bytes; empty with a ``message`` if it failed.

    Attributes:
        rechecked: how many of them were scored again in full precision; theirs are those scores.
    """

    number: int
    scores: bytes
    seconds: float
    message: str
    rechecked: int = 0


_ENCODER = msgspec.msgpack.Encoder()


def encode(message: Wire | Decoded) -> bytes:
    """Encode one message as one packet, or one result of a group.

    Raises:
        OverflowError, TypeError: a value has no place in a message; a defect of the caller.
    """
    return _ENCODER.encode(message)
