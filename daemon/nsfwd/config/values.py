"""Conversion of one value to the type of its setting: parses units, checks type and range, and the items of lists.

An invalid value is one line that names the file and key, variable or flag. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import msgspec

from nsfwd.config.peers import read_peers
from nsfwd.config.table import BYTES, SECONDS, Setting
from nsfwd.errors import SettingsError
from nsfwd.quantities import parse_duration, parse_size

_PARSERS: dict[str, Callable[[str], float]] = {BYTES: parse_size, SECONDS: parse_duration}


def converted(row: Setting, value: Any, where: str) -> Any:
    """Return ``value`` as the setting's type.

    Args:
        where: the file and key, variable or flag that gave it.

    Raises:
        SettingsError: the value is invalid; the message names ``where``.
    """
    try:
        if row.name in _TABLES:
            return _TABLES[row.name](value)
        if isinstance(value, str) and row.unit in _PARSERS:
            value = _PARSERS[row.unit](value)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None
    try:
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
        raise SettingsError(f"{where}: invalid value {value!r}: {reason[:1].lower()}{reason[1:]}") from error
    return result


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
"""Checks of a list's items. Addresses are parsed where they are opened (``server.listen_spec``)."""

_TABLES: dict[str, Callable[[Any], Any]] = {"peers": read_peers}
"""Settings that are tables of their own -> the function that parses them and names the wrong row."""
