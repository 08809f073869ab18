"""Durations and sizes: one grammar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwd.quantities import GIB, KIB, MIB, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("90", 90), ("1.5", 1.5), ("250ms", 0.25), ("2m", 120), ("90min", 5400), ("1h30m", 5400), ("1.5 h", 5400)),
        *(("2d", 172_800), ("1 w", 604_800), ("1y", 31_536_000), (" 1d 12h ", 129_600), ("0", 0)),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "5x", "-5", "1h30", "5H", "1e3", "nan", "inf", "1,5h", "٣h", "9" * 400])
def test_invalid_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid duration '.*': write 90"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("32MiB", 32 * MIB), ("1.5 kB", 1500), ("2GiB", 2 * GIB), ("64 KiB", 64 * KIB)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "5x", "-5", "1MiB 1KiB", "1mib", "1e3", "64 MB of them", "9" * 400])
def test_invalid_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid size '.*': write 65536"):
        parse_size(text)


@given(st.integers(0, 10**15))
def test_written_sizes_are_read_again(size: int) -> None:
    assert parse_size(format_size(size).replace("bytes", "B")) == size


@given(st.integers(0, 10**10))
def test_written_durations_are_read_again_in_two_units(seconds: int) -> None:
    assert 0 <= seconds - parse_duration(format_duration(seconds)) < 3600


def test_sizes_without_fractions() -> None:
    assert [format_size(size) for size in (0, 1000, KIB, 8 * MIB, 1536 * MIB, GIB)] == [
        *("0 bytes", "1000 bytes", "1 KiB", "8 MiB", "1536 MiB", "1 GiB")
    ]
