"""Every mode of an image becomes the RGB that a person sees."""

from __future__ import annotations

import math
from typing import Any

import pytest
from PIL import Image

from nsfwd.imaging.colour_modes import BLACK, WHITE, to_rgb, without_blank_alpha
from tests.pictures import photo

Pixel = tuple[int, ...]


def row(mode: str, values: list[Any]) -> Image.Image:
    """An image of one row."""
    image = Image.new(mode, (len(values), 1))
    for at, value in enumerate(values):
        image.putpixel((at, 0), value)
    return image


def seen(image: Image.Image, background: tuple[int, int, int] = WHITE) -> list[Pixel]:
    data = to_rgb(image, background)[0].tobytes()
    return [tuple(data[at : at + 3]) for at in range(0, len(data), 3)]


def grey(*values: int) -> list[Pixel]:
    return [(value, value, value) for value in values]


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("1", [0, 255], grey(0, 255)),
        ("L", [0, 7, 255], grey(0, 7, 255)),
        ("RGB", [(1, 2, 3)], [(1, 2, 3)]),
        ("RGBX", [(1, 2, 3, 9)], [(1, 2, 3)]),
        ("CMYK", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)], [(255, 255, 255), (0, 255, 255), (0, 0, 0)]),
        ("YCbCr", [(255, 128, 128), (0, 128, 128)], grey(255, 0)),
        ("HSV", [(0, 0, 200)], grey(200)),
        ("I;16", [0, 255, 256, 0x4DC8, 65535], grey(0, 0, 1, 0x4D, 255)),
        ("I;16B", [0, 255, 256, 0x4DC8, 65535], grey(0, 0, 1, 0x4D, 255)),
        ("I", [0, 255, 256, 0x4DC8, 65535], grey(0, 0, 1, 0x4D, 255)),
        ("I;16", [0, 1, 1], grey(0, 255, 255)),
        ("I;16", [0, 100, 255], grey(0, 100, 255)),
        ("I;16B", [0, 100, 255], grey(0, 100, 255)),
        ("I;16", [0, 512, 1023], grey(0, 128, 255)),
        ("I;16B", [0, 2048, 4095], grey(0, 128, 255)),
        ("I;16", [0, 2048, 4096], grey(0, 8, 16)),
        ("I", [0, 1], grey(0, 255)),
        ("I", [0, 100, 255], grey(0, 100, 255)),
        ("I", [0, 512, 1023], grey(0, 128, 255)),
        ("I", [0, 2048, 4095], grey(0, 128, 255)),
        ("I", [-100, 0, 100], grey(0, 128, 255)),
        ("I", [0, 1 << 20], grey(0, 255)),
        ("F", [0.0, 0.5, 1.0], grey(0, 128, 255)),
        ("F", [0.0, 100.0, 255.0], grey(0, 100, 255)),
        ("F", [0.0, 0.01, 0.02], grey(0, 128, 255)),
        ("F", [0.0, 4.0, 8.0], grey(0, 128, 255)),
        ("F", [0.0, 32768.0, 65535.0], grey(0, 128, 255)),
        ("F", [-1.0, 0.0, 1.0], grey(0, 128, 255)),
        ("F", [1000.0, 1000.0], grey(0, 0)),
        ("F", [math.nan, 0.0, 0.5, math.inf, 1.0], grey(0, 0, 128, 255, 255)),
        ("F", [math.nan, math.inf], grey(0, 255)),
        ("RGBA", [(9, 9, 9, 255), (10, 20, 30, 255)], [(9, 9, 9), (10, 20, 30)]),
        ("RGBA", [(9, 9, 9, 255), (10, 20, 30, 0)], [(9, 9, 9), (255, 255, 255)]),
        ("RGBA", [(0, 0, 0, 128)], grey(127)),
        ("RGBa", [(0, 0, 0, 128)], grey(127)),
        ("LA", [(0, 0), (0, 255), (100, 255)], grey(255, 0, 100)),
        ("La", [(0, 0), (0, 255), (100, 255)], grey(255, 0, 100)),
    ],
)
def test_modes(mode: str, values: list[Any], expected: list[Pixel]) -> None:
    assert seen(row(mode, values)) == expected


@pytest.mark.parametrize(
    ("mode", "most", "utmost"),
    [("F", 1.0, 3e38), ("F", 255.0, math.inf), ("I", 65535, 1 << 30), ("I;16", 4095, 65535), ("I", 255, 65535)],
)
def test_one_hot_pixel_does_not_make_the_others_black(mode: str, most: float, utmost: float) -> None:
    values = [most * at / 999 for at in range(1000)]
    plain = seen(row(mode, [value if mode == "F" else int(value) for value in values]))
    assert plain[-1] == (255, 255, 255)
    values[500] = utmost
    spoilt = seen(row(mode, [value if mode == "F" else int(value) for value in values]))
    assert spoilt[:500] == plain[:500]
    assert spoilt[501:] == plain[501:]


def test_an_alpha_channel_that_hides_everything_may_be_left_out() -> None:
    assert without_blank_alpha(row("RGBA", [(1, 2, 3, 0), (4, 5, 6, 0)])).tobytes() == bytes([1, 2, 3, 4, 5, 6])
    for kept in (row("RGBA", [(1, 2, 3, 0), (4, 5, 6, 1)]), row("RGB", [(0, 0, 0)]), row("L", [0])):
        assert without_blank_alpha(kept) is kept


def test_transparency_shows_the_background() -> None:
    image = row("RGBA", [(10, 20, 30, 0)])
    assert seen(image, BLACK) == grey(0)
    assert seen(image, (1, 2, 3)) == [(1, 2, 3)]


def palette(transparency: int | bytes | None = None) -> Image.Image:
    image = row("P", [0, 1, 2])
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    ("transparency", "expected"),
    [
        (None, [(10, 20, 30), (40, 50, 60), (70, 80, 90)]),
        (1, [(10, 20, 30), (255, 255, 255), (70, 80, 90)]),
        (b"\xff\xff\x00", [(10, 20, 30), (40, 50, 60), (255, 255, 255)]),
    ],
)
def test_palettes(transparency: int | bytes | None, expected: list[Pixel]) -> None:
    assert seen(palette(transparency)) == expected


@pytest.mark.parametrize(
    ("mode", "values", "key", "expected"),
    [
        ("L", [5, 6], 6, grey(5, 255)),
        ("RGB", [(1, 2, 3), (4, 5, 6)], (4, 5, 6), [(1, 2, 3), (255, 255, 255)]),
        ("I;16", [0x4500, 0x4600], 0x4600, grey(0x45, 255)),
    ],
)
def test_a_colour_that_counts_as_transparent(mode: str, values: list[Any], key: Any, expected: list[Pixel]) -> None:
    image = row(mode, values)
    image.info["transparency"] = key
    assert seen(image) == expected


def test_compositing_does_not_alter_what_is_opaque() -> None:
    picture = photo(5, (40, 30))
    layered = picture.convert("RGBA")
    assert to_rgb(layered, BLACK)[0].tobytes() == picture.tobytes()
    layered.putpixel((0, 0), (0, 0, 0, 0))
    composed, _ = to_rgb(layered, WHITE)
    assert composed.tobytes()[3:] == picture.tobytes()[3:]
