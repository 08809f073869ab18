"""What a reply says to a person, and whether the picture may be published."""

from __future__ import annotations

import pytest

from nsfwd.client.results import graded, to_reply
from tests.unit.fakedaemon import failed, scored


@pytest.mark.parametrize(
    ("score", "threshold", "text"),
    [
        (0.86, 0.8, "x 0.86"),
        (0.8, 0.8, "x 0.80"),
        (0.7996, 0.8, "x 0.7996"),
        (0.79999999, 0.8, "x 0.79999999"),
        (0.849, 0.8, "x 0.85"),
        (0.0, 0.5, "x 0.00"),
        (1.0, None, "x 1.00"),
        (None, None, "x"),
    ],
)
def test_the_deciding_score_is_never_rounded_across_the_threshold(
    score: float | None, threshold: float | None, text: str
) -> None:
    assert graded("x", score, threshold) == text


@pytest.mark.parametrize(
    ("verdict", "alarm", "tiers", "publish"),
    [
        ("safe", False, (), True),
        ("safe", True, (), False),
        ("review", False, (), False),
        ("sensitive", True, (), False),
        ("review", False, ("safe", "review"), True),
        ("safe", False, ("review",), False),
        ("sensitive", True, ("safe", "review"), False),
    ],
)
def test_only_the_lowest_tier_is_published_unless_tiers_are_named(
    verdict: str, alarm: bool, tiers: tuple[str, ...], publish: bool
) -> None:
    assert to_reply(scored("/a") | {"verdict": verdict, "alarm": alarm}).may_publish(*tiers) is publish


@pytest.mark.parametrize("status", ["skipped", "error", "refused"])
def test_what_has_no_score_is_never_published(status: str) -> None:
    assert not to_reply(failed("/a", status, "busy")).may_publish("safe", "", "review")
