"""The arithmetic of measuring: percentiles, medians of ratios, tables. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

Row = Mapping[str, object]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all values do not exceed (nearest rank).

    Args:
        share: 0.5 for the median of an odd count, 0.99 for p99.

    Raises:
        ValueError: there are no values, or ``share`` is outside 0..1; the caller's defect.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError(f"no percentile {share} of {len(values)} values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle value; of an even count, the mean of the two in the middle.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no median of no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios round by round: a slow minute of the machine hits both sides of one ratio alike.

    Raises:
        ValueError: the rounds do not match; the caller's defect.
    """
    return median([mine / other for mine, other in zip(ours, theirs, strict=True)])


def growth(values: Sequence[float]) -> float:
    """How much the last value is above the first, as a share of the first."""
    return values[-1] / values[0] - 1.0


def spelled(value: object) -> str:
    """A cell: three significant digits, and whole numbers from a hundred up."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table; the columns are the keys in order of first appearance."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([spelled(row.get(key)) for key in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
