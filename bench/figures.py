"""The arithmetic of measuring: percentiles, ratios round by round, tables. Pure."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

CROWDED = 0.1
"""Share of the cores that others may have before rates are not to be believed."""

Row = Mapping[str, object]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Spread:
    """The results of many rounds: the median, and the two quartiles between which half of them lie."""

    median: float
    low: float
    high: float


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


def spread(values: Sequence[float]) -> Spread:
    """The median of ``values`` and their quartiles.

    Raises:
        ValueError: there are no values.
    """
    middle = median(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [middle] * 3
    return Spread(middle, low, high)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ratios round by round: both sides of one were measured one right after the other, in the same minute's weather.

    Raises:
        ValueError: the rounds do not match, or there are none; the caller's defect.
    """
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


def interval(ours: Sequence[float], theirs: Sequence[float], *, resamples: int = 4000) -> Spread:
    """The median of the ratios round by round, and the interval in which it lies with 95 % (percentile bootstrap).

    Raises:
        ValueError: the rounds do not match, or there are none; the caller's defect.
    """
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    source = random.Random(len(ratios))
    medians = [median(source.choices(ratios, k=len(ratios))) for _ in range(resamples)]
    return Spread(median(ratios), percentile(medians, 0.025), percentile(medians, 0.975))


def shuffled(items: Sequence[Item], *, seed: int) -> list[Item]:
    """The items in an order that differs each round and is the same in each run: no item is always first."""
    return random.Random(seed).sample(list(items), len(items))


def growth(values: Sequence[float]) -> float:
    """How much the last value is above the first, as a share of the first."""
    return values[-1] / values[0] - 1.0


def spelled(value: object) -> str:
    """A cell: three significant digits, and whole numbers from a hundred up; behind a median its quartiles."""
    if value is None:
        return ""
    if isinstance(value, Spread):
        if value.low == value.high:
            return spelled(value.median)
        return f"{spelled(value.median)} ({spelled(value.low)} to {spelled(value.high)})"
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


def crowded(others: Sequence[float]) -> str:
    """A warning for a table in whose rounds others had much of the cores; empty where they had little.

    Args:
        others: shares of the cores, one a round.
    """
    share = median(others)
    if share < CROWDED:
        return ""
    return f" **Others had {share:.0%} of the cores**: look at processor time here, not at rates and latencies."


def flat(row: Row) -> dict[str, object]:
    """The row as JSON has it: a spread is its median, and beside it ``KEY quartiles``."""
    found: dict[str, object] = {}
    for key, value in row.items():
        if isinstance(value, Spread):
            found[key] = value.median
            found[f"{key} quartiles"] = [value.low, value.high]
        else:
            found[key] = value
    return found


def raised(row: Row) -> dict[str, object]:
    """The value that ``flat`` was given."""
    found = {key: value for key, value in row.items() if not key.endswith(" quartiles")}
    for key, value in row.items():
        if key.endswith(" quartiles") and isinstance(value, list):
            found[key.removesuffix(" quartiles")] = Spread(float(str(row[key.removesuffix(" quartiles")])), *value)
    return found
