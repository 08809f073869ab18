"""Every setting of the daemon in one table, and how a value gets into it.

The fields of ``Settings`` are the table: name, type, default and, in their ``Meta``, range, unit, help, the reason of
the default, and whether a reload may change them. A TOML file is weaker than the environment (``NSFWD_MAX_BYTES``),
which is weaker than flags (``--max-bytes``). Unknown names and wrong values are refused with one line that says where
they stand. Help texts, ``nsfwd config show`` and the documentation are made from the same table.

This module reads one file and nothing else; it knows no room of the house.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shlex
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from nsfwd.errors import SettingsError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SYSTEM_FILE = Path("/etc/nsfwd/nsfwd.toml")
PREFIX = "NSFWD_"
DEFAULT_LISTEN = "tcp:127.0.0.1:1235"

NOT_SETTINGS = frozenset({"NSFWD_CONFIG", "NSFWD_CONNECT", "NSFWD_ECHO"})
"""Variables with our prefix that are read elsewhere: where the file is, where clients find the daemon, and how the echo
engine is to misbehave in tests."""

SECONDS, BYTES = "s", "bytes"

_SIZES = {"": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_DURATIONS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


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
            "What to do when the GPU is lost while running: end with an error, or go on upon the CPU and say so.",
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
    drain_timeout: Annotated[
        float,
        _about("How long a stop waits for work in flight.", "less than any service manager's", unit=SECONDS, ge=0),
    ] = 10.0
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
            "Policy of a bundle in place of its own: a table [policy.NAME] of the file.",
            "none: each bundle's own",
            flag="-",
        ),
    ] = {}
    given: dict[str, str] = {}

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
    rows = (_row(field, hints[field.name]) for field in msgspec.structs.fields(Settings) if field.name != "given")
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


def find_file(chosen: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the settings file: the chosen one, ``$NSFWD_CONFIG``, else the system's where it exists, else None."""
    if chosen is not None:
        return chosen
    if environ.get("NSFWD_CONFIG"):
        return Path(environ["NSFWD_CONFIG"])
    return SYSTEM_FILE if SYSTEM_FILE.exists() else None


def load_settings(
    file: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Merge file < environment < flags into checked settings.

    Args:
        file: a TOML file, None for none (``find_file`` looks in the usual places).
        environ: variables; the process's own when left out.
        flags: setting name -> value as the flag gave it; None values count as not given.

    Raises:
        SettingsError: a name is unknown or a value is wrong; the message names file and key, variable, or flag.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for source in (_from_file(file), _from_environ(environ), _from_flags(flags or {})):
        for name, (value, where) in source.items():
            values[name] = _converted(TABLE[name], value, where)
            given[name] = where
    if not values.get("cache_dir"):
        values["cache_dir"] = _cache_dir(environ)
    return Settings(**values, given=given)


_Source = dict[str, tuple[Any, str]]
"""Setting name -> value as given, and where it was given."""


def _from_file(file: Path | None) -> _Source:
    if file is None:
        return {}
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from error
    for name in table:
        if name not in TABLE:
            raise SettingsError(f'{file}: unknown setting "{name}"{_hint(name, list(TABLE))}')
    return {name: (value, f"{file}, key {name}") for name, value in table.items()}


def _from_environ(environ: Mapping[str, str]) -> _Source:
    variables = {row.variable: row for row in TABLE.values() if row.flag}
    found: _Source = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        if variable not in variables:
            raise SettingsError(f"unknown environment variable {variable}{_hint(variable, list(variables))}")
        row, text = variables[variable], environ[variable]
        found[row.name] = (_words(text, variable) if row.many else text, variable)
    return found


def _words(text: str, where: str) -> list[str]:
    """Split a list in a variable as a shell would, so that names may hold spaces."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from error


def _from_flags(flags: Mapping[str, Any]) -> _Source:
    return {name: (value, f"--{TABLE[name].flag}") for name, value in flags.items() if value is not None}


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else "; see nsfwd config show"


def _converted(row: Setting, value: Any, where: str) -> Any:
    """Return ``value`` as the setting's type, or raise SettingsError naming ``where``."""
    try:
        if isinstance(value, str) and row.unit in (BYTES, SECONDS):
            value = _quantity(value, row.unit)
        result = msgspec.convert(value, row.kind, strict=not isinstance(value, str))
        if isinstance(result, float) and not math.isfinite(result):
            raise ValueError("must be finite")
        for item in result if row.name in _ITEM_CHECKS else ():
            value = item
            _ITEM_CHECKS[row.name](item)
    except (msgspec.ValidationError, ValueError) as error:
        reason = str(error).replace("`", "").replace(" - at $", " at ").removesuffix(" at ")
        if row.choices:
            reason = f"expected one of {', '.join(row.choices)}"
        raise SettingsError(f"{where}: {value!r} is refused: {reason[:1].lower()}{reason[1:]}") from error
    return result


def _quantity(text: str, unit: str) -> float | int:
    """Read ``64MiB`` or ``1.5h``."""
    scales: Mapping[str, float] = _SIZES if unit == BYTES else _DURATIONS
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2] not in scales:
        raise ValueError(f"expected a number, or one with a unit of {' '.join(filter(None, scales))}")
    value = float(match[1]) * scales[match[2]]
    return int(value) if unit == BYTES else value


def _cache_dir(environ: Mapping[str, str]) -> str:
    if environ.get("CACHE_DIRECTORY"):
        return environ["CACHE_DIRECTORY"].split(":")[0]
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".cache")
    return str(Path(base) / "nsfwd")


def parse_model(text: str) -> tuple[str, str]:
    """Split ``NAME`` or ``NAME=SHORT`` into both names; without a short name it is the name.

    Raises:
        ValueError: a name is empty or holds something else than letters, digits, dot, dash and underscore.
    """
    name, equals, short = text.partition("=")
    for word in (name, short) if equals else (name,):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", word):
            raise ValueError("expected NAME or NAME=SHORT of letters, digits, dots, dashes and underscores")
    return name, short or name


def _check_root(text: str) -> None:
    if not text.startswith("/") or "\0" in text:
        raise ValueError("a root must be an absolute path")


_ITEM_CHECKS: dict[str, Callable[[str], object]] = {"roots": _check_root, "models": parse_model}
"""Checks of a list's parts. Addresses are read where they are opened (``server.addresses``)."""
