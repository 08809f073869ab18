"""What the tags of a TIFF say of its values, where Pillow does not heed them. Knows nothing of the file."""

from __future__ import annotations

from PIL import Image, ImageChops

from nsfwd.imaging import colour, colour_modes

_BITS, _PHOTOMETRIC, _COLOURS, _EXTRA = 258, 262, 320, 338
_WHITE_IS_ZERO = 0
"""Tags and a value of one. Source: TIFF 6.0, section 8."""

_SHORT = 12
"""Bits of a value that Pillow unpacks to 16 and leaves a sixteenth as large."""


_FEW = 256
"""A table of colours without a greater value holds 8 bits, not 16. Source: libtiff, ``checkcmap``."""


def as_meant(page: Image.Image) -> Image.Image:
    """Give a page as its tags mean it.

    Grey of more than 8 bits has black as the least value and white as the greatest, a table of colours that holds 8
    bits is taken so, and RGB has an alpha channel only where a tag says that the fourth value is one.

    Args:
        page: loaded; of any mode. What is neither comes back as it is.
    """
    tags = getattr(page, "tag_v2", {})
    if page.mode == "RGBA" and _EXTRA not in tags:
        return page.convert("RGB")
    if page.mode in ("P", "PA"):
        return _with_colours(page, tags.get(_COLOURS, ()))
    if page.mode not in colour.DEEP_GREYS:
        return page
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if page.mode == "I;16" and tags.get(_BITS, ())[:1] == (_SHORT,):
        page = page.point(lambda value: value * 16)
    return ImageChops.invert(colour_modes.to_eight_bits(page)) if inverted else page


def _with_colours(page: Image.Image, table: tuple[int, ...]) -> Image.Image:
    count = len(table) // 3
    if count and max(table) < _FEW:
        page.putpalette(bytes(table[at + count * channel] for at in range(count) for channel in range(3)))
    return page
