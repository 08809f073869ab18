"""Tells a gain map (how bright each pixel of a picture may shine on a better screen) from a picture of its own.

What a file says of itself is not enough: a second picture that is only called a gain map would be shown by viewers of
stereo pictures, or shine through on a better screen, and be scored by nobody. A real one follows the first picture:
within a small area its values rise and fall with the brightness there.
"""

from __future__ import annotations

from PIL import Image

SIDE = 64
_AREA = 8
"""Both pictures are compared at this size, in areas of so many pixels each way."""

_HIDDEN = 6.0
"""Levels of 255 by which a gain map may differ on average from what follows from the first picture. Another picture
differs by 10 and more, a function of the first one by 1 or 2."""

_OBLONG = 0.02
"""By how much the ratios of width and height may differ: sizes are rounded."""

_MARKS = (b"hdrgainmap", b"hdrgm:")
"""In the XMP block. Source: Apple, HDRGainMapVersion; Adobe and Android, Ultra HDR."""


def marked(image: Image.Image) -> bool:
    """Tell whether a picture is called a gain map."""
    xmp = image.info.get("xmp")
    return isinstance(xmp, bytes) and any(word in xmp.lower() for word in _MARKS)


def small(image: Image.Image) -> Image.Image:
    """Decode a JPEG as a small grey picture; ``image`` is spoilt for any other use."""
    vars(image)["decoderconfig"] = ()  # of the picture decoded before, which would forbid a draft of this one
    image.draft("L", (SIDE, SIDE))
    return image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)


def alike(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Tell whether two sizes have the same ratio of width and height."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1.0) <= _OBLONG


def follows(first: Image.Image, second: Image.Image) -> bool:
    """Tell whether a picture holds nothing that the first does not show.

    Args:
        first, second: as ``small`` gave them.

    Source: K. He and others, "Guided image filtering": a straight line in each area.
    """
    left = 0.0
    for top in range(0, SIDE, _AREA):
        for start in range(0, SIDE, _AREA):
            box = (start, top, start + _AREA, top + _AREA)
            left += _unexplained(first.crop(box).tobytes(), second.crop(box).tobytes())
    return left <= _HIDDEN**2 * SIDE**2


def _unexplained(guide: bytes, values: bytes) -> float:
    """Sum the squares of what a straight line over ``guide`` leaves of ``values``."""
    count = len(guide)
    middle, mean = sum(guide) / count, sum(values) / count
    spread = sum((one - middle) ** 2 for one in guide)
    together = sum((one - middle) * (other - mean) for one, other in zip(guide, values, strict=True))
    total = sum((other - mean) ** 2 for other in values)
    return total - together**2 / spread if spread else total
