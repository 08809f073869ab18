"""One value on its way into a setting: units are read, types and ranges are checked, parts of lists are looked at.

Whatever is wrong is one line that says where the value stands. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from nsfwd.config.peers import read_peers
from nsfwd.config.table import BYTES, GIB, KIB, MIB, SECONDS, Setting
from nsfwd.errors import SettingsError

_SIZES = {"": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_DURATIONS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def converted(row: Setting, value: Any, where: str) -> Any:
    """Return ``value`` as the setting's type, or raise SettingsError naming ``where``."""
    if row.name in _TABLES:
        try:
            return _TABLES[row.name](value)
        except ValueError as error:
            raise SettingsError(f"{where}: {error}") from None
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
"""Checks of a list's parts. Addresses are read where they are opened (``server.listen_spec``)."""

_TABLES: dict[str, Callable[[Any], Any]] = {"peers": read_peers}
"""Settings that are tables of their own: who reads them names the row that is wrong."""
