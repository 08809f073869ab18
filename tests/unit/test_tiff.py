"""The values of a TIFF mean what its tags say, also where Pillow leaves that to others."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from nsfwd.bundles.manifest import Recipe
from nsfwd.imaging import preprocess
from nsfwd.ipc.messages import ImageLimits
from tests import pictures

SIZE = (48, 32)
LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=10**6, min_side=1, max_frames=10, memory=1 << 30)
RECIPE = Recipe(width=SIZE[0], height=SIZE[1])
BITS, PHOTOMETRIC, EXTRA = 258, 262, 338


def decoded(content: bytes) -> bytes:
    return preprocess.decode(io.BytesIO(content), RECIPE, LIMITS).data


def stored(image: Image.Image, tag: int, value: int) -> bytes:
    """The image as a TIFF whose ``tag``, a single number, says ``value``."""
    content = bytearray(pictures.encoded(image, "TIFF"))
    struct.pack_into("<H", content, content.index(struct.pack("<HHI", tag, 3, 1)) + 8, value)
    return bytes(content)


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_white_may_be_zero_at_any_depth(mode: str) -> None:
    grey = pictures.photo(3, SIZE).convert("L")
    wide = grey.convert("I").point(lambda value: value * 257).convert("I;16")
    image = wide if mode == "I;16" else grey.convert("F")
    upright = decoded(stored(image, PHOTOMETRIC, 1))
    assert upright == grey.convert("RGB").tobytes()
    assert decoded(stored(image, PHOTOMETRIC, 0)) == bytes(255 - value for value in upright)


def test_12_bits_are_as_bright_as_16() -> None:
    packed = b"\x80\x08\x00" * (SIZE[0] * SIZE[1] * 2 // 3)  # 0x800, again and again
    image = Image.frombytes("I;16", SIZE, packed)
    assert set(decoded(stored(image, BITS, 12))) == {0x80}


def test_a_fourth_value_is_alpha_only_where_a_tag_says_so() -> None:
    picture = pictures.photo(3, SIZE)
    blank = picture.convert("RGBA")
    blank.putalpha(0)
    content = pictures.encoded(blank, "TIFF")
    assert decoded(content) != picture.tobytes()
    unsaid = content.replace(struct.pack("<HHI", EXTRA, 3, 1), struct.pack("<HHI", EXTRA + 3, 3, 1))
    assert decoded(unsaid) == picture.tobytes()
