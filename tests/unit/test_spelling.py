"""What a reply becomes in an index."""

from __future__ import annotations

from typing import Any

import pytest

from nsfwd.bundles.policy import Policy, Tier
from nsfwd.client.results import to_reply
from nsfwd.scanning.submission.reply_mapping import judged_of
from nsfwd.scanning.trees.file_entry import FileEntry

FOUND = FileEntry(b"/srv", b"statue.jpg", 1, 2, 3, 4, 5)

POLICY = Policy(
    name="site",
    groups={"bad": ("porn", "sexy")},
    tiers=(Tier(name="safe"), Tier(name="bad", group="bad", threshold=0.5, alarm=True)),
)


def reply(because: dict[str, Any], scores: dict[str, float]) -> dict[str, Any]:
    label = max(scores, key=scores.__getitem__)
    told = {"status": "ok", "verdict": "safe", "alarm": False, "label": label, "score": scores[label]}
    return told | {"scores": {"nsfw": scores}, "because": because}


def test_the_score_is_of_what_decided() -> None:
    because = {"model": "nsfw", "group": "bad", "score": 0.3, "threshold": 0.5}
    judged = judged_of(FOUND, to_reply(reply(because, {"porn": 0.2, "sexy": 0.1, "neutral": 0.7})), {})
    assert judged.score == 0.3


@pytest.mark.parametrize(("porn", "score"), [(0.125, 0.25), (0.75, 0.875)])
def test_where_a_person_decided_it_is_of_what_would_have(porn: float, score: float) -> None:
    told = reply({"override": "00" * 32}, {"porn": porn, "sexy": 0.125, "neutral": 0.875 - porn})
    assert judged_of(FOUND, to_reply(told), {"nsfw": POLICY}).score == score


@pytest.mark.parametrize("policies", [{}, {"nsfw": Policy(name="other", groups={"bad": ("hidden",)})}])
def test_where_nobody_can_tell_it_is_the_label_s(policies: dict[str, Policy]) -> None:
    told = reply({"override": "00" * 32}, {"porn": 0.25, "neutral": 0.75})
    assert judged_of(FOUND, to_reply(told), policies).score == 0.75
