"""The pictures: the same for everybody, so that no private folder stands behind a figure.

Photo-like JPEGs made by code in two sizes, **small** around 0.19 megapixels (the median of a thousand real photos of
the web) and **large** of 2 megapixels (a phone's picture as sites store it). Size and compressibility decide what
decoding costs; smooth noise at several scales with a little grain compresses like a photo. No network finds anything in
noise, so none of them is ever near a threshold: images that are scored twice are found with **photos**, windows of the
pictures that scikit-image brings (public domain, CC0 and the like), in the small sizes.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "small": ((500, 375), (375, 500), (500, 400), (480, 360), (640, 320)),
    "large": ((1632, 1224), (1224, 1632), (1920, 1080), (1600, 1200)),
}
SIZES["photos"] = SIZES["small"]
KINDS = tuple(SIZES)
QUALITY = 87
"""JPEG quality: the middle of the values that cameras and web sites use."""
TAKEN = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
"""The pictures of scikit-image that were taken with a camera."""
SMALLEST = 120
"""Pixels of the shorter side of a window: less is not a picture of anything."""


class NoPhotos(RuntimeError):
    """scikit-image is not installed."""


def make(directory: Path, kind: str, count: int) -> list[Path]:
    """Make (once) and name ``count`` pictures of one kind.

    Args:
        kind: one of ``KINDS``.

    Raises:
        NoPhotos: of this kind there are none without scikit-image.
    """
    directory = directory / kind
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{number:05}.jpg" for number in range(count)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    sizes = SIZES[kind]
    wanted = ((number, sizes[number % len(sizes)]) for number in missing)
    made = windows(wanted) if kind == "photos" else (photo(*one) for one in wanted)
    for number, picture in zip(missing, made if missing else (), strict=True):
        draft = paths[number].with_suffix(".part")
        picture.save(draft, "JPEG", quality=QUALITY)
        draft.rename(paths[number])
    return paths


def windows(wanted: Iterator[tuple[int, tuple[int, int]]]) -> Iterator[Image.Image]:
    """Windows of real photos, mirrored now and then, by seed and size. RGB.

    Raises:
        NoPhotos: see ``make``.
    """
    place = importlib.util.find_spec("skimage")
    if place is None or place.origin is None:
        raise NoPhotos("pip install -c requirements.lock -e '.[bench]' brings the photos (scikit-image)")
    folder = Path(place.origin).parent / "data"
    taken = [Image.open(folder / name).convert("RGB") for name in TAKEN if (folder / name).exists()]
    for seed, size in wanted:
        source = random.Random(seed)
        picture = taken[seed % len(taken)]
        scale = min(picture.width / size[0], picture.height / size[1])  # the largest window of this shape
        scale *= source.uniform(SMALLEST / (min(size) * scale), 1.0)
        width, height = round(size[0] * scale), round(size[1] * scale)
        left, top = source.randint(0, picture.width - width), source.randint(0, picture.height - height)
        window = picture.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        yield window.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if source.random() < 0.5 else window


def photo(seed: int, size: tuple[int, int]) -> Image.Image:
    """A photo-like picture: smooth colour noise at four scales, a few shapes, a little grain. RGB."""
    source = random.Random(seed)
    picture = Image.new("RGB", size, (128, 128, 128))
    for cells, weight in ((3, 0.7), (9, 0.4), (40, 0.2), (120, 0.12)):
        noise = Image.frombytes("RGB", (cells, cells), source.randbytes(cells * cells * 3))
        picture = Image.blend(picture, noise.resize(size, Image.Resampling.BICUBIC), weight)
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = source.randrange(size[0]), source.randrange(size[1])
        radius = source.randrange(4, 4 + min(size) // 6)
        colour = (source.randrange(256), source.randrange(256), source.randrange(256))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    grain = Image.frombytes("RGB", size, source.randbytes(size[0] * size[1] * 3))
    return Image.blend(picture, grain, 0.03)
