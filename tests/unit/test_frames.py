"""Frames: how many, which of them, on what background, and what a viewer sees of each."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pillow_heif import register_heif_opener

from nsfwd.bundles.manifest import FrameSampling, Recipe
from nsfwd.errors import CodedError
from nsfwd.imaging import frames
from nsfwd.imaging.preprocess import Pixels, WantedView, decode
from nsfwd.ipc.child_messages import ImageLimits
from tests import coloured, pictures

SIZE = (48, 32)
LIMITS = ImageLimits(max_bytes=1 << 24, max_pixels=1_000_000, min_side=8, max_frames=50, memory=1 << 30)
register_heif_opener()
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def recipe(sample: int = 50, **keys: Any) -> Recipe:
    return Recipe(width=48, height=32, draft=0, frames=FrameSampling(sample=sample), **keys)


def views(content: bytes, wanted: Recipe, most: int = 0, limits: ImageLimits = LIMITS) -> list[Pixels]:
    """All views of an image, asked for as the server asks for them."""
    found = [decode(io.BytesIO(content), wanted, limits, wanted=WantedView(0, most))]
    while found[-1].next:
        found.append(decode(io.BytesIO(content), wanted, limits, wanted=WantedView(found[-1].next, most)))
    return found


def refusal(content: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(CodedError) as caught:
        views(content, recipe(), limits=limits)
    return caught.value.code


def film(form: str, colours: list[pictures.Colour], **options: Any) -> bytes:
    shots = [pictures.solid(colour, SIZE) for colour in colours]
    if form == "MPO":
        return mpo([pictures.encoded(shot, "JPEG", **options) for shot in shots])
    return pictures.encoded(shots[0], form, save_all=True, append_images=shots[1:], **options)


def mpo(shots: list[bytes]) -> bytes:
    """Put JPEGs into one MPO by hand: Pillow's own writer loses all after the third (CIPA DC-007, section 5)."""
    head = b"MPF\0" + b"II*\0" + struct.pack("<IH", 8, 3)
    head += struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
    head += struct.pack("<HHII", 0xB001, 4, 1, len(shots))
    head += struct.pack("<HHIII", 0xB002, 7, 16 * len(shots), 8 + 2 + 3 * 12 + 4, 0)
    first = len(shots[0]) + 4 + len(head) + 16 * len(shots)
    sizes = [first, *(len(shot) for shot in shots[1:])]
    origin, places, at = 2 + 4 + 4, [0], first
    for size in sizes[1:]:
        places.append(at - origin)
        at += size
    entries = b"".join(struct.pack("<IIIHH", 0, *pair, 0, 0) for pair in zip(sizes, places, strict=True))
    segment = b"\xff\xe2" + struct.pack(">H", 2 + len(head) + len(entries)) + head + entries
    return shots[0][:2] + segment + b"".join([shots[0][2:], *shots[1:]])


def grey(count: int) -> list[pictures.Colour]:
    return [(at * 5, at * 5, at * 5) for at in range(count)]


ANIMATED = {
    "GIF": {"duration": 100, "loop": 0},
    "WEBP": {"lossless": True, "duration": 100},
    "PNG": {"duration": 100},
    "TIFF": {},
    "MPO": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "duration": 100},
    "HEIF": {"quality": 100},
}
"""Format -> how a film is saved as it. A plain endless loop is endless only for a viewer."""


# -- which ----------------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 3000), most=st.integers(1, 1000))
def test_the_spread_is_even_and_holds_first_and_last(count: int, most: int) -> None:
    chosen = frames.spread(count, most)
    assert len(chosen) == min(count, most)
    assert chosen[0] == 0
    assert most == 1 or chosen[-1] == count - 1
    gaps = {after - before for before, after in itertools.pairwise(chosen)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


@given(chosen=st.integers(1, 20), transparent=st.lists(st.booleans(), min_size=20, max_size=20))
def test_every_view_comes_once_and_the_last_ends(chosen: int, transparent: list[bool]) -> None:
    seen = [0]
    while following := frames.next_view(seen[-1], chosen, transparent=transparent[frames.place_of(seen[-1])[0]]):
        seen.append(following)
    expected = [(at, black) for at in range(chosen) for black in (False, True) if not black or transparent[at]]
    assert [frames.place_of(view) for view in seen] == expected


# -- each format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ANIMATED)
def test_every_frame_is_seen_in_order(form: str) -> None:
    found = views(film(form, grey(7), **ANIMATED[form]), recipe())
    assert [(one.frame, one.frames, one.sampled, one.background) for one in found] == [
        (at, 7, 7, "") for at in range(7)
    ]
    for at, one in enumerate(found):
        assert all(abs(level - at * 5) <= 2 for level in one.data[:30]), (at, one.data[:3])


@pytest.mark.parametrize("form", ANIMATED)
def test_frames_are_sampled_evenly_and_a_request_may_ask_for_another_number(form: str) -> None:
    content = film(form, grey(9), **ANIMATED[form])
    assert [one.frame for one in views(content, recipe(sample=3))] == [0, 4, 8]
    assert [one.frame for one in views(content, recipe(sample=3), 5)] == [0, 2, 4, 6, 8]
    assert [(one.frame, one.frames, one.sampled) for one in views(content, recipe(sample=3), 1)] == [(0, 9, 1)]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "HEIF"])
def test_more_frames_than_the_limit_are_too_many(form: str) -> None:
    content = film(form, grey(6), **ANIMATED[form])
    limits = ImageLimits(max_bytes=1 << 24, max_pixels=1_000_000, min_side=8, max_frames=5, memory=1 << 30)
    assert refusal(content, limits) == "too_many_frames"
    assert len(views(film(form, grey(5), **ANIMATED[form]), recipe(), limits=limits)) == 5


def test_a_still_picture_is_one_view() -> None:
    for file, content in pictures.every_format().items():
        if "transparent" not in file and "alpha" not in file and file != "moving.gif":
            found = views(content, recipe(background="both"))
            assert [(one.frame, one.frames, one.background, one.next) for one in found] == [(0, 1, "", 0)], file


# -- transparency ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_transparency_is_seen_on_white_and_on_black(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    clear = pictures.encoded(Image.new("RGBA", SIZE, (90, 90, 90, 0)), form, **options)
    white, black = views(clear, recipe(background="both"))
    assert (white.background, black.background) == ("white", "black")
    assert set(white.data) == {255}
    assert set(black.data) == {0}
    opaque = pictures.encoded(Image.new("RGBA", SIZE, (90, 90, 90, 255)), form, **options)
    assert [one.background for one in views(opaque, recipe(background="both"))] == [""]


@pytest.mark.parametrize("background", ["white", "black"])
def test_one_background_is_one_view(background: Any) -> None:
    clear = pictures.encoded(Image.new("RGBA", SIZE, (90, 90, 90, 0)), "PNG")
    assert [one.background for one in views(clear, recipe(background=background))] == [background]


def test_only_the_frames_that_need_it_are_seen_twice() -> None:
    shots = [Image.new("RGBA", SIZE, (9, 9, 9, alpha)) for alpha in (255, 0, 255)]
    content = pictures.encoded(shots[0], "WEBP", save_all=True, append_images=shots[1:], lossless=True)
    found = views(content, recipe(background="both"))
    assert [(one.frame, one.background) for one in found] == [(0, ""), (1, "white"), (1, "black"), (2, "")]


# -- what a viewer sees ----------------------------------------------------------------------------------------------


def gif_frame(index: int, box: tuple[int, int, int, int], disposal: int, transparent: int | None = None) -> bytes:
    """One colour in a box, in a GIF whose palette is red, green, blue, white."""
    flags = disposal << 2 | (transparent is not None)
    control = b"!\xf9\x04" + struct.pack("<BHB", flags, 10, transparent or 0) + b"\0"
    left, top, width, height = box
    # Codes of three bits, a clear code before each pixel, so that the table never grows.
    bits, used = 0, 0
    for code in [code for _ in range(width * height) for code in (4, index)] + [5]:
        bits |= code << used
        used += 3
    data = bits.to_bytes((used + 7) // 8, "little")
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    return control + b"," + struct.pack("<HHHHB", left, top, width, height, 0) + b"\x02" + blocks + b"\0"


def gif(*parts: bytes, size: tuple[int, int] = SIZE, end: bytes = b";") -> bytes:
    palette = bytes((*RED, *GREEN, *BLUE, 255, 255, 255))
    return b"GIF89a" + struct.pack("<HHBBB", *size, 0x91, 0, 0) + palette + b"".join(parts) + end


WHOLE, CORNER = (0, 0, *SIZE), (0, 0, 10, 10)


def colour_at(one: Pixels, x: int, y: int) -> tuple[int, ...]:
    at = (y * SIZE[0] + x) * 3
    return tuple(one.data[at : at + 3])


@pytest.mark.parametrize(
    ("disposal", "corner", "elsewhere"),
    [
        (1, GREEN, RED),  # the second frame stays
        (3, RED, RED),  # what was below the second comes back
        (2, (255, 255, 255), RED),  # its box is cleared: transparent, seen on white here
    ],
)
def test_the_frames_of_a_gif_are_drawn_over_each_other(disposal: int, corner: Any, elsewhere: Any) -> None:
    content = gif(
        gif_frame(0, WHOLE, 1), gif_frame(1, CORNER, disposal, 3), gif_frame(2, (20, 20, 8, 8), 1, 3), end=b";"
    )
    first, second, third = views(content, recipe())
    assert [colour_at(first, *at) for at in ((2, 2), (40, 2), (22, 22))] == [RED, RED, RED]
    assert [colour_at(second, *at) for at in ((2, 2), (40, 2), (22, 22))] == [GREEN, RED, RED]
    assert [colour_at(third, *at) for at in ((2, 2), (40, 2), (22, 22))] == [corner, elsewhere, BLUE]


def test_an_apng_blends_its_frames() -> None:
    below = Image.new("RGBA", SIZE, (*RED, 255))
    above = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    above.paste((*GREEN, 255), (0, 0, 10, 10))
    content = pictures.encoded(below, "PNG", save_all=True, append_images=[above], blend=1)
    _, second = views(content, recipe(background="both"))
    assert (colour_at(second, 2, 2), colour_at(second, 30, 2), second.background) == (GREEN, RED, "")


# -- lies ------------------------------------------------------------------------------------------------------------


def test_a_later_frame_may_not_grow_the_canvas_beyond_the_limit() -> None:
    content = gif(gif_frame(0, WHOLE, 1), gif_frame(1, CORNER, 1).replace(b",\0\0\0\0", b",\xff\xff\xff\xff"))
    assert refusal(content) == "too_many_pixels"


def test_a_gif_without_a_trailer_is_whole_and_one_cut_within_a_frame_is_not() -> None:
    shots = [gif_frame(at, CORNER, 1) for at in range(3)]
    assert len(views(gif(*shots, end=b""), recipe())) == 3
    assert refusal(gif(*shots, end=b"")[:-5]) == "corrupt"
    with pytest.raises(CodedError):  # also when only the first, sound frame is wanted
        views(gif(*shots, end=b"")[:-5], recipe(sample=1))


def test_an_apng_that_announces_more_frames_than_it_has_is_corrupt() -> None:
    content = bytearray(film("PNG", grey(3), duration=100))
    at = content.index(b"acTL")
    body = b"acTL" + struct.pack(">II", 9, 0)
    content[at : at + 16] = body + struct.pack(">I", zlib.crc32(body))
    assert refusal(bytes(content)) == "corrupt"


def test_a_tiff_whose_pages_lead_in_a_circle_ends() -> None:
    content = bytearray(film("TIFF", grey(3)))
    offsets, at = [], 4
    while (place := struct.unpack_from("<I", content, at)[0]) != 0:
        offsets.append(place)
        at = place + 2 + 12 * struct.unpack_from("<H", content, place)[0]
    struct.pack_into("<I", content, at, offsets[0])
    assert [one.frame for one in views(bytes(content), recipe())] == [0, 1, 2]


def test_thumbnails_among_the_pages_of_a_tiff_are_no_frames() -> None:
    pages = [pictures.solid(RED, (6, 6)), pictures.solid(GREEN, SIZE), pictures.solid(BLUE, (6, 100))]
    content = pictures.encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    (only,) = views(content, recipe())
    assert (only.frame, only.frames, colour_at(only, 3, 3)) == (1, 1, GREEN)
    assert refusal(pictures.encoded(pages[0], "TIFF", save_all=True, append_images=pages[2:])) == "too_small"


def test_a_page_of_too_many_pixels_is_found_before_any_is_decoded() -> None:
    pages = [pictures.solid(RED, SIZE), pictures.solid(GREEN, (1001, 1000))]
    content = pictures.encoded(pages[0], "TIFF", compression="tiff_lzw", save_all=True, append_images=pages[1:])
    assert refusal(content) == "too_many_pixels"


APPLE, ADOBE = b' a="urn:com:apple:photo:2020:aux:hdrgainmap"', b' hdrgm:Version="1.0"'


def called_a_gain_map(picture: Image.Image, mark: bytes = APPLE) -> bytes:
    words = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta" + mark + b"/>"
    content = pictures.encoded(picture, "JPEG", quality=90)
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(words) + 2) + words + content[2:]


def test_a_gain_map_is_no_picture() -> None:
    photo = pictures.photo(4, (480, 320))
    grey = photo.convert("L")
    steep = grey.point([min(255, value * value // 200) for value in range(256)])
    maps = [
        pictures.solid((50, 50, 50)).convert("L").resize((240, 160)),
        steep.resize((240, 160)),
        ImageOps.invert(grey),
    ]
    for one in maps:
        first = pictures.encoded(photo.copy(), "JPEG", quality=90)
        assert len(views(mpo([first, pictures.encoded(one.copy(), "JPEG")]), recipe())) == 2
        assert len(views(mpo([first, called_a_gain_map(one)]), recipe())) == 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("mark", [APPLE, ADOBE])
def test_a_picture_that_is_called_a_gain_map_is_looked_at(mode: str, mark: bytes) -> None:
    photo, other = pictures.photo(4, (480, 320)), pictures.photo(9, (480, 320)).convert(mode)
    first = called_a_gain_map(photo, ADOBE)
    flat = pictures.encoded(pictures.solid((0, 0, 0), (480, 320)), "JPEG")
    for shots in ([first, called_a_gain_map(other, mark)], [flat, called_a_gain_map(other, mark)]):
        found = views(mpo(shots), recipe())
        assert [one.frame for one in found] == [0, 1]
    narrow = called_a_gain_map(photo.resize((240, 320)), mark)
    assert len(views(mpo([first, narrow]), recipe())) == 2
    other_first = pictures.encoded(photo.copy(), "JPEG", quality=90)
    real = called_a_gain_map(photo.convert("L"), mark)
    assert [one.frame for one in views(mpo([first, real, other_first]), recipe())] == [0, 2]


def test_the_profile_of_one_picture_is_not_that_of_another() -> None:
    shots = [pictures.solid((128, 128, 128), SIZE) for _ in range(2)]
    fine = {"quality": 100, "subsampling": 0}
    plain, steep = (
        pictures.encoded(shot.copy(), "JPEG", icc_profile=profile, **fine)
        for shot, profile in zip(shots, (None, coloured.STEEP), strict=True)
    )
    broken = steep[: steep.index(b"\xff\xc0")]
    seen = {plain: 128, steep: 13}
    for order in ([plain, steep], [steep, plain], [plain, steep, plain]):
        found = views(mpo(order), recipe())
        assert [one.data[0] for one in found] == pytest.approx([seen[shot] for shot in order], abs=1)
    beside = mpo([plain, broken])
    assert decode(io.BytesIO(beside), recipe(), LIMITS).data[0] == pytest.approx(128, abs=1)
    pages = [shot.copy() for shot in shots]
    pages[1].info["icc_profile"] = coloured.STEEP
    out = io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=[*pages[1:], pages[0]])
    assert [one.data[0] for one in views(out.getvalue(), recipe())] == [128, 13, 128]
    single = pictures.encoded(shots[0].copy(), "TIFF", icc_profile=coloured.STEEP)
    assert [one.data[0] for one in views(single, recipe())] == [13]


def test_the_primary_picture_of_a_heic_comes_first() -> None:
    shots = [pictures.solid(colour, SIZE) for colour in (RED, GREEN, BLUE)]
    content = pictures.encoded(shots[0], "HEIF", save_all=True, append_images=shots[1:], primary_index=1)
    found = views(content, recipe())
    assert [(one.frame, one.frames, one.format) for one in found] == [(1, 3, "heif"), (0, 3, "heif"), (2, 3, "heif")]
    assert colour_at(found[0], 9, 9)[1] > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Image appears to be a malformed MPO")
def test_a_broken_index_of_a_mpo_does_not_cost_its_first_picture() -> None:
    content = film("MPO", [RED, GREEN], quality=95)
    at = content.index(b"MPF\0")
    for damaged in (
        content[: at + 8] + b"\xff\xff\xff\xff" + content[at + 12 :],
        content[: len(content) * 2 // 3],
    ):
        assert views(damaged, recipe())[0].frame == 0
