"""ICC profiles: the same colours whatever the profile they are written in."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image, ImageChops, ImageCms

from nsfwd.bundles.manifest import Recipe
from nsfwd.imaging import icc
from nsfwd.imaging.colour import PROFILE_BYTES, embedded, from_lab
from nsfwd.imaging.preprocess import decode
from nsfwd.ipc.child_messages import ImageLimits
from tests import coloured, pictures

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SRGB_CURVE = icc.srgb_curve()


def _tag(kind: bytes, body: bytes) -> bytes:
    return kind + bytes(4) + body


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def swapped() -> bytes:
    """A small RGB profile of gamma 2.2 whose red and green primaries are exchanged against sRGB's."""
    red, green, blue = (
        (0.4361, 0.2225, 0.0139),
        (0.3851, 0.7169, 0.0971),
        (0.1431, 0.0606, 0.7141),
    )
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
    found = embedded(swapped())
    assert found is not None
    assert (found.plain, found.early) == (False, False)
    (red, green, blue) = found.to_srgb(pictures.solid((200, 30, 60))).getpixel((0, 0))  # type: ignore[misc]
    assert abs(red - 30) < 12
    assert abs(green - 200) < 6
    assert abs(blue - 60) < 12


@pytest.mark.parametrize(
    "profile", [None, b"", b"nonsense", SRGB[:200], swapped()[:150], b"x" * (PROFILE_BYTES + 1), "text"]
)
def test_broken_profiles_are_as_good_as_none(profile: object) -> None:
    assert embedded(profile) is None


def test_srgb_changes_nothing_whatever_its_name() -> None:
    for profile in (SRGB, coloured.shaper(SRGB_CURVE).replace(b"sRGB", b"none")):
        found = embedded(profile)
        assert found is not None
        assert found.plain
        picture = pictures.photo(1, (32, 32))
        content = pictures.encoded(picture.copy(), "PNG", icc_profile=profile)
        assert decode(io.BytesIO(content), Recipe(width=32, height=32), LIMITS).data == picture.tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_profile_of_a_file_counts(form: str) -> None:
    content = pictures.encoded(pictures.solid((200, 30, 60)), form, icc_profile=swapped())
    limits = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20, min_side=1, max_frames=1, memory=1 << 30)
    data = decode(io.BytesIO(content), Recipe(width=8, height=8), limits).data
    assert abs(data[0] - 30) < 16
    assert abs(data[1] - 200) < 16


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_profile_of_another_colour_space_is_left_alone(mode: str) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    others = {"RGB": (lab, press(), dark_grey()), "CMYK": (lab, swapped(), dark_grey())}
    picture = Image.new(mode, (8, 8), (1, 2, 3, 4)[: len(mode)])
    plain = first_pixel(pictures.encoded(picture.copy(), "TIFF"))
    for profile in others[mode]:
        assert first_pixel(pictures.encoded(picture.copy(), "TIFF", icc_profile=profile)) == plain


# -- grey, inks, CIELAB ----------------------------------------------------------------------------------------------


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"made by code\0"
    tags = {
        b"desc": _tag(b"desc", struct.pack(">I", len(name)) + name + bytes(79)),
        **tags,
    }
    tags[b"wtpt"] = _tag(b"XYZ ", _fixed(0.9642, 1.0, 0.8249))
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for tag, body in tags.items():
        body += bytes(-len(body) % 4)
        table += tag + struct.pack(">II", start + len(data), len(body))
        data += body
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"test", 0x02100000, kind, space, pcs)
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def dark_grey() -> bytes:
    """A profile of grey with gamma 4: its middle is far darker than sRGB's."""
    return _profile(
        b"mntr",
        b"GRAY",
        b"XYZ ",
        {b"kTRC": _tag(b"curv", struct.pack(">IHxx", 1, 4 * 256))},
    )


INKS = {0: (255, 128, 128), 8: (150, 80, 128), 4: (150, 200, 128), 2: (150, 128, 200)}
"""Cyan 8, magenta 4, yellow 2, black 1 -> the CIELAB bytes of that full ink on this press: a cyan that looks green."""


def press() -> bytes:
    """A profile of four inks: paper, each ink alone as ``INKS``, black and all mixtures black."""
    identity = bytes(range(256))
    corners = b"".join(bytes(INKS.get(inks, (0, 128, 128))) for inks in range(16))
    matrix = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    body = bytes((4, 3, 2, 0)) + matrix + identity * 4 + corners + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": _tag(b"mft1", body)})


LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20, min_side=1, max_frames=1, memory=1 << 30)


def first_pixel(content: bytes, **keys: object) -> tuple[int, ...]:
    recipe = Recipe(**{"width": 8, "height": 8, **keys})  # type: ignore[arg-type]
    return tuple(decode(io.BytesIO(content), recipe, LIMITS).data[:3])


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", "L"), ("TIFF", "L"), ("JPEG", "L"), ("PNG", "LA"), ("PNG", "I;16")],
)
def test_the_profile_of_a_grey_picture_counts(form: str, mode: str) -> None:
    if mode == "I;16":
        picture = pictures.deep(pictures.solid((128, 128, 128)))
    else:
        picture = pictures.solid((128, 128, 128)).convert(mode)
    plain = first_pixel(pictures.encoded(picture.copy(), form))
    dark = first_pixel(pictures.encoded(picture.copy(), form, icc_profile=dark_grey()))
    assert plain == (128, 128, 128)
    assert dark[0] == dark[1] == dark[2]
    assert abs(dark[0] - 72) < 4  # (128/255)^4 of the light is 72 in sRGB


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
@pytest.mark.parametrize("inks", [0, 8, 4, 2, 1])
def test_the_profile_of_a_picture_of_inks_counts(form: str, inks: int) -> None:
    amounts = tuple(255 * bool(inks & ink) for ink in (8, 4, 2, 1))
    picture = Image.new("CMYK", (64, 64), amounts)
    options = {"quality": 100} if form == "JPEG" else {}
    lab = INKS.get(inks, (0, 128, 128))
    signed = bytes((lab[0], lab[1] ^ 128, lab[2] ^ 128))
    (expected,) = (from_lab(Image.frombytes("LAB", (1, 1), signed)).getpixel((0, 0)),)
    found = first_pixel(pictures.encoded(picture, form, icc_profile=press(), **options))
    assert isinstance(expected, tuple)
    assert all(abs(one - other) <= 6 for one, other in zip(found, expected, strict=True)), (found, expected)


def test_inks_padded_with_a_profile_have_bars_of_paper_or_of_black() -> None:
    content = pictures.encoded(Image.new("CMYK", (64, 16), (255, 0, 0, 0)), "TIFF", icc_profile=press())
    white, black = (first_pixel(content, fit="pad", background=name) for name in ("white", "black"))
    assert min(white) > 245
    assert max(black) < 10


def test_a_broken_profile_of_inks_is_as_good_as_none() -> None:
    picture = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    for profile in (press()[:400], press()[:140] + b"\xff" * 200, SRGB, b"nonsense"):
        assert first_pixel(pictures.encoded(picture.copy(), "TIFF", icc_profile=profile)) == (0, 255, 255)


def test_cielab_is_seen_in_its_colours() -> None:
    picture = Image.frombytes("LAB", (64, 64), bytes((128, 70, 0)) * 4096)
    red, green, blue = first_pixel(pictures.encoded(picture, "TIFF"))
    assert (red > 200, 60 < blue < 200, green < blue) == (True, True, True), (red, green, blue)


def ycck(picture: Image.Image, **options: int) -> bytes:
    """A JPEG of four components as Adobe's programs write them: inverted inks, the first three as luma and chroma."""
    inks = picture.convert("CMYK").split()
    light = Image.merge("RGB", inks[:3]).convert("YCbCr").split()
    content = pictures.encoded(
        Image.merge("CMYK", (*(ImageChops.invert(one) for one in light), inks[3])),
        "JPEG",
        **options,
    )
    at = content.index(b"Adobe") + 11
    return content[:at] + b"\2" + content[at + 1 :]


def test_adobes_inverted_inks_are_seen_as_they_are_meant() -> None:
    picture = pictures.photo(3, (64, 64))
    cmyk = pictures.encoded(picture.convert("CMYK"), "JPEG", quality=98)
    limits = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20, min_side=1, max_frames=1, memory=1 << 30)
    for content in (cmyk, ycck(picture, quality=98)):
        data = decode(io.BytesIO(content), Recipe(width=64, height=64, draft=0), limits).data
        off = [abs(one - other) for one, other in zip(data, picture.tobytes(), strict=True)]
        assert sum(off) / len(off) < 3
