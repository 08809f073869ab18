"""Batches are cut into warmed sizes: nothing lost, nothing padded on a CPU."""

from __future__ import annotations

import pytest

from nsfwd.engines.buckets import cpu_buckets, cut, gpu_buckets


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12)), (32, (1, 2, 4, 8, 16, 32))]
)
def test_a_gpu_has_powers_of_two_and_the_most(most: int, sizes: tuple[int, ...]) -> None:
    assert gpu_buckets(most) == sizes


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (3, (1,)), (4, (1, 4)), (32, (1, 4))])
def test_a_cpu_has_one_or_two(most: int, sizes: tuple[int, ...]) -> None:
    assert cpu_buckets(most) == sizes


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("images", [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 100])
def test_every_image_is_in_one_piece(images: int, pad: bool) -> None:
    pieces = cut(images, (1, 2, 4, 8), pad=pad)
    assert sum(piece.images for piece in pieces) == images
    for piece in pieces:
        assert 0 < piece.images <= piece.bucket
        assert piece.bucket in (1, 2, 4, 8)
        assert pad or piece.images == piece.bucket


def test_padding_is_only_in_the_last_piece() -> None:
    assert cut(11, (1, 2, 4, 8), pad=True) == [(8, 8), (3, 4)]
    assert cut(11, (1, 4), pad=False) == [(4, 4), (4, 4), (1, 1), (1, 1), (1, 1)]
