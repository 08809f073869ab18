"""The pictures: the same bytes for everybody, made by code, so that no download and no licence stands in the way.

Photo-like JPEGs of two sizes, **small** around 0.19 megapixels (the median of a thousand real photos of the web) and
**large** of 2 megapixels (a phone's picture as sites store it). Size and compressibility decide what decoding costs;
smooth noise at several scales with a little grain compresses like a photo.
"""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "small": ((500, 375), (375, 500), (500, 400), (480, 360), (640, 320)),
    "large": ((1632, 1224), (1224, 1632), (1920, 1080), (1600, 1200)),
}
QUALITY = 87
"""Of JPEG: the middle of what cameras and web sites use."""


def make(directory: Path, kind: str, count: int) -> list[Path]:
    """Make (once) and name ``count`` pictures of one kind.

    Args:
        kind: a key of ``SIZES``.
    """
    directory = directory / kind
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{number:05}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            sizes = SIZES[kind]
            draft = path.with_suffix(".part")
            photo(number, sizes[number % len(sizes)]).save(draft, "JPEG", quality=QUALITY)
            draft.rename(path)
    return paths


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
