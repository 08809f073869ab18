"""A real browser shows the colours that the decoder gives."""

from __future__ import annotations

from tests import coloured
from tests.apps.shown import shown

OFF = 2
"""Levels of 255 that another version may round otherwise."""


def test_a_browser_shows_what_the_table_says() -> None:
    cases = coloured.cases()
    found = shown({name: (case.content, case.media) for name, case in cases.items()})
    for name in cases:
        picture = found[name]
        assert picture is not None, name
        width, _, pixels = picture
        seen = b"".join(coloured.sampled(pixels, width, 4))
        table = b"".join(coloured.drawn(name))
        assert max(abs(one - other) for one, other in zip(seen, table, strict=True)) <= OFF, name


def test_a_browser_shows_the_part_in_the_corner_and_else_the_whole() -> None:
    picture = coloured.patches()
    corner, middle = coloured.cropped(picture, 32, 16, -32, -48), coloured.cropped(picture, 32, 16)
    found = shown({"corner": (corner, "avif"), "middle": (middle, "avif")})
    sizes = {name: seen and seen[:2] for name, seen in found.items()}
    assert sizes == {"corner": (32, 16), "middle": (64, 64)}
