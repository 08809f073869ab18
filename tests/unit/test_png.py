"""A PNG is read as viewers read it, whatever its lesser chunks hold."""

from __future__ import annotations

import io
import struct
import zlib

import pytest

from nsfwd.bundles.manifest import Recipe
from nsfwd.errors import CodedError
from nsfwd.imaging import preprocess
from nsfwd.ipc.child_messages import ImageLimits

SIDE = 16
LIMITS = ImageLimits(max_bytes=1 << 26, max_pixels=10**6, min_side=1, max_frames=10, memory=1 << 31)
RECIPE = Recipe(width=SIDE, height=SIDE, background="both")


def chunk(name: bytes, body: bytes, flaw: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ flaw)


def png(row: bytes, *, depth: int = 8, colour: int = 2, before: bytes = b"", behind: bytes = b"") -> bytes:
    """``SIDE`` times the same row of as many pixels."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0)
    data = zlib.compress((b"\0" + row) * SIDE)
    chunks = chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + behind + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def decoded(content: bytes) -> tuple[tuple[int, ...], str]:
    """The first pixel, and what it lies on."""
    pixels = preprocess.decode(io.BytesIO(content), RECIPE, LIMITS)
    return tuple(pixels.data[:3]), pixels.background


RED = b"\xff\0\0"
LONG = zlib.compress(bytes(8 << 20))
USELESS = {
    "a profile that is too long": chunk(b"iCCP", b"p\0\0" + LONG),
    "an empty profile": chunk(b"iCCP", b""),
    "a profile packed otherwise": chunk(b"iCCP", b"p\0\1" + LONG),
    "long text": chunk(b"zTXt", b"t\0\0" + LONG) + chunk(b"iTXt", b"t\0\1\0\0\0" + LONG),
    "text packed otherwise": chunk(b"zTXt", b"t\0\7abc"),
    "much text": chunk(b"tEXt", b"t\0" + bytes(1 << 20)) * 10,
    "a wrong checksum": chunk(b"tEXt", b"t\0text", flaw=1) + chunk(b"abCd", b"unknown", flaw=1),
    "half a resolution": chunk(b"pHYs", b"\0"),
    "half a transparent colour": chunk(b"tRNS", b"\xff"),
    "broken Exif": chunk(b"eXIf", b"Exif?"),
    **{
        f"text called {name}": chunk(b"tEXt", name.encode() + b"\0x")
        for name in ("transparency", "bbox", "interlace", "default_image", "icc_profile", "exif")
    },
}


@pytest.mark.parametrize("what", USELESS)
def test_what_helps_little_costs_nothing_when_it_is_wrong(what: str) -> None:
    assert decoded(png(RED * SIDE, before=USELESS[what])) == ((255, 0, 0), "")
    assert decoded(png(RED * SIDE, behind=USELESS[what])) == ((255, 0, 0), "")


def test_what_a_picture_needs_must_be_right() -> None:
    whole = png(RED * SIDE)
    for broken in (whole.replace(b"IDAT", b"IDaT"), whole[:20] + b"\1" + whole[21:], whole[:-30]):
        with pytest.raises(CodedError, match="corrupt"):
            decoded(broken)
    lost = png(bytes(SIDE), colour=3)  # no palette
    with pytest.raises(CodedError, match="corrupt"):
        decoded(lost)


def test_a_file_that_ends_within_text_is_cut_short() -> None:
    text = chunk(b"tEXt", b"t\0" + bytes(1000))
    with pytest.raises(CodedError, match="truncated"):
        decoded(png(RED * SIDE, before=text)[:500])


@pytest.mark.parametrize(
    ("pixel", "depth", "colour", "key", "hidden"),
    [
        (b"\x80", 8, 0, (0x80,), True),
        (b"\x80", 8, 0, (0x180,), True),  # the low 8 bits count
        (b"\x55", 2, 0, (1,), True),
        (b"\x55", 2, 0, (2,), False),
        (b"\x55", 2, 0, (0x55,), True),  # of which the low 2 bits count
        (b"\x77", 4, 0, (7,), True),
        (b"\x77", 4, 0, (0x77 + 1,), False),
        (b"\xff", 1, 0, (1,), True),
        (b"\x12\x34", 16, 0, (0x1234,), True),
        (b"\x12\x34", 16, 0, (0x1235,), False),
        (RED, 8, 2, (255, 0, 0), True),
        (RED, 8, 2, (255, 0, 1), False),
        (b"\xff\xff\0\0\0\0", 16, 2, (0xFFFF, 0, 0), True),
        (b"\xff\xff\0\0\0\0", 16, 2, (0x12FF, 0, 0), False),
    ],
)
def test_the_transparent_colour_is_one_of_the_files_own_bits(
    pixel: bytes, depth: int, colour: int, key: tuple[int, ...], hidden: bool
) -> None:
    row = pixel * (SIDE * depth * (3 if colour == 2 else 1) // 8 // len(pixel))
    before = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    _, background = decoded(png(row, depth=depth, colour=colour, before=before))
    assert background == ("white" if hidden else "")
