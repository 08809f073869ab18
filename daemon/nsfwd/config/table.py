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
        warnings: not a setting: what is taken and should be mended.
    """

    listen: Annotated[
        tuple[str, ...],
        _about(
            "Address to listen on: tcp:HOST:PORT or unix:/path, then any of ,style=session|plain|oneshot|clamd"
            " ,lane=interactive|normal|background ,mode=0660 ,color=yes. May be given several times.",
            f"{DEFAULT_LISTEN} where none is configured or inherited: what a stranger cannot reach",
            reload=False,
        ),
    ] = ()
    metrics: Annotated[
        tuple[str, ...],
        _about(
            "Address to serve metrics for Prometheus on: tcp:HOST:PORT or unix:/path. May be given several times.",
            "none: not everybody has a Prometheus, and the numbers are in stats as well",
            reload=False,
        ),
    ] = ()
    metrics_hosts: Annotated[
        tuple[str, ...],
        _about(
            "Host name by which metrics may be asked for, besides addresses, localhost and the machine's own name;"
            " * for any. May be given several times.",
            "a web page whose name leads to this machine could have a browser read the numbers",
            flag="metrics-host",
        ),
    ] = ()
    roots: Annotated[
        tuple[str, ...],
        _about(
            "Directory below which files may be scanned. May be given several times.",
            "the file system's permissions decide; a listener beyond loopback is refused until roots are given",
            flag="root",
            min_length=1,
        ),
    ] = ("/",)
    models_dir: Annotated[
        str, _about("Directory of bundles, relative to the working directory.", "where make setup puts them")
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
        _about("What scores. echo is for tests: scores computed from the pixels, no model.", "the fastest here"),
    ] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "gpu"],
        _about("Where it scores. gpu refuses to fall back to a CPU.", "a GPU where there is one"),
    ] = "auto"
    backend: Annotated[
        Literal["tensorflow", "jax", "torch"],
        _about("Keras's back end, for the keras engine.", "the one that is always installed"),
    ] = "tensorflow"
    precision: Annotated[
        str, _about("Precision to score in, such as f32 or bf16; empty for the bundle's own.", "chosen per bundle")
    ] = ""
    gpu_memory: Annotated[
        int,
        _about(
            "Most memory to take of a GPU; 0 for no cap.",
            "it is taken as it is needed; a cap is for a GPU that others use too",
            unit=BYTES,
            ge=0,
        ),
    ] = 0
    on_device_loss: Annotated[
        Literal["refuse", "cpu"],
        _about(
            "What to do when a lost GPU is not found again: end with an error, or go on upon the CPU and say so.",
            "a tenth of the speed in silence is worse than a restart that is seen",
        ),
    ] = "refuse"
    cache_dir: Annotated[
        str,
        _about(
            "The only directory that serve writes to (compiled models).",
            "empty: $CACHE_DIRECTORY of systemd, else nsfwd in $XDG_CACHE_HOME, else in ~/.cache",
        ),
    ] = ""
    decoders: Annotated[
        int, _about("Decoder processes; 0 for one a core.", "decoding is the larger part of the work", ge=0, le=1024)
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
            "Images admitted and not yet answered, over all connections; beyond it requests are refused as busy.",
            "about a minute of work for a fast machine: later would be past the deadline",
            ge=1,
            le=1_000_000,
        ),
    ] = 16_384
    max_connections: Annotated[
        int,
        _about(
            "Connections open at once; lowered to what the limit of open files allows.",
            "an idle connection costs a few KiB, and 10,000 idle ones are a pool like any other",
            ge=1,
            le=1_000_000,
        ),
    ] = 16_384
    idle_timeout: Annotated[
        float,
        _about(
            "Close a connection with nothing in flight after this long without a byte; 0 for never.",
            "frees those whose peer vanished; longer than a pool keeps one",
            unit=SECONDS,
            ge=0,
        ),
    ] = 3600.0
    write_stall: Annotated[
        float,
        _about(
            "Close a connection whose peer has read none of its replies for this long.",
            "a peer that is only slow reads something within a minute",
            unit=SECONDS,
            gt=0,
        ),
    ] = 60.0
    write_buffer: Annotated[
        int,
        _about(
            "Unread reply bytes kept for one connection before its requests are left unread.",
            "1,000 replies that carry the longest path fit",
            unit=BYTES,
            ge=64 * KIB,
            le=1 * GIB,
        ),
    ] = 8 * MIB
    body_memory: Annotated[
        int,
        _about(
            "Memory for images that clients send, over all connections; further ones wait, then are refused as busy.",
            "sixteen of the largest; usual ones by the thousand",
            unit=BYTES,
            ge=1 * MIB,
        ),
    ] = 1 * GIB
    drain_timeout: Annotated[
        float,
        _about("How long a stop waits for work in flight.", "less than any service manager's", unit=SECONDS, ge=0),
    ] = 10.0
    reload_mode: Annotated[
        Literal["auto", "beside", "drain"],
        _about(
            "How a reload begins: the new engine beside the old one, or after its end while requests wait.",
            "beside where as much memory is free as the old one took; a GPU's memory is not looked at",
        ),
    ] = "auto"
    deadline: Annotated[
        float,
        _about(
            "Time for a request that names none; the background lane has none.",
            "callers give up at about this point",
            unit=SECONDS,
            gt=0,
        ),
    ] = 60.0
    decode_timeout: Annotated[
        float,
        _about(
            "Kill a decoder that is busy with one image for longer.",
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
        _about("Most pixels of an image.", "every camera passes, no bomb does", unit="pixels", ge=1, le=10**10),
    ] = 100_000_000
    min_side: Annotated[
        int,
        _about("Shortest side of an image.", "nothing can be told from fewer pixels", unit="pixels", ge=1, le=4096),
    ] = 16
    max_frames: Annotated[
        int, _about("Most frames of an animation.", "over a minute at 25 a second", unit="frames", ge=1, le=1_000_000)
    ] = 2_000
    decoder_memory: Annotated[
        int,
        _about(
            "Address space of a decoder process.",
            "holds the largest allowed picture with transparency and its working copies",
            unit=BYTES,
            ge=256 * MIB,
        ),
    ] = 2 * GIB
    cache: Annotated[
        Literal["off", "on"],
        _about(
            "Answer content that was scored before without decoding it again.",
            "off: hashing costs more than 2 % of an image's CPU, and most streams never repeat",
        ),
    ] = "off"
    cache_entries: Annotated[
        int, _about("Results the cache keeps.", "a few hundred bytes each", ge=1, le=10_000_000)
    ] = 100_000
    overrides: Annotated[
        str,
        _about(
            "File of what people decided about contents (see nsfwd override); none to judge without.",
            "empty: overrides.sqlite in $STATE_DIRECTORY of systemd, else in nsfwd in $XDG_STATE_HOME, else in"
            " ~/.local/state; it need not be there",
        ),
    ] = ""
    max_depth: Annotated[
        int, _about("Directories below each other that are walked.", "deeper is a loop or a trap", ge=1, le=1000)
    ] = 64
    max_entries: Annotated[
        int, _about("Entries one directory request may list.", "lists stream; this ends runaway trees", ge=1)
    ] = 10_000_000
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("Least level that is logged.", "one line an event")
    ] = "info"
    log_paths: Annotated[
        Literal["full", "hashed", "hidden"],
        _about("How the log shows the paths of images.", "an operator needs to find the file"),
    ] = "full"
    policy: Annotated[
        dict[str, dict[str, Any]],
        _about(
            "What to change in the policy of the bundle NAME: a table [policy.NAME] of the file, with thresholds,"
            " alarms, tiers or groups.",
            "none: each bundle's own",
            flag="-",
        ),
    ] = {}
    peers: Annotated[
        tuple[PeerRow, ...],
        _about(
            "Who may do what: rows [[peers]] of the file, by user, group or address; the first that matches counts.",
            "none: whoever can connect may ask, within the limits of all",
            flag="-",
        ),
    ] = ()
    given: dict[str, str] = {}
    warnings: tuple[str, ...] = ()

    def is_given(self, name: str) -> bool:
        """Tell whether the setting ``name`` was given by file, variable or flag, and is not merely the default."""
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
