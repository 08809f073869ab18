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


def _high_bytes(image: Image.Image) -> Image.Image:
    """16-bit grey to 8: the high byte, which is what an 8-bit file made from the same picture holds."""
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey = image.convert("I")
        seen = grey.point([0 if value == key else 255 for value in range(_DEEP + 1)], "L")
        return Image.merge("LA", (_take_high(image), seen))
    return _take_high(image)


def _take_high(image: Image.Image) -> Image.Image:
    high = 0 if image.mode == "I;16B" else 1
    return Image.frombytes("L", image.size, image.tobytes()[high::2])


def _from_integers(image: Image.Image) -> Image.Image:
    """32-bit integers: 16-bit values where they fit (how many a file stores them), else spread over their range."""
    low, high = _range(image)
    if low >= 0 and high <= _DEEP:
        return _take_high(image.convert("I;16"))
    return _spread(image.convert("F"), low, high)


def _from_floats(image: Image.Image) -> Image.Image:
    """Floats: 0 to 1 and 0 to 255 are taken for what they are, any other range is spread."""
    low, high = _range(image)
    for most in (1.0, 255.0):
        if low >= 0.0 and high <= most:
            return _spread(image, 0.0, most)
    return _spread(image, low, high)


def _range(image: Image.Image) -> tuple[float, float]:
    """Tell the least and the greatest value, but for the utmost few and what is not a number.

    One pixel of 1e30, or of infinity, must not make all others black.
    """
    some = image.resize((min(image.width, _SAMPLED), min(image.height, _SAMPLED)), Image.Resampling.NEAREST)
    stored = struct.unpack(f"={some.width * some.height}{_WORDS[image.mode]}", some.tobytes())
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
    "I;16": _high_bytes,
    "I;16L": _high_bytes,
    "I;16N": _high_bytes,
    "I;16B": _high_bytes,
    "I": _from_integers,
    "F": _from_floats,
    "LAB": colour.from_lab,
}
"""Modes that Pillow would clip, or not convert at all, and what is done with them first."""
