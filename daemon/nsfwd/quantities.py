"""Durations, sizes and counts as people write them: one grammar for settings, flags, help and messages.

A duration is one number with a unit or several (``90s``, ``1.5 h``, ``1h30m``), or a number alone, in seconds. Units:
``ms``, ``s``, ``m`` or ``min``, ``h``, ``d``, ``w``, ``y`` of 365 days. A size is one number, alone or with a unit:
``B``, ``KiB``, ``MiB``, ``GiB``, ``kB``, ``MB``, ``GB``. Spaces between numbers and units do not count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

DAY = 86400.0

_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY, "y": 365 * DAY}
_SIZES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "kB": 10**3, "MB": 10**6, "GB": 10**9}

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PART = re.compile(rf"\s*({_NUMBER})\s*([A-Za-z]+)\s*")


def parse_duration(text: str) -> float:
    """Return the seconds that a duration stands for.

    Raises:
        ValueError: the text is not a duration; the message shows how to write one.
    """
    seconds = _parse(text, _DURATIONS, most=math.inf)
    if seconds is None:
        raise ValueError(f"invalid duration {text!r}: write 90 (seconds), 1h30m or 2d")
    return seconds


def parse_size(text: str) -> int:
    """Return the bytes that a size stands for.

    Raises:
        ValueError: the text is not a size; the message shows how to write one.
    """
    size = _parse(text, _SIZES, most=1)
    if size is None:
        raise ValueError(f"invalid size {text!r}: write 65536 (bytes), 64MiB or 2GB")
    return int(size)


def _parse(text: str, units: Mapping[str, float], *, most: float) -> float | None:
    """Return the sum of at most ``most`` numbers with units, or a number alone; None for any other text."""
    if re.fullmatch(rf"\s*{_NUMBER}\s*", text):
        total = float(text)
    else:
        parts = _PART.findall(text)
        if not 0 < len(parts) <= most or _PART.sub("", text) or any(unit not in units for _, unit in parts):
            return None
        total = math.fsum(float(number) * units[unit] for number, unit in parts)
    return total if math.isfinite(total) else None


def format_duration(seconds: float) -> str:
    """Write a duration in its two largest units: ``1h 30m``."""
    left, parts = round(seconds), []
    for unit in ("d", "h", "m", "s"):
        number, left = divmod(left, round(_DURATIONS[unit]))
        parts += [f"{number}{unit}"] * (number > 0)
    return " ".join(parts[:2]) or "0s"


def format_size(size: int) -> str:
    """Write a size in the largest unit that needs no fraction: ``8 MiB``."""
    unit = next((unit for unit in ("GiB", "MiB", "KiB") if size >= _SIZES[unit] and size % _SIZES[unit] == 0), "")
    return f"{size // _SIZES[unit]} {unit}" if unit else f"{size} bytes"


def format_count(number: int) -> str:
    """Write a count in three or four digits: 950, 12.3 k, 1.2 M."""
    for unit, size, scale in (("M", 1_000_000, 1_000_000), ("k", 10_000, 1000)):
        if number >= size:
            return f"{number / scale:.1f} {unit}"
    return str(number)
