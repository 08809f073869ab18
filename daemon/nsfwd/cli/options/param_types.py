"""Types of parameters: numbers, durations, moments and times of day: ``0.5``, ``5h``, ``06:00``. Knows no verb."""

from __future__ import annotations

import math
import re
import time
from contextlib import suppress
from datetime import datetime
from typing import Any

import click

from nsfwd.quantities import parse_duration

RowNumber = click.IntRange(1, (1 << 63) - 1)
"""A number of a row, or a number of rows, within the integers of SQLite."""


class FiniteRange(click.FloatRange):
    """A number within bounds, neither ``inf`` nor ``nan``, which click takes to be within any bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"invalid number {value!r}", param, ctx)
        return number


class Duration(click.ParamType[float]):
    """Seconds, in the grammar of ``nsfwd.quantities``; more than none."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds <= 0:
            self.fail(f"invalid duration {value!r}: it must be longer than 0", param, ctx)
        return seconds


class Clock(click.ParamType[tuple[int, int]]):
    """A time of day such as ``06:00``, as hour and minute."""

    name = "HH:MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return hour and minute."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,2}):(\d{2})", str(value).strip())
        if found is None or int(found[1]) > 23 or int(found[2]) > 59:
            self.fail(f"invalid time of day {value!r}: write 06:00", param, ctx)
        return int(found[1]), int(found[2])


class Moment(click.ParamType[float]):
    """A date, or how long ago, as seconds since 1970."""

    name = "WHEN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds since 1970."""
        if isinstance(value, float):
            return value
        with suppress(ValueError, OverflowError):
            return datetime.fromisoformat(value).timestamp()
        try:
            if value.strip()[-1:].isalpha():  # a number alone could be meant as a year
                return time.time() - parse_duration(value)
            raise ValueError
        except ValueError:
            self.fail(f"invalid time {value!r}: write 2026-01-31, 2026-01-31T22:00, or 7d (ago)", param, ctx)
