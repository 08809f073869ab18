"""Intervals against published figures, at the edges, and by simulation: do 95 of 100 hold the truth?"""

from __future__ import annotations

import random

import pytest

from nsfwd.scanning.reports.intervals import Stratum, exact, stratified


@pytest.mark.parametrize(
    ("positive", "looked", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 5.
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_clopper_and_pearson_give_the_published_intervals(positive: int, looked: int, low: float, high: float) -> None:
    assert exact(positive, looked) == pytest.approx((low, high), abs=5e-5)
    assert exact(looked - positive, looked) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_one_stratum_of_a_large_population_is_the_plain_interval() -> None:
    assert stratified([Stratum(10**9, 263, 81)]) == pytest.approx((81 / 263, 0.2527, 0.3676), abs=5e-5)


def test_strata_count_by_their_files() -> None:
    assert stratified([Stratum(900, 10, 0), Stratum(100, 10, 10)]).value == pytest.approx(0.1)


def test_what_was_looked_at_as_a_whole_leaves_no_doubt() -> None:
    assert stratified([Stratum(10, 10, 3)]) == pytest.approx((0.3, 0.3, 0.3))
    assert stratified([Stratum(1, 1, 1), Stratum(0, 0, 0)]) == (1.0, 1.0, 1.0)


def test_where_nobody_looked_nothing_is_said() -> None:
    with pytest.raises(ValueError, match="without labels"):
        stratified([Stratum(10, 5, 1), Stratum(10, 0, 0)])
    with pytest.raises(ValueError, match="without labels"):
        stratified([])


@pytest.mark.parametrize(
    ("shares", "files", "looked"),
    [
        ((0.001, 0.002, 0.01, 0.05, 0.2), (900_000, 60_000, 20_000, 10_000, 10_000), 100),
        ((0.0, 0.0, 0.03, 0.1, 0.4), (500_000, 200_000, 100_000, 50_000, 50_000), 40),
        ((0.7, 0.85, 0.95), (4_000, 3_000, 3_000), 60),
        ((0.5, 0.9), (200, 100), 50),
    ],
)
def test_ninety_five_of_a_hundred_intervals_hold_the_truth(
    shares: tuple[float, ...], files: tuple[int, ...], looked: int
) -> None:
    chance = random.Random(1)
    positives = [round(share * count) for share, count in zip(shares, files, strict=True)]
    truth = sum(positives) / sum(files)
    rounds, held = 1000, 0
    for _ in range(rounds):
        strata = []
        for count, positive in zip(files, positives, strict=True):
            drawn = sum(index < positive for index in chance.sample(range(count), looked))
            strata.append(Stratum(count, looked, drawn))
        estimate = stratified(strata)
        held += estimate.low <= truth <= estimate.high
    assert held / rounds >= 0.945
