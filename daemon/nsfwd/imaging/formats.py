"""Which formats are read, and how each is told by its first bytes: one table, never a file's name.

Only the plug-ins named here are ever imported or handed a byte; what no row recognises is not an image to this daemon.
EPS, for one, is a program and not on the list. This module decodes nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import pi_heif.options
from pi_heif.as_plugin import HeifImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.MpoImagePlugin import MpoImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from nsfwd.imaging.png import open_png

pi_heif.options.DECODE_THREADS = 0  # decoders are one a core already
for _option in ("THUMBNAILS", "DEPTH_IMAGES", "AUX_IMAGES"):
    setattr(pi_heif.options, _option, False)  # helpers of a picture; the fewer are parsed, the better

HEAD = 256
"""Bytes looked at to tell a format; the brands of an ISO media file's first box reach furthest."""


def _jpeg(head: bytes) -> bool:
    return head.startswith(b"\xff\xd8\xff")


def _png(head: bytes) -> bool:
    return head.startswith(b"\x89PNG\r\n\x1a\n")


def _gif(head: bytes) -> bool:
    return head.startswith((b"GIF87a", b"GIF89a"))


def _webp(head: bytes) -> bool:
    return head.startswith(b"RIFF") and head[8:12] == b"WEBP"


def _tiff(head: bytes) -> bool:
    return head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def _brands(head: bytes) -> set[bytes]:
    """The brands of an ISO media file, the major and the compatible ones."""
    if head[4:8] != b"ftyp":
        return set()
    size = min(struct.unpack(">I", head[:4])[0], len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}


def _avif(head: bytes) -> bool:
    return not _brands(head).isdisjoint((b"avif", b"avis"))


def _heif(head: bytes) -> bool:
    """HEVC in an ISO media file: what phones call HEIC. AVIF may carry the last two brands as well and comes first."""
    return not _brands(head).isdisjoint(_HEIF_BRANDS)


_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def _bmp(head: bytes) -> bool:
    """``BM`` alone begins many a text: the header behind it must be of a known size too."""
    return head.startswith(b"BM") and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS


_BMP_HEADERS = frozenset((12, 16, 40, 52, 56, 64, 108, 124))


@dataclass(frozen=True, slots=True)
class Format:
    """One allowed format.

    Attributes:
        name: as it is reported.
        matches: whether a file that begins so is of this format.
        plugin: what of Pillow may read it. A MPO is a JPEG with more pictures behind it.
    """

    name: str
    matches: Callable[[bytes], bool]
    plugin: Callable[[BinaryIO], ImageFile]


def _open_jpeg(source: BinaryIO) -> ImageFile:
    """A JPEG, or a MPO if its index can be read; a broken index does not cost the picture in front of it.

    Pillow's own way takes no notice of the further pictures where a note in the first speaks of a gain map.
    """
    image = JpegImageFile(source)
    try:
        index = image._getmp()
        return image if index is None or index[_PICTURES] < 2 else MpoImageFile.adopt(image, index)
    except (OSError, MemoryError):
        raise
    except Exception:
        source.seek(0)
        return JpegImageFile(source)


_PICTURES = 0xB001
"""How many a MPO holds. Source: CIPA DC-007, section 5.2.3."""


FORMATS = (
    Format("jpeg", _jpeg, _open_jpeg),
    Format("png", _png, open_png),
    Format("webp", _webp, WebPImageFile),
    Format("gif", _gif, GifImageFile),
    Format("avif", _avif, AvifImageFile),
    Format("bmp", _bmp, BmpImageFile),
    Format("tiff", _tiff, TiffImageFile),
    Format("heif", _heif, HeifImageFile),
)


def recognise(head: bytes) -> Format | None:
    """Tell the format of a file by its first ``HEAD`` bytes; None for content of no allowed format."""
    for form in FORMATS:
        if form.matches(head):
            return form
    return None


def announced_size(form: Format, head: bytes) -> tuple[int, int] | None:
    """Tell (width, height) from the first bytes where opening a format already takes memory for its pixels.

    That is WebP: its canvas is allocated when its decoder is made, before Pillow can be asked for the size.

    Source: https://developers.google.com/speed/webp/docs/riff_container and RFC 6386, section 9.1.
    """
    if form.name != "webp" or len(head) < 30:
        return None
    chunk = head[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if chunk == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def cut_short(form: Format, source: BinaryIO) -> bool:
    """Tell whether a file is shorter than it says itself, for formats whose decoders cannot tell (WebP, AVIF, HEIC).

    Source: RIFF container as above; ISO/IEC 14496-12, section 4.2 (boxes).
    """
    size = source.seek(0, os.SEEK_END)
    if form.name == "webp":
        source.seek(4)
        return 8 + int.from_bytes(source.read(4), "little") > size
    return form.name in ("avif", "heif") and _boxes_end(source, size) > size


def _boxes_end(source: BinaryIO, size: int) -> int:
    """Follow the outermost boxes and tell where the last one ends."""
    at = 0
    while at < size:
        source.seek(at)
        head = source.read(16)
        if len(head) < 8:
            return size + 1
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0 is "to the end of the file"; anything else is broken rather than short
            return size
        at += length
    return at
