"""From the colours of an ICC profile to sRGB, which is what networks were trained on.

A profile is judged by what it does to colours, never by its text. One that changes none costs nothing. One whose
curves are much like sRGB's is applied to the image at its final size, about 3 ms. Any other is applied before the image
is shrunk: shrinking averages values, and under a steep curve the average of two pictures looks like one of them while
a screen shows the other. Knows nothing of files.
"""

from __future__ import annotations

import io
import random
import struct
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageCms

from nsfwd.imaging import cicp

PROFILE_BYTES = 4 * 1024 * 1024
"""Largest profile looked at: those of screens and cameras have a few kilobytes, those of presses one or two million."""

_KEPT_BYTES = 64 * 1024
_KEPT = 8
"""Profiles of up to so many bytes stay ready for the next pictures: at most so many of them."""

_SRGB = ImageCms.createProfile("sRGB")
_LAB = ImageCms.createProfile("LAB")

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile -> mode of the images it is for."""

DEEP_GREYS = frozenset(("I", "F", "I;16", "I;16B", "I;16L", "I;16N"))
"""Modes of grey with more than 8 bits."""

GREYS = DEEP_GREYS | {"1", "L", "LA", "La"}
"""Modes without colour: a profile of grey may belong to them."""

_ALIKE = 3
"""Levels of 255 that no colour may change by where a profile counts as sRGB: the usual ones change them by 1 or 2."""

_GREY_BEND = 20
"""Levels of 255 that a middle grey may be off the straight line between black and white, with the average of both. A
gamma of 1.8 (old Macs) comes to 17, gamma 1 to 60: a picture hidden in averages has at most this contrast."""

_COLOUR_BEND = 48
"""The same for pure colours, which wide gamuts clip: 21 for Display P3 and 36 for Adobe RGB."""

_ENDS = 8
"""Levels of 255 that black and white may be off."""

_LOOKED_AT = 2048
_OFF = 16
_SOME = _LOOKED_AT // 100
"""Pixels compared where tables were simplified; how far one may be off; how many may."""

_TABLES = (b"A2B", b"D2B")
"""Begin the names of tags that hold tables of any shape. Source: ICC.1:2022, section 9.2."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The way from a picture's colours to sRGB.

    Attributes:
        mode: of the images it takes; others are converted to it first.
        plain: it changes nothing that can be seen.
        early: it must be applied before the image is shrunk.
        transform: quick; where there are tables it may have simplified them.
        exact: slow, for tables alone; None where ``transform`` is exact.
    """

    mode: str
    plain: bool
    early: bool
    transform: ImageCms.ImageCmsTransform
    exact: ImageCms.ImageCmsTransform | None = None

    def serves(self, mode: str) -> bool:
        """Tell whether it is for pictures of this mode: those of RGB are for grey pictures as well."""
        if "CMYK" in (self.mode, mode):
            return self.mode == mode
        return mode in GREYS or (self.mode == "RGB" and mode != "LAB")

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """Give the image as RGB, or RGBA where it has transparent pixels: their alpha stays as it is.

        Args:
            image: of a mode that Pillow converts to ``mode``. An RGB image without alpha is changed in place.
        """
        alpha = None
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = image.getchannel("A")
        values = image if image.mode == self.mode else image.convert(self.mode)
        shown = self._tables(values) if self.exact is not None else self._applied(values)
        if alpha is not None:
            shown.putalpha(alpha)
        return shown

    def _applied(self, values: Image.Image) -> Image.Image:
        return self.transform.apply(values, values if values.mode == "RGB" else None)

    def _tables(self, values: Image.Image) -> Image.Image:
        """Apply tables quickly, and exactly if that hides something: compare some pixels, drawn by lot."""
        assert self.exact is not None
        width, height = values.size
        places = [(random.randrange(width), random.randrange(height)) for _ in range(_LOOKED_AT)]
        some = Image.new(values.mode, (_LOOKED_AT, 1))
        some.putdata([values.getpixel(place) for place in places])  # type: ignore[arg-type]
        right, quick = (transform.apply(some).tobytes() for transform in (self.exact, self.transform))
        off = sum(abs(one - other) > _OFF for one, other in zip(right, quick, strict=True))
        return (self.exact if off > _SOME else self.transform).apply(values)


def embedded(profile: object) -> Conversion | None:
    """Read an ICC profile; anything but its bytes is no profile.

    Returns:
        None where it is broken, or of another space than RGB, grey or CMYK: as good as none.
    """
    if not isinstance(profile, bytes) or not 0 < len(profile) <= PROFILE_BYTES:
        return None
    return _kept(profile) if len(profile) <= _KEPT_BYTES else _read(profile)


def from_lab(image: Image.Image) -> Image.Image:
    """Give a CIELAB image (a TIFF may hold one) in sRGB; Pillow has no conversion of its own."""
    return ImageCms.buildTransform(_LAB, _SRGB, "LAB", "RGB").apply(image)


def _read(profile: bytes) -> Conversion | None:
    try:
        tags = _tags(profile)
        declared = _code_points(profile, tags)
        source = ImageCms.ImageCmsProfile(io.BytesIO(declared or profile))
        mode = _MODES[source.profile.xcolor_space.strip()]
        # Browsers take the tables for perceptual intent, or those for colorimetric where a profile has no others.
        relative = b"A2B0" not in tags and b"A2B1" in tags
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC if relative else ImageCms.Intent.PERCEPTUAL
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB", intent)
        if not declared and any(name.startswith(_TABLES) for name in tags):
            exact = ImageCms.buildTransform(source, _SRGB, mode, "RGB", intent, ImageCms.Flags.NOOPTIMIZE)
            return Conversion(mode, plain=False, early=True, transform=transform, exact=exact)
    except MemoryError:
        raise
    except Exception:  # littlecms and its wrapper have many words for a broken profile
        return None
    return _judged(mode, transform)


_kept = lru_cache(maxsize=_KEPT)(_read)


def _tags(profile: bytes) -> dict[bytes, tuple[int, int]]:
    """List the tags of a profile: name -> where it lies and how long it is."""
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = (struct.unpack_from(">4sII", profile, 132 + 12 * at) for at in range(min(count, 100)))
    return {name: (start, size) for name, start, size in entries}


def _code_points(profile: bytes, tags: dict[bytes, tuple[int, int]]) -> bytes | None:
    """Give the profile that a profile's own code points stand for: where they are known they come first.

    Source: ICC.1:2022, section 9.2.17; Chromium 156.
    """
    start = tags.get(b"cicp", (0, 0))[0]
    primaries, transfer = profile[start + 8 : start + 10] if start and start + 10 <= len(profile) else (0, 0)
    return cicp.profile(primaries, transfer)


def _judged(mode: str, transform: ImageCms.ImageCmsTransform) -> Conversion:
    """Tell by ramps what a profile of curves and a matrix does: without tables there is nothing else in it."""
    masks = range(1, 8) if mode == "RGB" else (7,)
    plain, early = True, False
    for mask in masks:
        ramp = [tuple(value * bool(mask & 4 >> at) for at in range(3)) for value in range(256)]
        row = Image.new("RGB", (256, 1))
        row.putdata(ramp)
        shown = transform.apply(row if mode == "RGB" else row.getchannel("R"))
        for at in range(3):
            values = shown.getchannel(at).tobytes()
            plain = plain and all(abs(value - ramp[step][at]) <= _ALIKE for step, value in enumerate(values))
            early = early or _bent(values, grey=mask == 7)
    return Conversion(mode, plain=plain, early=early, transform=transform)


def _bent(values: bytes, *, grey: bool) -> bool:
    """Tell whether a channel along a ramp is far from a straight line, or grey does not go from black to white."""
    low, high = values[0], values[255]
    if grey and (low > _ENDS or high < 255 - _ENDS):
        return True
    most = _GREY_BEND if grey else _COLOUR_BEND
    return any(abs(value - low - (high - low) * step / 255) > most for step, value in enumerate(values))
