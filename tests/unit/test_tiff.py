"""The values of a TIFF mean what its tags say, also where Pillow leaves that to others."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from nsfwd.bundles.manifest import Recipe
from nsfwd.imaging import preprocess
from nsfwd.ipc.child_messages import ImageLimits
from tests import pictures

SIZE = (48, 32)
LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=10**6, min_side=1, max_frames=10, memory=1 << 30)
RECIPE = Recipe(width=SIZE[0], height=SIZE[1])
BITS, PHOTOMETRIC, COLOURS, EXTRA = 258, 262, 320, 338


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


def with_table(image: Image.Image, scale: int) -> bytes:
    """The image of a palette as a TIFF whose table of colours has each value times ``scale``."""
    picture = image.copy()
    content = bytearray(pictures.encoded(picture, "TIFF"))
    at = content.index(struct.pack("<HH", COLOURS, 3))
    count, start = struct.unpack_from("<II", content, at + 4)
    parts = image.getpalette() or []
    parts += [0] * (count - len(parts))
    values = [parts[at * 3 + channel] * scale for channel in range(3) for at in range(count // 3)]
    struct.pack_into(f"<{count}H", content, start, *values)
    return bytes(content)


@pytest.mark.parametrize("scale", [1, 256, 257])
def test_a_table_of_colours_may_hold_8_bits(scale: int) -> None:
    image = pictures.photo(5, SIZE).quantize(64)
    assert decoded(with_table(image, scale)) == image.convert("RGB").tobytes()


def test_one_large_value_makes_a_table_of_16_bits() -> None:
    image = Image.new("P", SIZE, 0)
    image.putpalette([10, 20, 30, 255, 255, 255])
    content = with_table(image, 1).replace(struct.pack("<H", 255), struct.pack("<H", 256))
    assert set(decoded(content)) == {0}


@pytest.mark.parametrize("most", [255, 1023, 4095])
@pytest.mark.parametrize(("mode", "photometric"), [("I", 1), ("I;16", 1), ("I;16", 0)])
def test_integers_that_use_a_part_of_their_range_are_seen(mode: str, photometric: int, most: int) -> None:
    grey = pictures.photo(3, SIZE).convert("L")
    grey.paste(255, (0, 0, 8, 8))
    values = grey.convert("I").point(lambda value: value * (most / 255) + 0.5)
    found = decoded(stored(values.convert(mode), PHOTOMETRIC, photometric))
    shown = grey if photometric else grey.point([255 - value for value in range(256)])
    assert max(abs(one - other) for one, other in zip(found, shown.convert("RGB").tobytes(), strict=True)) <= 1
