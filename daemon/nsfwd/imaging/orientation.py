"""Which way up a picture is stored: its EXIF orientation, and what Pillow turns by itself.

Only EXIF proper counts, as in browsers: an orientation in XMP, of another type than EXIF names, or outside 1 to 8 turns
nothing. In AVIF and HEIC the container's own rotation and mirror (irot, imir) count and their EXIF does not. Knows no
recipe.
"""

from __future__ import annotations

import struct

from PIL import Image

_ORIENTATION = 0x0112
_SHORT = 3
"""Tag and type of the orientation. Source: Exif 2.32, section 4.6.4, table 4."""

_ENTRIES = 1024
"""Entries of a directory that are looked at; cameras write some dozen."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> what turns the stored pixels upright."""

_BACK = {**UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""What undoes ``UPRIGHT``."""

LYING = frozenset((5, 6, 7, 8))
"""Orientations that exchange width and height."""


def stored(form: str, image: Image.Image) -> int:
    """Read the orientation of the frame that ``image`` is at, 1 to 8; 1 where the file names none that counts.

    Args:
        form: as ``formats.FORMATS`` names it.
        image: opened; a PNG may carry its orientation behind the pixels, and is read only after them.
    """
    if form == "heif":
        return 1  # libheif has turned it
    if form == "tiff":
        return _of_tags(image)
    if form == "avif":
        return _of_container(image)
    return _of_exif(_block(form, image))


def turns(form: str, image: Image.Image, wanted: int) -> list[Image.Transpose]:
    """Tell what turns loaded pixels upright, in order.

    Args:
        form: as ``formats.FORMATS`` names it.
        image: opened; a TIFF must not be loaded yet, since Pillow then turns it by any orientation it finds.
        wanted: the orientation that counts; 1 leaves the picture as it is stored.
    """
    done = _pillows(image) if form == "tiff" else 1
    if done == wanted:
        return []
    return [table[turn] for table, turn in ((_BACK, done), (UPRIGHT, wanted)) if turn in table]


def _pillows(image: Image.Image) -> int:
    """Give the orientation as Pillow sees it; broken EXIF counts as none and does not cost the picture."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _of_container(image: Image.Image) -> int:
    """Give an AVIF's own rotation and mirror, which Pillow puts into the EXIF block in place of what stands there."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        value = exif.get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _of_tags(page: Image.Image) -> int:
    tags = getattr(page, "tag_v2", None)
    if tags is None or tags.tagtype.get(_ORIENTATION) != _SHORT:
        return 1
    value = tags.get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _block(form: str, image: Image.Image) -> bytes:
    """Give the EXIF block without its name; of several in a JPEG the first, as browsers do."""
    if form == "jpeg":
        for marker, content in getattr(image, "applist", ()):
            if marker == "APP1" and content.startswith(b"Exif\0"):
                return bytes(content[6:])
        return b""
    block = image.info.get("exif", b"")
    return block.removeprefix(b"Exif\0\0") if isinstance(block, bytes) else b""


def _of_exif(block: bytes) -> int:
    """Look through the first directory of an EXIF block; the first orientation that is valid counts."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, at)
        for entry in range(min(count, _ENTRIES)):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", block, at + 2 + 12 * entry)
            if (tag, kind, values) == (_ORIENTATION, _SHORT, 1) and 1 <= value <= 8:
                return int(value)
    except struct.error:
        pass  # the block ends early
    return 1
