"""ICC profiles: the same colours whatever the profile they are written in."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image, ImageCms

from nsfwd.bundles.manifest import Recipe
from nsfwd.imaging.colour import PROFILE_BYTES, embedded, to_srgb
from nsfwd.imaging.preprocess import decode
from nsfwd.ipc.messages import ImageLimits
from tests import pictures

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _tag(kind: bytes, body: bytes) -> bytes:
    return kind + bytes(4) + body


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def swapped() -> bytes:
    """A small RGB profile of gamma 2.2 whose red and green primaries are exchanged against sRGB's."""
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    curve = _tag(b"curv", struct.pack(">IHxx", 1, round(2.2 * 256)))
    name = b"swapped\0"
    tags = {
        b"desc": _tag(b"desc", struct.pack(">I", len(name)) + name + bytes(79)),
        b"wtpt": _tag(b"XYZ ", _fixed(0.9642, 1.0, 0.8249)),
        b"rXYZ": _tag(b"XYZ ", _fixed(*green)),
        b"gXYZ": _tag(b"XYZ ", _fixed(*red)),
        b"bXYZ": _tag(b"XYZ ", _fixed(*blue)),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for tag, body in tags.items():
        body += bytes(-len(body) % 4)
        table += tag + struct.pack(">II", start + len(data), len(body))
        data += body
    size = start + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"test", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def test_another_profile_is_carried_over() -> None:
    (red, green, blue) = to_srgb(pictures.solid((200, 30, 60)), embedded(swapped(), "RGB")).getpixel((0, 0))  # type: ignore[misc]
    assert abs(red - 30) < 12
    assert abs(green - 200) < 6
    assert abs(blue - 60) < 12


@pytest.mark.parametrize(
    "profile", [None, b"", b"nonsense", SRGB, SRGB[:200], swapped()[:150], b"x" * (PROFILE_BYTES + 1), "text"]
)
def test_srgb_and_broken_profiles_change_nothing(profile: object) -> None:
    picture = pictures.photo(1, (32, 32))
    assert to_srgb(picture, embedded(profile, "RGB")).tobytes() == picture.tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_profile_of_a_file_counts(form: str) -> None:
    content = pictures.encoded(pictures.solid((200, 30, 60)), form, icc_profile=swapped())
    limits = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20, min_side=1, max_frames=1, memory=1 << 30)
    data = decode(io.BytesIO(content), Recipe(width=8, height=8), limits).data
    assert abs(data[0] - 30) < 16
    assert abs(data[1] - 200) < 16


def test_a_profile_of_another_colour_space_is_left_alone() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture = Image.new("RGB", (8, 8), (1, 2, 3))
    assert to_srgb(picture, embedded(lab, "RGB")).tobytes() == picture.tobytes()
