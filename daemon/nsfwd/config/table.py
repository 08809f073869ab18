"""The table of settings: the fields of ``Settings`` with their types, defaults, units, help and reasons.

Help texts, ``nsfwd config show`` and the documentation are made from it. Reads nothing and checks nothing.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from nsfwd.config.peers import PeerRow
from nsfwd.quantities import GIB, KIB, MIB

PREFIX = "NSFWD_"
DEFAULT_LISTEN = "tcp:127.0.0.1:1235"

SECONDS, BYTES = "s", "bytes"

NOTES = ("given", "warnings")
"""Fields of ``Settings`` that are about the settings."""


def _about(
    text: str, reason: str, *, unit: str = "", reload: bool = True, flag: str = "", **limits: Any
) -> msgspec.Meta:
    return msgspec.Meta(
        description=text, extra={"reason": reason, "unit": unit, "reloadable": reload, "flag": flag}, **limits
    )


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one daemon, checked. Seconds are float, bytes are int.

    Attributes:
        given: not a setting: name of each setting that was given -> where (a file, a variable or a flag).
        warnings: not a setting: accepted values that should be changed.
    """

    listen: Annotated[
        tuple[str, ...],
        _about(
            "Address to listen on: tcp:HOST:PORT or unix:/path, with options ,style=session|plain|oneshot|clamd"
            " ,lane=interactive|normal|background ,mode=0660 ,color=yes. May be given several times.",
            f"{DEFAULT_LISTEN} where none is configured or inherited: other machines cannot reach it",
            reload=False,
        ),
    ] = ()
    metrics: Annotated[
        tuple[str, ...],
        _about(
            "Address to serve metrics for Prometheus on: tcp:HOST:PORT or unix:/path. May be given several times.",
            "none: stats has the same numbers",
            reload=False,
        ),
    ] = ()
    metrics_hosts: Annotated[
        tuple[str, ...],
        _about(
            "Host name that scrapers may use, besides addresses, localhost and the machine's own name; * for any."
            " May be given several times.",
            "else a web page with a name of this machine could make a browser read the metrics",
            flag="metrics-host",
        ),
    ] = ()
    roots: Annotated[
        tuple[str, ...],
        _about(
            "Directory below which files may be scanned. May be given several times.",
            "the permissions of the file system decide; a listener for other machines needs roots",
            flag="root",
            min_length=1,
        ),
    ] = ("/",)
    models_dir: Annotated[
        str, _about("Directory of bundles, relative to the working directory.", "make setup installs them there")
    ] = "models"
    models: Annotated[
        tuple[str, ...],
        _about(
            "Bundle to serve, as NAME or NAME=SHORT: replies use the short name. May be given several times.",
            "the most accurate of the small networks",
            flag="model",
            min_length=1,
        ),
    ] = ("nsfw-mobilenet-v2-140=nsfw",)
    engine: Annotated[
        Literal["auto", "keras", "openvino", "echo"],
        _about(
            "Engine. echo is for tests: its scores are computed from the pixels, without a model.", "the fastest here"
        ),
    ] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "gpu"],
        _about("Device of the engine. gpu never falls back to a CPU.", "a GPU where there is one"),
    ] = "auto"
    backend: Annotated[
        Literal["tensorflow", "jax", "torch"],
        _about("Keras's back end, for the keras engine.", "the one that is always installed"),
    ] = "tensorflow"
    precision: Annotated[
        str, _about("Precision of the engine, such as f32 or bf16; empty for the bundle's own.", "chosen per bundle")
    ] = ""
    gpu_memory: Annotated[
        int,
        _about(
            "Largest memory of a GPU to use; 0 for no cap.",
            "memory is allocated when needed; a cap is for a GPU that other programs share",
            unit=BYTES,
            ge=0,
        ),
    ] = 0
    on_device_loss: Annotated[
        Literal["refuse", "cpu"],
        _about(
            "Reaction when a lost GPU is not found again: end with an error, or continue on the CPU with a warning.",
            "a tenth of the speed without notice is worse than a visible restart",
        ),
    ] = "refuse"
    cache_dir: Annotated[
        str,
        _about(
            "Directory for compiled models, the only one that serve writes to.",
            "empty: $CACHE_DIRECTORY of systemd, else nsfwd in $XDG_CACHE_HOME, else in ~/.cache",
        ),
    ] = ""
    decoders: Annotated[
        int, _about("Decoder processes; 0 for one per core.", "decoding is the larger part of the work", ge=0, le=1024)
    ] = 0
    max_batch: Annotated[
        int,
        _about(
            "Images scored at once; 0 to choose by device.", "a GPU gains from batches, a CPU does not", ge=0, le=1024
        ),
    ] = 0
    queue: Annotated[
        int,
        _about(
            "Most images admitted and not yet answered, over all connections; further ones are refused as busy.",
            "about a minute of work for a fast machine: more would miss the deadline",
            ge=1,
            le=1_000_000,
        ),
    ] = 16_384
    max_connections: Annotated[
        int,
        _about(
            "Most open connections; lowered where the limit of open files is lower.",
            "an idle connection costs a few KiB, and a large pool keeps 10,000",
            ge=1,
            le=1_000_000,
        ),
    ] = 16_384
    idle_timeout: Annotated[
        float,
        _about(
            "Time without a byte after which a connection without requests is closed; 0 for never.",
            "frees connections of vanished peers; longer than pools keep them",
            unit=SECONDS,
            ge=0,
        ),
    ] = 3600.0
    write_stall: Annotated[
        float,
        _about(
            "Time without progress after which a connection whose peer reads no replies is closed.",
            "a slow peer reads something within a minute",
            unit=SECONDS,
            gt=0,
        ),
    ] = 60.0
    write_buffer: Annotated[
        int,
        _about(
            "Most unread reply bytes of a connection; beyond it no further request is read.",
            "1,000 replies with the longest path fit",
            unit=BYTES,
            ge=64 * KIB,
            le=1 * GIB,
        ),
    ] = 8 * MIB
    body_memory: Annotated[
        int,
        _about(
            "Memory for images that clients send, over all connections; further ones wait, then are refused as busy.",
            "sixteen of the largest images, thousands of usual ones",
            unit=BYTES,
            ge=1 * MIB,
        ),
    ] = 1 * GIB
    drain_timeout: Annotated[
        float,
        _about(
            "Time that a stop waits for work in flight.",
            "less than the limit of any service manager",
            unit=SECONDS,
            ge=0,
        ),
    ] = 10.0
    reload_mode: Annotated[
        Literal["auto", "beside", "drain"],
        _about(
            "Way of a reload: start the new engine beside the old one, or after its end while requests wait.",
            "beside if as much memory is free as the old engine uses; memory of a GPU is not checked",
        ),
    ] = "auto"
    deadline: Annotated[
        float,
        _about(
            "Time limit of a request that has none of its own; the background lane has no limit.",
            "callers stop waiting at about this time",
            unit=SECONDS,
            gt=0,
        ),
    ] = 60.0
    decode_timeout: Annotated[
        float,
        _about(
            "Time limit of a decoder for one image; then the decoder is killed.",
            "the largest allowed picture takes about 3 s on a slow core",
            unit=SECONDS,
            gt=0,
        ),
    ] = 10.0
    max_bytes: Annotated[
        int,
        _about("Largest encoded image.", "no camera writes larger JPEGs", unit=BYTES, ge=1, le=4 * GIB),
    ] = 64 * MIB
    max_pixels: Annotated[
        int,
        _about(
            "Most pixels of an image.", "allows every camera and no decompression bomb", unit="pixels", ge=1, le=10**10
        ),
    ] = 100_000_000
    min_side: Annotated[
        int,
        _about("Shortest side of an image.", "fewer pixels show nothing", unit="pixels", ge=1, le=4096),
    ] = 16
    max_frames: Annotated[
        int, _about("Most frames of an animation.", "over a minute at 25 per second", unit="frames", ge=1, le=1_000_000)
    ] = 2_000
    decoder_memory: Annotated[
        int,
        _about(
            "Address space of a decoder process.",
            "enough for the largest allowed picture with transparency and its working copies",
            unit=BYTES,
            ge=256 * MIB,
        ),
    ] = 2 * GIB
    cache: Annotated[
        Literal["off", "on"],
        _about(
            "Result cache: answer known content without decoding it again.",
            "off: hashing costs over 2 % of the CPU time of an image, and most streams never repeat",
        ),
    ] = "off"
    cache_entries: Annotated[
        int, _about("Most results in the cache.", "a few hundred bytes each", ge=1, le=10_000_000)
    ] = 100_000
    overrides: Annotated[
        str,
        _about(
            "File of the store of overrides (see nsfwd override); none for no overrides.",
            "empty: overrides.sqlite in $STATE_DIRECTORY of systemd, else in nsfwd in $XDG_STATE_HOME, else in"
            " ~/.local/state; it need not exist",
        ),
    ] = ""
    max_depth: Annotated[
        int, _about("Most levels of directories that are walked.", "deeper trees are loops or traps", ge=1, le=1000)
    ] = 64
    max_entries: Annotated[
        int, _about("Most entries listed for one request.", "lists stream; the limit ends runaway trees", ge=1)
    ] = 10_000_000
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("Lowest level of logged events.", "one line per event")
    ] = "info"
    log_paths: Annotated[
        Literal["full", "hashed", "hidden"],
        _about("Form of image paths in the log.", "an operator needs to find the file"),
    ] = "full"
    policy: Annotated[
        dict[str, dict[str, Any]],
        _about(
            "Changes to the policy of the bundle NAME: a table [policy.NAME] of the file, with thresholds, alarms,"
            " tiers or groups.",
            "none: each bundle's own",
            flag="-",
        ),
    ] = {}
    peers: Annotated[
        tuple[PeerRow, ...],
        _about(
            "Permissions of peers: rows [[peers]] of the file, by user, group or address; the first match counts.",
            "none: every peer that can connect may send requests",
            flag="-",
        ),
    ] = ()
    given: dict[str, str] = {}
    warnings: tuple[str, ...] = ()

    def is_given(self, name: str) -> bool:
        """Return whether the setting ``name`` was given by file, variable or flag, and is not the default."""
        return name in self.given


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    Attributes:
        kind: the annotated type, for ``msgspec.convert``.
        flag: its flag without dashes in front; empty where it has none.
        many: a list, so its flag may be repeated.
        choices: the allowed words; empty where any value of the type goes.
    """

    name: str
    kind: Any
    default: Any
    help: str
    reason: str
    unit: str
    reloadable: bool
    flag: str
    many: bool
    choices: tuple[str, ...]

    @property
    def variable(self) -> str:
        """Name of its environment variable."""
        return PREFIX + self.name.upper()


def settings_table() -> dict[str, Setting]:
    """Return every setting by name, in the order of ``Settings``."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    rows = (_row(field, hints[field.name]) for field in msgspec.structs.fields(Settings) if field.name not in NOTES)
    return {row.name: row for row in rows}


def _row(field: msgspec.structs.FieldInfo, kind: Any) -> Setting:
    base, meta = typing.get_args(kind)
    default = field.default if field.default is not msgspec.NODEFAULT else {}
    flag = meta.extra["flag"] or field.name.replace("_", "-")
    return Setting(
        name=field.name,
        kind=kind,
        default=default,
        help=meta.description,
        reason=meta.extra["reason"],
        unit=meta.extra["unit"],
        reloadable=meta.extra["reloadable"],
        flag="" if flag == "-" else flag,
        many=typing.get_origin(base) is tuple,
        choices=typing.get_args(base) if typing.get_origin(base) is Literal else (),
    )


TABLE = settings_table()
