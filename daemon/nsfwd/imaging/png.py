"""The chunks of a PNG, taken as viewers take them: what helps little costs nothing when it is broken.

Pillow gives up a picture for the sake of a comment that is too long, and keeps comments under names of its own: one
called ``transparency`` would be taken for the colour that is transparent. Here text is passed over, an ancillary chunk
that is wrong is as good as none (also one whose checksum is), of the chunks that say what colours the values are those
count that browsers look at, and the transparent colour means what libpng makes of it. The chunks of an animation
are its frames, and stay as strict as Pillow has them. Importing this module makes Pillow read all PNGs so.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from PIL import ImageFile, PngImagePlugin

from nsfwd.imaging.colour import PROFILE_BYTES

_TEXT = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_FRAMES = frozenset((b"acTL", b"fcTL", b"fdAT"))
_COLOURS = {b"cICP": 4, b"iCCP": 0, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""Chunk that says what colours the values are -> its length, 0 for any."""

_INTENTS = 4
_ANCILLARY = 0x20
"""Set in the first letter of a chunk that a reader may do without. Source: PNG specification, section 5.4."""

_SHALLOW = {"L;2": (0x03, 0x55), "L;4": (0x0F, 0x11), "L": (0xFF, 1)}
"""Raw mode -> the bits of a transparent grey that count, and what makes 8 bits of them."""


def _optional(name: bytes) -> bool:
    return bool(name[0] & _ANCILLARY) and name not in _FRAMES


class Chunks(PngImagePlugin.PngStream):
    """Reads chunk by chunk, in Pillow's stead."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        """Read one chunk.

        Raises:
            AttributeError: it is unknown, or text: Pillow then skips it.
            OSError: the file ends in it.
            Exception: as Pillow's, when it is broken and the picture cannot do without it.
        """
        if cid in _TEXT:
            raise AttributeError
        self._before = dict(self.im_info)
        if not _optional(cid):
            return super().call(cid, pos, length)
        if cid in _COLOURS and not self._counts(cid, length):
            raise AttributeError
        try:
            data = super().call(cid, pos, length)
        except (ValueError, IndexError, SyntaxError, struct.error):
            return b""  # read to its end, but of no use
        if cid in _COLOURS:
            self.im_info.update(self._before)  # of several the first counts
        return data

    def crc(self, cid: bytes, data: bytes) -> None:
        """Read the checksum. Where it is wrong, a chunk that the picture can do without is as good as none."""
        try:
            super().crc(cid, data)
        except SyntaxError:
            if not _optional(cid):
                raise
            self.im_info.clear()
            self.im_info.update(self._before)

    def _counts(self, cid: bytes, length: int) -> bool:
        """Tell whether browsers look at a chunk of colours: it has its length, and stands before the pixels."""
        return not self.im_tile and length == (_COLOURS[cid] or length)

    def chunk_cICP(self, pos: int, length: int) -> bytes:
        """Read code points; those for values that are no RGB of full range do not count."""
        data: bytes = ImageFile._safe_read(self.fp, length)  # type: ignore[arg-type]
        if data[2:] == b"\0\1":
            self.im_info.setdefault("cicp", data)
        return data

    def chunk_sRGB(self, pos: int, length: int) -> bytes:
        """Read the intent; one that does not exist does not count."""
        data = super().chunk_sRGB(pos, length)
        if data[0] >= _INTENTS:
            del self.im_info["srgb"]
        return data

    def chunk_tRNS(self, pos: int, length: int) -> bytes:
        """Read what is transparent: a colour has as many bits as the file stores, and Pillow's pixels have 8 or 16."""
        data = super().chunk_tRNS(pos, length)
        key = self.im_info.get("transparency")
        if isinstance(key, int) and self.im_rawmode in _SHALLOW:
            bits, factor = _SHALLOW[self.im_rawmode]
            self.im_info["transparency"] = (key & bits) * factor
        elif isinstance(key, tuple):
            shift = 8 if self.im_rawmode == "RGB;16B" else 0  # of 16 bits Pillow keeps the high ones
            self.im_info["transparency"] = tuple(part >> shift & 0xFF for part in key)
        return data

    def chunk_eXIf(self, pos: int, length: int) -> bytes:
        """Read an EXIF block; of several the first counts, as in libpng."""
        first = self.im_info.get("exif")
        data = super().chunk_eXIf(pos, length)
        if first is not None:
            self.im_info["exif"] = first
        return data


def open_png(source: BinaryIO) -> PngImagePlugin.PngImageFile:
    """Open a PNG; nothing is decoded yet."""
    return PngImagePlugin.PngImageFile(source)


PngImagePlugin.MAX_TEXT_CHUNK = PROFILE_BYTES  # bounds the profile too, the only one left that is compressed
vars(PngImagePlugin)["PngStream"] = Chunks
