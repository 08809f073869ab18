"""Verdicts: tiers on unrounded scores, what decided, several models, and scores that are none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsfwd.bundles.bundle_store import Bundle, default_policy
from nsfwd.bundles.manifest import FrameSampling, Output, identity
from nsfwd.bundles.policy import Policy, Tier
from nsfwd.bundles.verdict import Judge, View, check_scores, golden_drift, judge
from nsfwd.errors import CodedError
from tests.echo_bundle import FIVE_TIERS, LABELS
from tests.unit.shelf import manifest


def bundle(name: str = "nsfw", policy: Policy | None = FIVE_TIERS, **changes: Any) -> Bundle:
    made = manifest(files={"model.keras": "0" * 64}, policy=policy, **changes)
    used = policy or default_policy(made)
    return Bundle(name, Path("/nowhere"), made, used, "f32", identity(made, "f32"), used.identity)


def scores(sensitive: float) -> list[float]:
    return [0.0, 0.0, 1.0 - sensitive, sensitive, 0.0]


@pytest.mark.parametrize(
    ("sensitive", "verdict", "alarm", "threshold"),
    [
        (0.0, "safe", False, 0.5),
        (math.nextafter(0.5, 0), "safe", False, 0.5),
        (0.4999999, "safe", False, 0.5),
        (0.5, "review", False, 0.5),
        (0.7999999, "review", False, 0.5),
        (0.8, "sensitive", True, 0.8),
        (1.0, "sensitive", True, 0.8),
    ],
)
def test_tiers_are_reached_on_unrounded_scores(sensitive: float, verdict: str, alarm: bool, threshold: float) -> None:
    found = judge({"nsfw": scores(sensitive)}, {"nsfw": bundle()})
    assert (found.verdict, found.alarm, found.verdicts) == (verdict, alarm, {"nsfw": verdict})
    assert (found.because.group, found.because.score, found.because.threshold) == ("sensitive", sensitive, threshold)


def test_judgement_tells_everything_in_label_order() -> None:
    found = judge({"nsfw": [0.02, 0.0, 0.93, 0.01, 0.04]}, {"nsfw": bundle()})
    assert list(found.scores["nsfw"].items()) == list(zip(LABELS, [0.02, 0.0, 0.93, 0.01, 0.04], strict=True))
    assert found.groups["nsfw"] == {"safe": pytest.approx(0.95), "sensitive": pytest.approx(0.05)}
    assert (found.label, found.score) == ("neutral", 0.93)
    assert found.model == {"nsfw": bundle().model_identity}
    assert found.policy == FIVE_TIERS.identity


def seen(*sensitive: float, background: str = "") -> list[View]:
    return [View(frame, background, {"nsfw": scores(one)}) for frame, one in enumerate(sensitive)]


@pytest.mark.parametrize(
    ("policy", "expected", "verdict"),
    [
        (FrameSampling(sample=4), 2, "sensitive"),
        (FrameSampling(sample=4, quorum=2), 1, "review"),
        (FrameSampling(sample=4, quorum=3), 3, "review"),
        (FrameSampling(sample=4, quorum=4), 0, "safe"),
        (FrameSampling(sample=9, quorum=9), 0, "safe"),
    ],
)
def test_the_frame_that_completes_the_quorum_decides(policy: FrameSampling, expected: int, verdict: str) -> None:
    found, decisive = Judge({"nsfw": bundle()}).judge_views(seen(0.1, 0.7, 0.9, 0.6), {"nsfw": policy})
    assert (decisive.frame, found.verdict) == (expected, verdict)
    assert found.groups["nsfw"]["sensitive"] == decisive.results["nsfw"][3]


def test_the_mean_of_the_frames_is_judged_and_the_worst_is_shown() -> None:
    policy = FrameSampling(sample=4, combine="mean")
    found, decisive = Judge({"nsfw": bundle()}).judge_views(seen(0.2, 1.0, 0.6), {"nsfw": policy})
    assert found.groups["nsfw"]["sensitive"] == pytest.approx(0.6)
    assert (found.verdict, decisive.frame) == ("review", 1)


@pytest.mark.parametrize(
    ("white", "black", "expected"), [(0.3, 0.6, "black"), (0.6, 0.3, "white"), (0.1, 0.2, "black")]
)
def test_of_two_backgrounds_the_worse_counts_also_below_every_tier(white: float, black: float, expected: str) -> None:
    both = [View(0, "white", {"nsfw": scores(white)}), View(0, "black", {"nsfw": scores(black)})]
    for policy in (FrameSampling(), FrameSampling(combine="mean"), FrameSampling(sample=2, quorum=2)):
        found, decisive = Judge({"nsfw": bundle()}).judge_views(both, {"nsfw": policy})
        assert decisive.background == expected
        assert found.groups["nsfw"]["sensitive"] == max(white, black)


def test_an_alarm_outranks_a_wider_margin_and_without_tiers_the_first_view_counts() -> None:
    found, decisive = Judge({"nsfw": bundle()}).judge_views(seen(0.79, 0.8), {"nsfw": FrameSampling(sample=2)})
    assert (decisive.frame, found.alarm) == (1, True)
    _, decisive = Judge({"nsfw": bundle(policy=None)}).judge_views(seen(0.1, 0.9), {"nsfw": FrameSampling(sample=2)})
    assert decisive.frame == 0


def test_a_single_view_that_is_no_probability_spoils_the_image() -> None:
    with pytest.raises(CodedError, match="bad_scores"):
        Judge({"nsfw": bundle()}).judge_views(seen(0.1, math.nan), {"nsfw": FrameSampling(sample=2)})


def test_without_policy_the_top_label_is_the_verdict_and_never_an_alarm() -> None:
    found = judge({"nsfw": scores(0.99)}, {"nsfw": bundle(policy=None)})
    assert (found.verdict, found.alarm) == ("porn", False)
    assert list(found.groups["nsfw"]) == list(LABELS)
    assert found.because.threshold is None


def test_hidden_labels_are_summed_but_not_shown() -> None:
    output = Output(labels=LABELS, hidden=("neutral",), activation="softmax")
    found = judge({"nsfw": [0.1, 0.0, 0.8, 0.1, 0.0]}, {"nsfw": bundle(output=output)})
    assert "neutral" not in found.scores["nsfw"]
    assert found.label == "drawings"
    assert found.groups["nsfw"]["safe"] == pytest.approx(0.9)


def test_a_group_is_never_above_one() -> None:
    found = judge({"nsfw": [0.0, 0.502, 0.0, 0.502, 0.0]}, {"nsfw": bundle()})
    assert found.groups["nsfw"] == {"safe": 0.0, "sensitive": 1.0}


def test_of_tiers_that_came_equally_close_the_lower_one_is_named() -> None:
    near = Policy(
        name="near",
        groups={"drawn": ("hentai",), "real": ("porn",)},
        tiers=(
            Tier(name="ok"),
            Tier(name="review", group="drawn", threshold=0.5),
            Tier(name="hit", group="real", threshold=0.5, alarm=True),
        ),
    )
    found = judge({"nsfw": [0.5, 0.25, 0.0, 0.25, 0.0]}, {"nsfw": bundle(policy=near)})
    assert (found.verdict, found.because.group) == ("ok", "drawn")


def test_an_alarm_outranks_a_higher_tier_of_another_model() -> None:
    calm = Policy(
        name="calm",
        groups={"g": ("porn",)},
        tiers=(
            Tier(name="ok"),
            Tier(name="low", group="g", threshold=0.1),
            Tier(name="high", group="g", threshold=0.2),
        ),
    )
    alarming = Policy(
        name="alarming",
        groups={"g": ("porn",)},
        tiers=(Tier(name="ok"), Tier(name="hit", group="g", threshold=0.1, alarm=True)),
    )
    policies = {"first": calm, "second": alarming}
    for order in (("first", "second"), ("second", "first")):
        judge_both = Judge({name: bundle(name, policy=policies[name]) for name in order})
        found = judge_both.judge(dict.fromkeys(order, scores(0.9)))
        assert (found.verdict, found.alarm) == ("hit", True)


def test_the_worst_of_several_models_decides() -> None:
    alarm_low = Policy(
        name="site",
        groups={"g": ("porn",)},
        tiers=(Tier(name="ok"), Tier(name="hit", group="g", threshold=0.1, alarm=True)),
    )
    bundles = {"first": bundle("first"), "second": bundle("second", policy=alarm_low)}
    found = Judge(bundles).judge({"first": scores(0.6), "second": scores(0.2)})
    assert found.verdicts == {"first": "review", "second": "hit"}
    assert (found.verdict, found.alarm, found.because.model) == ("hit", True, "second")
    assert found.policy == f"{FIVE_TIERS.identity},{alarm_low.identity}"
    calm = Judge(bundles).judge({"first": scores(0.6), "second": scores(0.05)})
    assert (calm.verdict, calm.because.model) == ("review", "first")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.01, 1.01, 1e30])
def test_what_is_no_probability_is_refused(activation: Any, place: int, bad: float) -> None:
    values = [0.2] * 5
    values[place] = bad
    with pytest.raises(CodedError) as caught:
        check_scores(values, activation)
    assert caught.value.code == "bad_scores"


@pytest.mark.parametrize("values", [[], [0.0] * 5, [1.0] * 5, [0.2, 0.2, 0.2, 0.2, 0.18], [0.2, 0.2, 0.2, 0.2, 0.22]])
def test_softmax_must_sum_to_one(values: list[float]) -> None:
    with pytest.raises(CodedError, match="bad_scores"):
        check_scores(values, "softmax")


@pytest.mark.parametrize("values", [[0.0] * 5, [1.0] * 5, [0.5]])
def test_sigmoid_may_sum_to_anything(values: list[float]) -> None:
    check_scores(values, "sigmoid")


def test_rounding_of_low_precision_is_moved_into_range() -> None:
    found = judge({"nsfw": [-0.0005, 0.0, 1.0005, 0.0, 0.0]}, {"nsfw": bundle()})
    assert min(found.scores["nsfw"].values()) == 0.0
    assert max(found.scores["nsfw"].values()) == 1.0


@pytest.mark.parametrize("values", [[0.5, 0.5], [1.0, 0, 0, 0, 0, 0], [math.nan] * 5])
def test_no_verdict_from_bad_scores(values: list[float]) -> None:
    with pytest.raises(CodedError, match="bad_scores"):
        judge({"nsfw": values}, {"nsfw": bundle()})


def test_policy_identity_depends_on_its_content_alone() -> None:
    same = msgspec.structs.replace(FIVE_TIERS)
    assert same.identity == FIVE_TIERS.identity
    stricter = msgspec.structs.replace(FIVE_TIERS.tiers[1], threshold=0.4)
    other = msgspec.structs.replace(FIVE_TIERS, tiers=(FIVE_TIERS.tiers[0], stricter, FIVE_TIERS.tiers[2]))
    assert other.identity != FIVE_TIERS.identity
    assert bundle(policy=other).model_identity == bundle().model_identity


def test_golden_drift_is_the_largest_difference() -> None:
    assert golden_drift(manifest(), "one.png", [0.2, 0.2, 0.2, 0.25, 0.15]) == pytest.approx(0.05)
    with pytest.raises(CodedError, match="bad_scores"):
        golden_drift(manifest(), "one.png", [math.nan] * 5)
