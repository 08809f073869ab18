"""The same stored picture with every way of naming an orientation, and whether it counts.

Red on the left and blue on the right as stored; an orientation of 3 shows blue on the left. Made by code.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

from PIL import Image

RED, BLUE = (255, 0, 0), (0, 0, 255)
SIZE = (64, 64)

TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""Orientation -> how a camera held that way stores an upright scene."""

Entry = tuple[int, int, int, bytes]
SHORT, LONG = 3, 4
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></rdf:RDF></x:xmpmeta>'
)


class Case(NamedTuple):
    """A file, its media type, whether it is shown turned, and whether browsers show it so too."""

    content: bytes
    media: str
    turned: bool
    browser: bool = True


def half_and_half() -> Image.Image:
    picture = Image.new("RGB", SIZE, RED)
    picture.paste(BLUE, (SIZE[0] // 2, 0, *SIZE))
    return picture


def saved(form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    half_and_half().save(out, form, **options)
    return out.getvalue()


def block(*entries: Entry, order: str = "<") -> bytes:
    """An EXIF block with these entries in its first directory."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    rows = (struct.pack(order + "HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return head + b"".join(rows) + bytes(4)


def short(value: int, *, count: int = 1, kind: int = SHORT, order: str = "<") -> Entry:
    return 0x0112, kind, count, struct.pack(order + "HH", value, value if count > 1 else 0)


def long(value: int) -> Entry:
    return 0x0112, LONG, 1, struct.pack("<I", value)


EXIF: dict[str, tuple[bytes, bool]] = {
    "valid": (block(short(3)), True),
    "big-endian": (block(short(3, order=">"), order=">"), True),
    "long": (block(long(3)), False),
    "byte": (block((0x0112, 1, 1, b"\3\0\0\0")), False),
    "undefined": (block((0x0112, 7, 1, b"\3\0\0\0")), False),
    "signed": (block(short(3, kind=8)), False),
    "two values": (block(short(3, count=2)), False),
    "nine": (block(short(9)), False),
    "zero": (block(short(0)), False),
    "first of two counts": (block(short(3), short(1)), True),
    "second of two does not": (block(short(1), short(3)), False),
    "first valid counts": (block(short(9), short(3)), True),
    "first of the right type counts": (block(long(8), short(3)), True),
    "cut": (block(short(3))[:-10], False),
}
"""Name -> EXIF block, and whether it turns the picture, as browsers do it too."""


def jpeg(*segments: bytes) -> bytes:
    content = saved("JPEG", quality=95)
    made = (b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment for segment in segments)
    return content[:2] + b"".join(made) + content[2:]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    content = saved("PNG")
    made = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return content[:33] + b"".join(made) + content[33:]


def tiff(entry: Entry) -> bytes:
    """A TIFF whose orientation is this entry."""
    tags: dict[int, Any] = {0x0112: 3}
    content = saved("TIFF", tiffinfo=tags)
    at = content.index(struct.pack("<HHI", 0x0112, SHORT, 1))
    tag, kind, count, value = entry
    return content[:at] + struct.pack("<HHI", tag, kind, count) + value + content[at + 12 :]


def cases() -> dict[str, Case]:
    """Every file by its name."""
    head, valid, upright = b"Exif\0\0", block(short(3)), block(short(1))
    raw = (head + valid).hex().encode()
    found = {f"jpeg: {name}": Case(jpeg(head + exif), "jpeg", turned) for name, (exif, turned) in EXIF.items()}
    found |= {f"png: {name}": Case(png((b"eXIf", exif)), "png", turned) for name, (exif, turned) in EXIF.items()}
    found |= {
        "jpeg: XMP": Case(jpeg(b"http://ns.adobe.com/xap/1.0/\0" + XMP), "jpeg", turned=False),
        "jpeg: first of two blocks": Case(jpeg(head + valid, head + upright), "jpeg", turned=True),
        "jpeg: second of two blocks": Case(jpeg(head + upright, head + valid), "jpeg", turned=False),
        "jpeg: junk in the first": Case(jpeg(head + b"junk" * 9, head + valid), "jpeg", turned=False),
        "jpeg: other padding": Case(jpeg(b"Exif\0\1" + valid), "jpeg", turned=True),
        "png: XMP": Case(png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)), "png", turned=False),
        "png: named block": Case(png((b"eXIf", head + valid)), "png", turned=False),
        "png: first of two": Case(png((b"eXIf", valid), (b"eXIf", upright)), "png", turned=True),
        "png: second of two": Case(png((b"eXIf", upright), (b"eXIf", valid)), "png", turned=False),
        "png: raw profile": Case(
            png((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n" % (len(raw) // 2) + raw))),
            "png",
            turned=False,
        ),
        # Chromium does not look at the EXIF of a WebP; the systems of Apple do.
        "webp: valid": Case(saved("WEBP", lossless=True, exif=valid), "webp", turned=True, browser=False),
        "webp: XMP": Case(saved("WEBP", lossless=True, xmp=XMP), "webp", turned=False),
        "avif: irot": Case(saved("AVIF", exif=valid), "avif", turned=True),
        "avif: XMP": Case(saved("AVIF", xmp=XMP), "avif", turned=False),
        "tiff: valid": Case(tiff(short(3)), "tiff", turned=True, browser=False),
        "tiff: long": Case(tiff(long(3)), "tiff", turned=False, browser=False),
        "tiff: nine": Case(tiff(short(9)), "tiff", turned=False, browser=False),
        "tiff: XMP": Case(saved("TIFF", tiffinfo={700: XMP}), "tiff", turned=False, browser=False),
    }
    return found
