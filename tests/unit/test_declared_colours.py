"""A picture's values are the colours that its file says, as a browser shows them."""

from __future__ import annotations

import io
import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat

from nsfwd.bundles.manifest import FrameSampling, Recipe
from nsfwd.errors import CodedError
from nsfwd.imaging import preprocess
from nsfwd.ipc.child_messages import ImageLimits
from tests import coloured, pictures

LIMITS = ImageLimits(max_bytes=1 << 24, max_pixels=1 << 22, min_side=1, max_frames=1, memory=1 << 30)
WHOLE = Recipe(width=coloured.SIDE, height=coloured.SIDE)
OFF = 4
"""Levels of 255: tables are interpolated, and JPEG and AVIF lose a little."""

CASES = coloured.cases()
HDR = {name for name in CASES if name.endswith((", 16", ", 18"))}
"""Of these the greys are compared: a browser dims bright colours as a whole, and here each channel is dimmed."""


def decoded(content: bytes, recipe: Recipe = WHOLE) -> Image.Image:
    data = preprocess.decode(io.BytesIO(content), recipe, LIMITS).data
    return Image.frombytes("RGB", (recipe.width, recipe.height), data)


@pytest.mark.parametrize("name", CASES)
def test_the_colours_are_those_of_a_browser(name: str) -> None:
    found = coloured.sampled(decoded(CASES[name].content).tobytes(), coloured.SIDE, 3)
    for mine, drawn in list(zip(found, coloured.drawn(name), strict=True))[: 1 if name in HDR else 2]:
        assert max(abs(one - other) for one, other in zip(mine, drawn, strict=True)) <= OFF, (mine, drawn)


# -- two pictures in one ---------------------------------------------------------------------------------------------

SMALL = 56
LARGE = 8 * SMALL


def interleaved(steep: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Two pictures in one: what it shows where values are taken as they are, and where a curve darkens them.

    Args:
        steep: what only the brightest values of each four pixels hold.
    """
    dark = pictures.photo(1, (LARGE, LARGE)).point([value * 215 // 255 for value in range(256)] * 3)
    bright = steep.resize((LARGE, LARGE)).point([230 + value * 25 // 255 for value in range(256)] * 3)
    mask = Image.new("L", (LARGE, LARGE))
    mask.putdata([255 * (x % 2 == 0 and y % 2 == 0) for y in range(LARGE) for x in range(LARGE)])
    return Image.composite(bright, dark, mask), dark


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(max(ImageStat.Stat(ImageChops.difference(one, other)).mean))


def darkened(picture: Image.Image, power: float) -> Image.Image:
    """What a screen shows of values whose light is a power of them."""
    light = [(value / 255) ** power for value in range(256)]
    shown = [12.92 * one if one <= 0.0031308 else 1.055 * one ** (1 / 2.4) - 0.055 for one in light]
    return picture.point([round(255 * value) for value in shown] * 3)


POWER = 44.0
STEEP = coloured.shaper(b"para" + bytes(4) + struct.pack(">HHi", 0, 0, int(POWER) << 16))

FINE: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True, "method": 0}}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "gamma"])
def test_what_is_shrunk_is_what_a_person_sees(form: str) -> None:
    both, _ = interleaved(pictures.photo(2, (SMALL, SMALL)))
    if form == "gamma":
        content = coloured.png(coloured.gamma(1 / POWER), picture=both)
    else:
        content = pictures.encoded(both.copy(), form, icc_profile=STEEP, **FINE.get(form, {}))
    recipe = Recipe(width=SMALL, height=SMALL)
    seen = darkened(both, POWER).resize((SMALL, SMALL), Image.Resampling.BILINEAR)
    found = decoded(content, recipe)
    assert distance(found, seen) < 4
    plain = both.resize((SMALL, SMALL), Image.Resampling.BILINEAR)
    assert distance(darkened(plain, POWER), seen) > 20  # it would be nothing like it if it were shrunk first
    assert distance(plain, seen) > 20


def test_transparent_pixels_are_mixed_as_they_are_shown() -> None:
    picture = coloured.patches("RGBA")
    picture.putalpha(128)
    found = decoded(coloured.png(coloured.gamma(1.0), picture=picture), WHOLE)
    opaque = coloured.drawn("png: gamma 1")[0]
    half = coloured.sampled(found.tobytes(), coloured.SIDE, 3)[0]
    assert all(abs(one - (255 + other) / 2) < 3 for one, other in zip(half, opaque, strict=True))


def test_a_table_finer_than_its_simplified_form_is_applied_as_it_is() -> None:
    """Every second step of the table is the negative: a coarse copy of it would show none, or nothing else."""
    steps = 49
    fine = bytearray(coloured.table(negative=False, steps=steps))
    inverse = coloured.table(negative=True, steps=steps)
    start = 48 + 3 * 256
    for at in range(steps**3):
        if any(part % 2 for part in (at // steps**2, at // steps % steps, at % steps)):
            fine[start + 3 * at : start + 3 * at + 3] = inverse[start + 3 * at : start + 3 * at + 3]
    profile = coloured.profile(b"RGB ", b"Lab ", {b"A2B0": bytes(fine)})
    step = 255 / (steps - 1)
    odd = (round(step * 15), round(step * 31), round(step * 39))
    content = pictures.encoded(pictures.solid(odd, (coloured.SIDE, coloured.SIDE)), "PNG", icc_profile=profile)
    found = decoded(content).getpixel((9, 9))
    assert isinstance(found, tuple)
    assert all(abs(one - (255 - other)) < 12 for one, other in zip(found, odd, strict=True)), found


# -- the part of an AVIF that is meant to be shown --------------------------------------------------------------------

RED, BLUE = (255, 0, 0), (0, 0, 255)


def framed(box: tuple[int, int, int, int]) -> Image.Image:
    """Red, with a blue part."""
    picture = Image.new("RGB", (64, 64), RED)
    picture.paste(BLUE, box)
    return picture


def blue(pixels: preprocess.Pixels) -> float:
    data = pixels.data
    return sum(at > 128 for at in data[2::3]) / (len(data) // 3)


FILM = Recipe(width=64, height=64, frames=FrameSampling(sample=4))


def views(content: bytes) -> list[preprocess.Pixels]:
    found = [preprocess.decode(io.BytesIO(content), FILM, LIMITS)]
    while found[-1].next:
        wanted = preprocess.WantedView(found[-1].next)
        found.append(preprocess.decode(io.BytesIO(content), FILM, LIMITS, wanted=wanted))
    return found


def test_a_part_in_the_corner_is_all_that_is_seen() -> None:
    (only,) = views(coloured.cropped(framed((0, 0, 32, 16)), 32, 16, -32, -48))
    assert blue(only) > 0.98
    assert (only.frames, only.frame) == (1, 0)


def test_a_part_elsewhere_is_seen_beside_the_whole() -> None:
    for shift, box in ((0, (24, 24, 40, 40)), (16, (32, 24, 48, 40))):
        whole, part = views(coloured.cropped(framed(box), 16, 16, shift))
        assert blue(whole) < 0.1
        assert blue(part) > 0.98
        assert (part.frames, part.frame) == (2, 1)


@pytest.mark.parametrize("box", [(0, 16), (16, 0), (65, 16), (16, 64, 64), (15, 16), (1, 1, -63, -63)])
def test_a_part_that_cannot_be_or_is_too_small_is_none(box: tuple[int, ...]) -> None:
    limits = ImageLimits(max_bytes=1 << 24, max_pixels=1 << 22, min_side=4, max_frames=1, memory=1 << 30)
    content = coloured.cropped(framed((0, 0, 32, 32)), *box)
    found = preprocess.decode(io.BytesIO(content), FILM, limits)
    assert (found.frames, round(blue(found), 1)) == (1, 0.2)


# -- hostile values --------------------------------------------------------------------------------------------------

FIXED = st.integers(0, 0xFFFFFFFF)


@given(gamma=FIXED, ends=st.lists(FIXED, min_size=8, max_size=8))
def test_any_gamma_and_primaries_give_a_picture(gamma: int, ends: list[int]) -> None:
    before = coloured.chunk(b"gAMA", struct.pack(">I", gamma)) + coloured.chunk(b"cHRM", struct.pack(">8I", *ends))
    decoded(coloured.png(before))


@given(ends=st.lists(st.integers(0, 100_000), min_size=8, max_size=8))
def test_any_likely_primaries_give_a_picture(ends: list[int]) -> None:
    decoded(coloured.png(coloured.gamma(0.5) + coloured.chunk(b"cHRM", struct.pack(">8I", *ends))))


@given(points=st.binary(min_size=4, max_size=4))
def test_any_code_points_give_a_picture(points: bytes) -> None:
    decoded(coloured.png(coloured.chunk(b"cICP", points)))


SOUND = coloured.avif(9, 16)
TABLE = coloured.profile(b"RGB ", b"Lab ", {b"A2B0": coloured.table(negative=True)})


@settings(max_examples=30)
@given(seed=st.integers(0, 1 << 32))
def test_any_damage_to_an_avifs_boxes_or_to_a_profile_ends(seed: int) -> None:
    lot = random.Random(seed)
    content = bytearray(SOUND)
    end = content.index(b"mdat")
    for _ in range(3):
        content[lot.randrange(32, end)] = lot.randrange(256)
    profile = bytearray(TABLE)
    for _ in range(3):
        profile[lot.randrange(128, 300)] = lot.randrange(256)
    for damaged in (bytes(content), coloured.png(icc_profile=bytes(profile))):
        try:
            decoded(damaged)
        except CodedError as error:
            assert error.code in {"corrupt", "too_many_pixels"}
