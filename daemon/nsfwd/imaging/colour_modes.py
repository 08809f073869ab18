"""Every mode an image may come in, to RGB as a person would see it.

Knows Pillow's modes and nothing of files, recipes or sizes.
"""

from __future__ import annotations

import math
import struct

from PIL import Image

from nsfwd.imaging import colour

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)

_DEEP = 65535
"""Largest value of 16 bits."""

_INTEGERS = (1, 15, 255, 1023, 4095, _DEEP)
"""Greatest values of 1, 4, 8, 10, 12 and 16 bits. What fits into 12 is at most 15 of 255 where it is taken as 16:
viewers that scale by the type show black, others the picture, which must not be missed."""

_FLOATS = (1.0, 255.0)
"""Greatest values that floats are taken to have; where all are less than ``_DARK`` of it, they are spread."""

_DARK = 1 / 17

_SAMPLED = 128
"""Pixels each way from which the range of an image's values is told: sorting them takes some milliseconds."""

_UTMOST = 200
"""One in so many values at either end of a range does not count."""

_WORDS = {"I": "i", "F": "f"}
"""Mode of 32 bits -> how ``struct`` calls its values."""


def to_rgb(image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, bool]:
    """Give the image as RGB, transparency laid on ``background``, and tell whether any pixel really is transparent.

    Values of more than 8 bits are scaled, not clipped. Pixels that are opaque are not altered by the compositing.

    Args:
        image: loaded, of any mode.
        background: colour seen through transparent pixels.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, False
    image = to_eight_bits(image)
    if image.has_transparency_data:
        return _on(image, background)
    return image.convert("RGB"), False


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Give an image of a mode that Pillow would clip, or not convert, in one that it converts; others as they are."""
    return _FIRST[image.mode](image) if image.mode in _FIRST else image


def without_blank_alpha(image: Image.Image) -> Image.Image:
    """Leave out an alpha channel that would hide the whole image: in a BMP it was just not filled in.

    Source: Windows and browsers show a BMP whose alpha is 0 all over as if it had none.
    """
    blank = image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)
    return image.convert("RGB") if blank else image


def _on(image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, bool]:
    layered = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = layered.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return layered.convert("RGB"), False
    below = Image.new("RGB", layered.size, background)
    below.paste(layered, mask=alpha)
    return below, True


def _from_shorts(image: Image.Image) -> Image.Image:
    """16-bit grey to 8, with its transparent value."""
    grey = _from_integers(image)
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return grey
    seen = image.convert("I").point([0 if value == key else 255 for value in range(_DEEP + 1)], "L")
    return Image.merge("LA", (grey, seen))


def _from_integers(image: Image.Image) -> Image.Image:
    """Integers: of as many bits as their values need, else spread over their range.

    Of 16 bits the high byte is taken, which is what an 8-bit file made from the same picture holds.
    """
    low, high = _range(image)
    if low < 0 or high > _DEEP:
        return _spread(image.convert("F"), low, high)
    most = next(most for most in _INTEGERS if high <= most)
    if most == _DEEP:
        return _take_high(image.convert("I;16") if image.mode == "I" else image)
    values = image if image.mode == "I" else image.convert("I")
    return values.point([min(255, (value * 255 + most // 2) // most) for value in range(_DEEP + 1)], "L")


def _take_high(image: Image.Image) -> Image.Image:
    high = 0 if image.mode == "I;16B" else 1
    return Image.frombytes("L", image.size, image.tobytes()[high::2])


def _from_floats(image: Image.Image) -> Image.Image:
    """Floats: 0 to 1 and 0 to 255 are taken for what they are, any other range is spread."""
    low, high = _range(image)
    most = next((most for most in _FLOATS if low >= 0.0 and high <= most), None)
    if most is None:
        return _spread(image, low, high)
    return _spread(image, 0.0, high if 0.0 < high < most * _DARK else most)


def _range(image: Image.Image) -> tuple[float, float]:
    """Tell the least and the greatest value, but for the utmost few and what is not a number.

    One pixel of 1e30, or of infinity, must not make all others black.
    """
    some = image.resize((min(image.width, _SAMPLED), min(image.height, _SAMPLED)), Image.Resampling.NEAREST)
    some = some if some.mode in _WORDS else some.convert("I")
    stored = struct.unpack(f"={some.width * some.height}{_WORDS[some.mode]}", some.tobytes())
    values = sorted(filter(math.isfinite, stored)) or [0]
    utmost = len(values) // _UTMOST
    low, high = values[utmost], values[-1 - utmost]
    return (low, high) if low < high else (values[0], values[-1])


def _spread(image: Image.Image, low: float, high: float) -> Image.Image:
    """Map low..high to 0..255, rounded; what lies beyond is clipped. One value all over is black."""
    factor = 255.0 / (high - low) if high > low else 0.0
    return image.point(lambda value: value * factor + (0.5 - low * factor)).convert("L")


_FIRST = {
    "La": lambda image: image.convert("LA"),
    "I;16": _from_shorts,
    "I;16L": _from_shorts,
    "I;16N": _from_shorts,
    "I;16B": _from_shorts,
    "I": _from_integers,
    "F": _from_floats,
    "LAB": colour.from_lab,
}
"""Modes that Pillow would clip, or not convert at all, and what is done with them first."""
