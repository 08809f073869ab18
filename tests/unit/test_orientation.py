"""Which way up a picture is shown: EXIF proper alone, of the type it names, as in browsers."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from nsfwd.bundles.manifest import Recipe
from nsfwd.imaging.preprocess import decode
from nsfwd.ipc.child_messages import ImageLimits
from tests import oriented, pictures

LIMITS = ImageLimits(max_bytes=1 << 24, max_pixels=1_000_000, min_side=8, max_frames=50, memory=1 << 30)
CASES = oriented.cases()
register_heif_opener()


def left(content: bytes, **keys: bool) -> tuple[int, ...]:
    """The colour on the left of what is scored."""
    recipe = Recipe(width=oriented.SIZE[0], height=oriented.SIZE[1], draft=0, **keys)  # type: ignore[arg-type]
    return tuple(decode(io.BytesIO(content), recipe, LIMITS).data[3 * 8 : 3 * 9])


def is_blue(colour: tuple[int, ...]) -> bool:
    return colour[2] > 200 and colour[0] < 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_what_names_an_orientation_and_what_does_not(name: str) -> None:
    case = CASES[name]
    assert is_blue(left(case.content)) is case.turned
    assert not is_blue(left(case.content, rotate=False))


@pytest.mark.parametrize("lying", [5, 6, 7, 8])
def test_a_tiff_that_lies_with_the_wrong_type_stays_as_it_is_stored(lying: int) -> None:
    out = io.BytesIO()
    picture = pictures.photo(9, (64, 48))
    picture.save(out, "TIFF", tiffinfo={0x0112: lying})
    content = out.getvalue()
    kind = content.index(b"\x12\x01\x03\0") + 2
    wrong = content[:kind] + b"\x04\0" + content[kind + 2 :]
    recipe = Recipe(width=64, height=48, draft=0)
    assert decode(io.BytesIO(wrong), recipe, LIMITS).data == picture.tobytes()


def difference(one: bytes, other: bytes) -> float:
    return sum(abs(left - right) for left, right in zip(one, other, strict=True)) / len(one)


@pytest.mark.parametrize("orientation", oriented.TURNED)
def test_the_container_of_a_heic_turns_it_once(orientation: int) -> None:
    upright = pictures.photo(9, (96, 64))
    stored = upright.transpose(oriented.TURNED[orientation])
    content = pictures.encoded(stored, "HEIF", quality=95, exif=oriented.block(oriented.short(orientation)))
    assert b"irot" in content or b"imir" in content
    found = decode(io.BytesIO(content), Recipe(width=96, height=64, draft=0), LIMITS)
    assert difference(found.data, upright.tobytes()) < 6


def test_the_exif_of_a_heic_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # given so, the writer names no rotation in the container
    picture = pictures.photo(9, (96, 64))
    content = pictures.encoded(picture, "HEIF", quality=95, exif=exif)
    assert b"irot" not in content
    found = decode(io.BytesIO(content), Recipe(width=96, height=64, draft=0), LIMITS)
    assert difference(found.data, picture.tobytes()) < 6
