"""Every key of a recipe against the libraries whose habits it spells: Pillow, Keras, TensorFlow, nsfwjs."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageOps

from nsfwd.bundles.manifest import FrameSampling, Recipe
from nsfwd.engines.contract import Pixels
from nsfwd.imaging.preprocess import decode
from nsfwd.ipc.child_messages import ImageLimits
from tests import pictures

LIMITS = ImageLimits(max_bytes=1 << 24, max_pixels=10_000_000, min_side=1, max_frames=9, memory=1 << 30)
PICTURE = pictures.photo(12, (301, 223))
LARGE = pictures.photo(13, (1600, 1200))
WIDTH, HEIGHT = 64, 48
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def ours(content: bytes, **keys: Any) -> Pixels:
    """What a decoder gives the engine."""
    recipe = Recipe(**{"width": WIDTH, "height": HEIGHT, "draft": 0, **keys})
    data = decode(io.BytesIO(content), recipe, LIMITS).data
    return np.frombuffer(data, np.uint8).reshape(recipe.height, recipe.width, 3)


def png(picture: Image.Image = PICTURE) -> bytes:
    return pictures.encoded(picture.copy(), "PNG")


def keras_loaded(**options: Any) -> Pixels:
    """What Keras's own loader makes of the same file."""
    import keras

    loaded = keras.utils.load_img(io.BytesIO(png()), target_size=(HEIGHT, WIDTH), **options)
    return np.asarray(keras.utils.img_to_array(loaded)).astype(np.uint8)


def off(one: Any, other: Any) -> float:
    """The largest difference of any value."""
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).max())


# -- the decoder's keys ----------------------------------------------------------------------------------------------


def check_size() -> None:
    for width, height in ((17, 90), (224, 224), (1, 1)):
        expected = PICTURE.resize((width, height), Image.Resampling.BILINEAR)
        assert off(ours(png(), width=width, height=height), expected) == 0


def check_fit() -> None:
    assert off(ours(png(), fit="stretch"), keras_loaded(interpolation="bilinear")) == 0
    assert off(ours(png(), fit="crop"), ImageOps.fit(PICTURE, (WIDTH, HEIGHT), Image.Resampling.BILINEAR)) == 0
    padded = ImageOps.pad(PICTURE, (WIDTH, HEIGHT), Image.Resampling.BILINEAR, color=(255, 255, 255))
    assert off(ours(png(), fit="pad"), padded) == 0


def check_filter() -> None:
    for name, method in FILTERS.items():
        assert off(ours(png(), filter=name), keras_loaded(interpolation=name)) == 0, name
        assert off(ours(png(), filter=name), PICTURE.resize((WIDTH, HEIGHT), method)) == 0, name


def check_antialias() -> None:
    import tensorflow as tf

    for name in ("nearest", "bilinear"):
        found = ours(png(), filter=name, antialias=False)
        theirs = tf.image.resize(np.asarray(PICTURE), (HEIGHT, WIDTH), method=name, antialias=False)
        assert off(found, np.asarray(theirs)) <= 1.0, name
    smooth = tf.image.resize(np.asarray(PICTURE), (HEIGHT, WIDTH), method="bilinear", antialias=True)
    assert off(ours(png()), np.asarray(smooth)) <= 1.0


def check_align_corners() -> None:
    import tensorflow as tf

    found = ours(png(), antialias=False, align_corners=True)
    one = np.asarray(PICTURE, np.float32)[None]
    theirs = tf.compat.v1.image.resize_bilinear(one, (HEIGHT, WIDTH), align_corners=True)
    assert off(found, np.asarray(theirs)[0]) <= 1.01
    assert off(found, aligned(np.asarray(PICTURE, np.float64))) <= 1.01


def aligned(picture: Any) -> Any:
    """The resize of nsfwjs (``tf.image.resizeBilinear(image, size, true)``), written out from its definition."""
    rows = np.arange(HEIGHT) * (picture.shape[0] - 1) / (HEIGHT - 1)
    columns = np.arange(WIDTH) * (picture.shape[1] - 1) / (WIDTH - 1)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom, right = np.ceil(rows).astype(int), np.ceil(columns).astype(int)
    down, across = (rows - top)[:, None, None], (columns - left)[None, :, None]
    above = picture[top][:, left] * (1 - across) + picture[top][:, right] * across
    below = picture[bottom][:, left] * (1 - across) + picture[bottom][:, right] * across
    return above * (1 - down) + below * down


def check_background() -> None:
    faded = pictures.transparent(PICTURE)
    for name, colour in (("white", 255), ("black", 0), ("both", 255)):
        below = Image.new("RGBA", faded.size, (colour, colour, colour, 255))
        expected = Image.alpha_composite(below, faded).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        assert off(ours(png(faded), background=name), expected) <= 1, name


def check_rotate() -> None:
    for number in range(1, 9):
        content = pictures.turned(PICTURE, "PNG", number)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        assert upright is not None
        stored = Image.open(io.BytesIO(content))
        for rotate, picture in ((True, upright), (False, stored)):
            expected = picture.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
            assert off(ours(content, rotate=rotate), expected) == 0, (number, rotate)


def check_draft() -> None:
    content = pictures.encoded(LARGE.copy(), "JPEG", quality=90)
    size = {"width": 400, "height": 300}
    exact = ours(content, **size)
    drift = {
        draft: float(np.abs(ours(content, draft=draft, **size).astype(int) - exact).mean())
        for draft in (8.0, 4.0, 2.0, 1.0)
    }
    assert drift[8.0] == drift[4.0] == 0  # the picture is only four times as large: it is decoded whole
    assert 0 < drift[2.0] < 0.6
    assert drift[2.0] < drift[1.0]
    for keys in ({"filter": "nearest"}, {"antialias": False}, {"antialias": False, "align_corners": True}):
        assert off(ours(content, draft=2.0, **keys), ours(content, **keys)) == 0, keys


def check_frames() -> None:
    shots = [pictures.solid((at * 20, 0, 0)) for at in range(9)]
    film = pictures.encoded(shots[0], "GIF", save_all=True, append_images=shots[1:])
    recipe = Recipe(width=8, height=8, frames=FrameSampling(sample=3))
    assert decode(io.BytesIO(film), recipe, LIMITS).sampled == 3


# -- the engine's keys -----------------------------------------------------------------------------------------------


def check_arithmetic() -> None:
    """The three ways in which Keras's applications prepare their input."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    from keras.src.applications.imagenet_utils import preprocess_input

    from nsfwd.engines.backends import preprocess

    pixels = ours(png())[None]
    ways: dict[str, dict[str, Any]] = {
        "tf": {"scale": 1 / 127.5, "mean": (1.0, 1.0, 1.0)},
        "torch": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        "caffe": {"scale": 1.0, "mean": (103.939, 116.779, 123.68), "channels": "bgr"},
    }
    for mode, keys in ways.items():
        recipe = Recipe(width=WIDTH, height=HEIGHT, **keys)
        theirs = preprocess_input(pixels.astype(np.float32), mode=mode)
        assert off(np.asarray(preprocess(pixels, recipe)), theirs) < 1e-4, mode


CHECKS: dict[str, Callable[[], None]] = {
    "width": check_size,
    "height": check_size,
    "fit": check_fit,
    "filter": check_filter,
    "antialias": check_antialias,
    "align_corners": check_align_corners,
    "channels": check_arithmetic,
    "scale": check_arithmetic,
    "mean": check_arithmetic,
    "std": check_arithmetic,
    "background": check_background,
    "rotate": check_rotate,
    "draft": check_draft,
    "frames": check_frames,
}
"""Key -> what shows that it means what it says."""


def test_every_key_is_checked() -> None:
    assert set(CHECKS) == {field.name for field in msgspec.structs.fields(Recipe)} - {"reason"}


@pytest.mark.parametrize("check", dict.fromkeys(CHECKS.values()), ids=lambda check: check.__name__)
def test_key(check: Callable[[], None]) -> None:
    check()
