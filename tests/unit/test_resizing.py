"""Fits and filters, against Pillow's own and against the formulas they come from."""

from __future__ import annotations

import functools

import pytest
from PIL import Image, ImageOps

from nsfwd.bundles.manifest import Recipe
from nsfwd.imaging.colour_modes import BLACK, WHITE
from nsfwd.imaging.resizing import check, draft_size, fitted, inside
from tests.pictures import photo as make_photo
from tests.pictures import solid

SIZES = [(320, 240), (240, 320), (64, 48), (31, 17), (48, 48), (1, 400), (400, 1)]
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@functools.cache
def photo(seed: int, size: tuple[int, int]) -> Image.Image:
    """A photo of any size, strips of one pixel included."""
    return make_photo(seed, (320, 240)).resize(size)


def recipe(**keys: object) -> Recipe:
    return Recipe(**{"width": 48, "height": 32, **keys})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FILTERS)
def test_antialiased_stretch_is_pillows_resize(name: str, size: tuple[int, int]) -> None:
    picture = photo(1, size)
    assert fitted(picture, recipe(filter=name), WHITE).tobytes() == picture.resize((48, 32), FILTERS[name]).tobytes()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize(("antialias", "corners"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic"])
def test_every_combination_has_the_right_size(
    name: str, antialias: bool, corners: bool, fit: str, size: tuple[int, int]
) -> None:
    wanted = recipe(filter=name, antialias=antialias, align_corners=corners, fit=fit)
    result = fitted(photo(2, size), wanted, WHITE)
    assert (result.size, result.mode) == ((48, 32), "RGB")


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("corners", [False, True])
def test_one_colour_stays_that_colour_to_the_very_edge(antialias: bool, corners: bool) -> None:
    for size in SIZES:
        wanted = recipe(antialias=antialias, align_corners=corners and not antialias)
        assert fitted(solid((7, 130, 250), size), wanted, WHITE).getextrema() == ((7, 7), (130, 130), (250, 250))


def formula(values: list[int], count: int, *, corners: bool) -> list[float]:
    """TensorFlow's bilinear resize of one row without antialias, written out."""
    results = []
    for x in range(count):
        if corners:
            at = x * (len(values) - 1) / (count - 1)
        else:
            at = min(max((x + 0.5) * len(values) / count - 0.5, 0), len(values) - 1)
        low = int(at)
        high = min(low + 1, len(values) - 1)
        results.append(values[low] + (values[high] - values[low]) * (at - low))
    return results


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize(("length", "count"), [(100, 7), (7, 100), (50, 50), (224, 223), (2, 9)])
def test_without_antialias_bilinear_is_tensorflows(length: int, count: int, corners: bool) -> None:
    values = [(at * 37) % 256 for at in range(length)]
    picture = Image.frombytes("L", (length, 1), bytes(values)).convert("RGB").resize((length, 5), 0)
    result = fitted(picture, recipe(width=count, height=5, antialias=False, align_corners=corners), WHITE)
    got = list(result.getchannel("R").tobytes()[2 * count : 3 * count])
    assert got == pytest.approx(formula(values, count, corners=corners), abs=1.001)  # Pillow cuts fractions off


def test_aligned_corners_keep_the_corners() -> None:
    picture = photo(3, (101, 67))
    result = fitted(picture, recipe(antialias=False, align_corners=True), WHITE)
    for corner, source in {(0, 0): (0, 0), (47, 31): (100, 66), (47, 0): (100, 0)}.items():
        assert result.getpixel(corner) == picture.getpixel(source)


def test_crop_is_pillows_fit() -> None:
    for size in SIZES[:5]:
        picture = photo(4, size)
        expected = ImageOps.fit(picture, (48, 32), Image.Resampling.BILINEAR)
        assert fitted(picture, recipe(fit="crop"), WHITE).tobytes() == expected.tobytes()


def test_pad_is_pillows_pad() -> None:
    for size in SIZES[:5]:
        picture = photo(4, size)
        expected = ImageOps.pad(picture, (48, 32), Image.Resampling.BILINEAR, color=BLACK)
        result = fitted(picture, recipe(fit="pad"), BLACK)
        assert result.size == expected.size
        bars = sum(pixel == 0 for pixel in result.convert("L").tobytes())
        assert abs(bars - sum(pixel == 0 for pixel in expected.convert("L").tobytes())) <= 48


def test_pad_centres_between_bars_of_the_background() -> None:
    result = fitted(solid((1, 2, 3), (100, 100)), recipe(fit="pad"), WHITE)
    assert [result.getpixel((x, 16)) for x in (7, 8, 39, 40)] == [WHITE, (1, 2, 3), (1, 2, 3), WHITE]


def test_inside_never_vanishes() -> None:
    assert inside((1, 10_000), (224, 224)) == (1, 224)
    assert inside((10, 10), (224, 112)) == (112, 112)


@pytest.mark.parametrize(
    ("keys", "size", "expected"),
    [
        ({}, (4000, 3000), (96, 64)),
        ({"draft": 2.5}, (4000, 3000), (120, 80)),
        ({"draft": 0}, (4000, 3000), None),
        ({"filter": "nearest"}, (4000, 3000), None),
        ({"antialias": False}, (4000, 3000), None),
        ({"fit": "crop"}, (4000, 3000), (96, 64)),
        ({"fit": "pad"}, (3200, 3200), (64, 64)),
    ],
)
def test_a_jpeg_is_drafted_only_where_the_filter_allows(
    keys: dict[str, object], size: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    assert draft_size(recipe(**keys), size) == expected


@pytest.mark.parametrize("keys", [{"filter": "lanczos", "antialias": False}, {"align_corners": True}])
def test_recipes_that_cannot_be_carried_out_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="exists only"):
        check(recipe(**keys))
