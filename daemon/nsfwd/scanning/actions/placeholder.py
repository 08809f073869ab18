"""The picture that may lie where a file was taken away: small, grey, the same for all, made by code.

Its digest is known, so that it is never acted upon itself and can be told from a file that somebody put there since.
"""

from __future__ import annotations

import hashlib
import struct
import zlib

SIDE = 64
"""Pixels; above the daemon's smallest side, so that it is an image like any other."""

_EDGE, _FIELD = 96, 192


def _rows() -> bytes:
    """Grey with a darker frame and diagonal: nobody takes it for the picture that was here."""
    rows = bytearray()
    for y in range(SIDE):
        rows.append(0)  # no filter
        for x in range(SIDE):
            dark = min(x, y) < 2 or max(x, y) >= SIDE - 2 or abs(x - y) < 2
            rows.append(_EDGE if dark else _FIELD)
    return bytes(rows)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _stored(data: bytes) -> bytes:
    """As zlib stores without compressing: compressors differ between versions, and the digest must not."""
    block = struct.pack("<BHH", 1, len(data), len(data) ^ 0xFFFF) + data
    return b"\x78\x01" + block + struct.pack(">I", zlib.adler32(data))


PICTURE = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0))
    + _chunk(b"IDAT", _stored(_rows()))
    + _chunk(b"IEND", b"")
)
"""A PNG of some 4 KiB. Browsers and viewers go by content, so it shows under a name that ends in .jpg as well."""

DIGEST = hashlib.sha256(PICTURE).digest()
