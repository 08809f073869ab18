"""Which colours a file says its values are, and which of several statements counts: as browsers decide it.

Reads headers, decodes nothing. How a statement becomes sRGB is ``colour``'s business.

Source: PNG specification, third edition, section 4.3 (precedence); ICC.1; BITMAPV5HEADER; ISO/IEC 14496-12, 12.1.5.
Where these leave room, what Chromium 156 shows.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, cast

from PIL import Image

from nsfwd.imaging import boxes, cicp, colour, icc

_USUAL_GAMMA = 1 / 2.2
_CLOSE = 0.05
"""With sRGB's primaries, gammas that are off by no more mean sRGB. Source: libpng, ``PNG_GAMMA_THRESHOLD``."""

_V5_BYTES = 124
_PROFILE_EMBEDDED = 0x4D424544
"""Size of the one BMP header that may name a profile, and the word ``MBED`` in its field of the colour space."""


def conversion(image: Image.Image, form: str, source: BinaryIO) -> colour.Conversion | None:
    """Find the way to sRGB of a picture that is opened, but not loaded: what stands behind its pixels does not count.

    Args:
        form: as ``formats.FORMATS`` names it.
        source: the file behind it; where it stands afterwards does not matter.

    Returns:
        None where there is nothing to convert.
    """
    if form == "png":
        found = _of_png(image.info)
    elif form == "bmp":
        found = colour.embedded(_profile_of_bmp(source))
    else:
        found = colour.embedded(image.info.get("icc_profile")) or _of_code_points(image, form, source)
    return found if found is not None and not found.plain and found.serves(image.mode) else None


def _of_png(info: dict[str | tuple[int, int], object]) -> colour.Conversion | None:
    """Take the first of cICP, iCCP, sRGB and gAMA with cHRM. A cHRM alone says nothing, as to browsers."""
    points = info.get("cicp")
    if isinstance(points, bytes):
        found = colour.embedded(cicp.profile(points[0], points[1]))
        if found is not None:
            return found
    found = colour.embedded(info.get("icc_profile"))
    if found is not None or "srgb" in info:
        return found
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or gamma <= 0.0:
        return None
    chromaticities = cast(icc.Chromaticities, info.get("chromaticity", icc.BT709))
    found = colour.embedded(icc.profile(chromaticities, icc.srgb_curve()))
    if abs(gamma / _USUAL_GAMMA - 1.0) <= _CLOSE and found is not None and found.plain:
        return found
    return colour.embedded(icc.profile(chromaticities, icc.gamma_curve(1.0 / gamma)))


def _profile_of_bmp(source: BinaryIO) -> bytes | None:
    """Read the profile behind a BMP. Its fields for primaries and gamma are not looked at, as by browsers."""
    source.seek(14)
    header = source.read(_V5_BYTES)
    if len(header) < _V5_BYTES or struct.unpack_from("<I", header)[0] != _V5_BYTES:
        return None
    if struct.unpack_from("<I", header, 56)[0] != _PROFILE_EMBEDDED:
        return None
    start, size = struct.unpack_from("<II", header, 112)
    if size > colour.PROFILE_BYTES:
        return None
    source.seek(14 + start)
    return source.read(size)


def _of_code_points(image: Image.Image, form: str, source: BinaryIO) -> colour.Conversion | None:
    """Take the code points of an AVIF or HEIC. Those of television mean sRGB here, and unknown primaries BT.709's."""
    if form == "avif":
        points = boxes.code_points(source)
    elif form == "heif":
        nclx = image.info.get("nclx_profile") or {}
        points = nclx.get("color_primaries", 0), nclx.get("transfer_characteristics", 0)
    else:
        return None
    if points is None:
        return None
    primaries, transfer = (int(point) for point in points)
    transfer = cicp.SRGB if transfer in cicp.VIDEO or transfer == cicp.UNSPECIFIED else transfer
    return colour.embedded(cicp.profile(primaries if primaries in cicp.PRIMARIES else 1, transfer))
