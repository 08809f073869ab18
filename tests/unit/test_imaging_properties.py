"""What holds for any bytes, any picture and any recipe, looked for by hypothesis."""

from __future__ import annotations

import functools
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nsfwd.bundles.manifest import FrameSampling, Recipe
from nsfwd.errors import CODES, CodedError, Status
from nsfwd.imaging import formats, frames
from nsfwd.imaging.preprocess import WantedView, decode
from nsfwd.ipc.child_messages import ImageLimits
from tests import hostile, pictures

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20, min_side=4, max_frames=20, memory=1 << 30)
SMALL = Recipe(width=16, height=12, background="both", frames=FrameSampling(sample=3))
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow says much about broken files
EXPECTED = hostile.ANY - {""} | {"too_large", "empty"}
"""Never ``unreadable`` (nothing is wrong with the disk) and never a defect."""

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8 ", b"II*\0", b"BM")


@functools.cache
def seeds() -> list[bytes]:
    return list(hostile.seeds().values())


def check(content: bytes, recipe: Recipe = SMALL) -> int:
    """Ask for every view; tell how many there were. Each is pixels, or the image ends in a code of the file's."""
    view = count = 0
    while count == 0 or view:
        try:
            pixels = decode(io.BytesIO(content), recipe, LIMITS, wanted=WantedView(view))
        except CodedError as error:
            assert error.code in EXPECTED, error
            assert CODES[error.code].status in (Status.SKIPPED, Status.ERROR)
            return count
        assert len(pixels.data) == recipe.width * recipe.height * 3
        assert pixels.next == 0 or pixels.next > view
        assert pixels.frame >= 0
        assert 1 <= pixels.sampled <= pixels.frames <= LIMITS.max_frames
        view, count = pixels.next, count + 1
    assert count <= 2 * recipe.frames.sample
    return count


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound file with bytes changed, cut out, doubled, or put in from another file."""
    content = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(1, 64))
        match draw(st.integers(0, 3)):
            case 0:
                content[at : at + length] = draw(st.binary(min_size=1, max_size=8))
            case 1:
                del content[at : at + length]
            case 2:
                content[at:at] = content[at : at + length]
            case _:
                other = draw(st.sampled_from(seeds()))
                content[at : at + length] = other[at : at + length]
    return bytes(content)


@given(content=damaged())
def test_damage_is_pixels_or_a_code(content: bytes) -> None:
    check(content)


@given(signature=st.sampled_from(SIGNATURES), rest=st.binary(max_size=400))
def test_anything_behind_a_signature_is_pixels_or_a_code(signature: bytes, rest: bytes) -> None:
    check(signature + rest)


@given(content=st.binary(max_size=200))
def test_any_bytes_are_pixels_or_a_code(content: bytes) -> None:
    check(content)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any recipe that the manifest lets pass."""
    antialias = draw(st.booleans())
    keys: dict[str, Any] = {
        "width": draw(st.integers(1, 40)),
        "height": draw(st.integers(1, 40)),
        "fit": draw(st.sampled_from(("stretch", "pad", "crop"))),
        "filter": draw(st.sampled_from(("nearest", "bilinear", "bicubic", *(["lanczos"] if antialias else [])))),
        "antialias": antialias,
        "align_corners": not antialias and draw(st.booleans()),
        "background": draw(st.sampled_from(("white", "black", "both"))),
        "rotate": draw(st.booleans()),
        "draft": draw(st.sampled_from((0.0, 1.0, 2.0, 3.5))),
    }
    return Recipe(**keys, frames=FrameSampling(sample=draw(st.integers(1, 5))))


@given(recipe=recipes(), content=st.deferred(lambda: st.sampled_from(seeds())))
def test_any_recipe_can_be_carried_out_on_any_sound_file(recipe: Recipe, content: bytes) -> None:
    assert check(content, recipe) >= 1


LOSSLESS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "F"),
}


@given(
    form=st.sampled_from(sorted(LOSSLESS)),
    place=st.integers(0, 7),
    size=st.tuples(st.integers(4, 60), st.integers(4, 60)),
    seed=st.integers(0, 9),
)
def test_a_lossless_file_gives_the_pixels_that_pillow_sees(
    form: str, place: int, size: tuple[int, int], seed: int
) -> None:
    mode = LOSSLESS[form][place % len(LOSSLESS[form])]
    grey = pictures.photo(seed, (64, 64)).resize(size)
    grey = grey.convert("L") if mode == "F" else grey  # Pillow's luma has fractions there
    picture = pictures.deep(grey) if mode == "I;16" else grey.convert(mode)
    recipe = Recipe(width=size[0], height=size[1])
    found = decode(io.BytesIO(pictures.encoded(picture, form)), recipe, LIMITS).data
    shown = grey.convert("L").convert("RGB") if mode in ("I;16", "F") else picture.convert("RGB")
    assert found == shown.tobytes()


@given(count=st.integers(1, 20), most=st.integers(1, 20), seed=st.integers(0, 5))
def test_frames_are_counted_as_pillow_counts_them(count: int, most: int, seed: int) -> None:
    shots = [pictures.solid((at * 12, seed, 9), (16, 16)) for at in range(count)]
    content = pictures.encoded(shots[0], "GIF", save_all=True, append_images=shots[1:])
    with Image.open(io.BytesIO(content)) as image:
        expected = getattr(image, "n_frames", 1)
    recipe = Recipe(width=8, height=8, frames=FrameSampling(sample=most))
    pixels = decode(io.BytesIO(content), recipe, LIMITS)
    assert (pixels.frames, pixels.sampled) == (expected, len(frames.spread(expected, most)))


@given(head=st.binary(max_size=formats.HEAD))
def test_any_head_is_recognised_or_not(head: bytes) -> None:
    form = formats.recognise(head)
    if form is not None:
        formats.announced_size(form, head.ljust(formats.HEAD, b"\0"))
