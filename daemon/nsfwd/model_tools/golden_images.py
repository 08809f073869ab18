"""Golden pictures, made by integer arithmetic, so that every machine draws the same pixels. Standard library only.

They show nothing: ramps, noise, checkers, folds. They differ in size, aspect and colour, so that a wrong channel order,
scale, filter or orientation moves their scores.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

Pixel = tuple[int, int, int]


class GoldenPicture(NamedTuple):
    """A picture to draw: its size, and the colour at (x, y)."""

    width: int
    height: int
    colour: Callable[[int, int], Pixel]

    def pixels(self) -> bytes:
        """RGB, row by row, three bytes a pixel."""
        return b"".join(bytes(self.colour(x, y)) for y in range(self.height) for x in range(self.width))

    def png(self) -> bytes:
        """The picture as a PNG file."""
        pixels, stride = self.pixels(), 3 * self.width
        rows = b"".join(b"\0" + pixels[at : at + stride] for at in range(0, len(pixels), stride))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _noise(x: int, y: int) -> int:
    """A byte of noise for a place: one step of a linear congruential generator over the mixed coordinates.

    Source: the multiplier and increment are those of Numerical Recipes, modulo 2^32.
    """
    seed = (x * 73856093) ^ (y * 19349663)
    for _ in range(2):
        seed = (seed * 1664525 + 1013904223) & 0xFFFFFFFF
    return seed >> 24


def _ramp(x: int, y: int) -> Pixel:
    return (x * 255 // 223, y * 255 // 223, (x + y) * 255 // 446)


def _cells(x: int, y: int) -> Pixel:
    x, y = x // 11, y // 11
    return (_noise(x, y), _noise(x + 1000, y), _noise(x, y + 1000))


def _checkers(x: int, y: int) -> Pixel:
    dark = (x // 32 + y // 32) % 2
    return (30 + x // 8, 40, 160) if dark else (235, 225 - y // 4, 90)


def _sheen(x: int, y: int) -> Pixel:
    phase = (x - 200) * (y - 150) // 64 % 256
    light = phase if phase < 128 else 255 - phase
    return (60 + light, 50 + light * 3 // 4 + x // 8, 80 + y // 4)


def _folds(x: int, y: int) -> Pixel:
    across = (x - y // 3) % 260 - 130
    light = (16_900 - across * across) * 170 // 16_900
    return (60 + light, 40 + light * 4 // 5, 35 + light * 3 // 4)


def _stripes(x: int, y: int) -> Pixel:
    phase = (x * 3 + y * 2) % 48
    wave = phase if phase < 24 else 48 - phase
    return (250 - wave * 4, 190 - wave * 5, 165 - wave * 4)


PICTURES: dict[str, GoldenPicture] = {
    "ramp.png": GoldenPicture(224, 224, _ramp),
    "cells.png": GoldenPicture(301, 224, _cells),
    "checkers.png": GoldenPicture(512, 384, _checkers),
    "sheen.png": GoldenPicture(400, 300, _sheen),
    "folds.png": GoldenPicture(300, 420, _folds),
    "stripes.png": GoldenPicture(180, 130, _stripes),
}
"""File name -> picture. A picture may be added, but never changed: bundles pin the scores of these pixels."""


def draw(names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The named pictures as PNG files.

    Raises:
        KeyError: there is no such picture; the caller's defect.
    """
    for name in names:
        yield name, PICTURES[name].png()
