"""Numbers, durations and times of day on the command line: ``0.5``, ``5h``, ``06:00``. Knows no verb."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


RowNumber = click.IntRange(1, (1 << 63) - 1)
"""A row's number, or how many rows: what SQLite can compare."""


class FiniteRange(click.FloatRange):
    """A number within bounds; ``nan``, which is within all of them, and ``inf`` are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read one."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


class Duration(click.ParamType[float]):
    """Seconds, written as ``5h``, ``1h30m`` or ``90`` (seconds)."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read one."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        parts = _PART.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        elif re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        else:
            self.fail(f"{text!r} is no duration: write 5h, 1h30m or 90 (seconds)", param, ctx)
        if seconds <= 0:
            self.fail(f"{text!r} is no time at all", param, ctx)
        return seconds


class Clock(click.ParamType[tuple[int, int]]):
    """A time of day as ``06:00``, the next time that it comes."""

    name = "HH:MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read one."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,2}):(\d{2})", str(value).strip())
        if found is None or int(found[1]) > 23 or int(found[2]) > 59:
            self.fail(f"{value!r} is no time of day: write 06:00", param, ctx)
        return int(found[1]), int(found[2])


def spelled(seconds: float) -> str:
    """Spell a duration in its two largest units."""
    left, parts = round(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2]) or "0s"


def many(number: int) -> str:
    """Spell a count as people say it: 950, 12.3 k, 1.2 M."""
    for unit, size in (("M", 1_000_000), ("k", 10_000)):
        if number >= size:
            return f"{number / (size if unit == 'M' else 1000):.1f} {unit}"
    return str(number)
