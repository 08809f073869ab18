"""Two models held against each other: what flips, how many that would be of all, and what is said of it."""

from __future__ import annotations

import pytest

from nsfwd.scanning.reports.model_comparison import Pass, Said, compared, costs, flipped
from nsfwd.scanning.reports.sampling import Drawn


def drawn(number: int, stratum: str, files: int) -> Drawn:
    return Drawn(b"/srv/%d\xff" % number, None, "safe", False, 0.1, stratum, files)


SAMPLE = [drawn(number, "low", 1000) for number in range(10)] + [drawn(10 + number, "high", 10) for number in range(10)]


def said(verdicts: dict[int, str]) -> dict[bytes, Said]:
    return {
        one.path: Said(word := verdicts.get(place, "safe"), word == "sensitive", 0.9 if word == "sensitive" else 0.1)
        for place, one in enumerate(SAMPLE)
    }


def test_flips_are_counted_both_ways_and_reckoned_up_to_the_index() -> None:
    first = Pass("a", "a@1", said({10: "sensitive", 11: "sensitive"}), seconds=0.2, decode=0.1, infer=0.06)
    second = Pass("b", "b@1", said({0: "sensitive", 11: "sensitive", 12: "review"}), seconds=0.4)
    comparison = compared(SAMPLE, first, second)
    assert comparison.files == 1010 and comparison.unscored == 0
    assert comparison.verdicts == {
        ("safe", "sensitive"): 1,
        ("safe", "safe"): 16,
        ("sensitive", "safe"): 1,
        ("sensitive", "sensitive"): 1,
        ("safe", "review"): 1,
    }
    assert [flip.path for flip in comparison.flips] == [SAMPLE[0].path, SAMPLE[10].path, SAMPLE[12].path]
    estimate = comparison.estimates["safe", "sensitive"]
    assert estimate.value == pytest.approx(100) and estimate.low < 5 and estimate.high > 400
    assert comparison.estimates["sensitive", "safe"] == pytest.approx((1, 1, 309), abs=2)
    rows = list(flipped(comparison))
    assert rows[0][:4] == ("safe", "sensitive", 1, 100) and len(rows) == 3
    assert next(iter(costs(comparison))) == ("a", "a@1", "10.00 ms", "5.00 ms", "3.00 ms")


def test_what_either_could_not_score_is_no_flip() -> None:
    first, second = Pass("a", said=said({})), Pass("b", said=said({}))
    first.said[SAMPLE[0].path] = Said("error corrupt", False, 0.0, False)
    del second.said[SAMPLE[1].path]
    comparison = compared(SAMPLE, first, second)
    assert comparison.unscored == 2 and comparison.flips == [] and comparison.estimates == {}


def test_where_a_stratum_has_no_scores_nothing_is_reckoned_up() -> None:
    first, second = Pass("a", said=said({0: "review"})), Pass("b", said=said({}))
    for one in SAMPLE[10:]:
        first.said[one.path] = Said("error not_found", False, 0.0, False)
    comparison = compared(SAMPLE, first, second)
    assert len(comparison.flips) == 1 and next(flipped(comparison)) == ("review", "safe", 1, None, None, None)
