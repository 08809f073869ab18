"""Batch sizes that an engine compiles for, and how a batch of any size is cut into them. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

CPU_BUCKET = 4
"""On a CPU the cost of an image is flat from about here on, while memory and waiting grow with the batch."""


class Piece(NamedTuple):
    """``images`` images run in a ``bucket`` of at least that size; the rest of it is padding."""

    images: int
    bucket: int


def gpu_buckets(most: int) -> tuple[int, ...]:
    """Powers of two up to ``most``, and ``most`` itself: padding wastes less than half a batch."""
    sizes = [1]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes if sizes[-1] == most else [*sizes, most])


def cpu_buckets(most: int) -> tuple[int, ...]:
    """One image alone, and a small batch."""
    return (1,) if most < CPU_BUCKET else (1, CPU_BUCKET)


def cut(images: int, buckets: Sequence[int], *, pad: bool) -> list[Piece]:
    """Cut a batch into warmed sizes, in order.

    Args:
        images: how many there are.
        buckets: warmed sizes in rising order, beginning with 1.
        pad: fill up the last piece (a GPU takes a full batch in the time of a part) or use smaller buckets (a CPU
            would pay for each padded image).
    """
    pieces: list[Piece] = []
    while images:
        if pad:
            bucket = next((size for size in buckets if size >= images), buckets[-1])
        else:
            bucket = max(size for size in buckets if size <= images)
        pieces.append(Piece(min(images, bucket), bucket))
        images -= pieces[-1].images
    return pieces
