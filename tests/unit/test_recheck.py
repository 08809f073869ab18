"""Which images a reduced precision may judge wrongly, and that scoring those again gives full precision's verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nsfwd.bundles.manifest import Output
from nsfwd.bundles.policy import Policy, Tier
from nsfwd.bundles.verdict import Judge, borders
from nsfwd.engines.contract import Pixels, Probabilities
from nsfwd.engines.recheck import near_a_border, score_again
from nsfwd.errors import BundleError
from nsfwd.ipc.child_messages import Recheck
from tests.echo_bundle import LABELS
from tests.unit.shelf import make_bundle, manifest

SENSITIVE = (1, 3, 4)
TIERS = Recheck(0.1, ((SENSITIVE, 0.5), (SENSITIVE, 0.8)))
TOP = Recheck(0.1, (), (0, 1, 2, 3, 4))


def row(sensitive: float) -> list[float]:
    return [(1 - sensitive) / 2, sensitive / 4, (1 - sensitive) / 2, sensitive / 4, sensitive / 2]


@pytest.mark.parametrize(
    ("sensitive", "near"),
    [(0.0, False), (0.39, False), (0.41, True), (0.59, True), (0.61, False), (0.69, False), (0.71, True), (1.0, False)],
)
def test_an_image_near_a_threshold_is_scored_again(sensitive: float, near: bool) -> None:
    assert near_a_border(np.array([row(sensitive)], np.float32), TIERS).tolist() == [near]


@pytest.mark.parametrize(("first", "near"), [(0.5, False), (0.41, False), (0.39, True), (0.2, True)])
def test_where_the_top_label_decides_two_that_are_close_are_scored_again(first: float, near: bool) -> None:
    scores = np.array([[0.2, first, 0.0, 0.0, 0.0]], np.float32)
    assert near_a_border(scores, TOP).tolist() == [near]


def test_scores_that_are_no_numbers_are_near_nothing() -> None:
    scores = np.full((1, 5), np.nan, np.float32)
    assert not near_a_border(scores, TIERS).any()
    assert not near_a_border(scores, TOP).any()


def test_one_label_has_no_rival() -> None:
    assert not near_a_border(np.array([[0.5]], np.float32), Recheck(0.1, (), (0,))).any()


class Exact:
    """Full precision: the number in an image's first pixel is the row of its scores."""

    def __init__(self, scores: Probabilities) -> None:
        self.scores = scores
        self.seen: list[int] = []

    def score(self, images: Sequence[Pixels] | Pixels) -> Probabilities:
        rows = [int(image[0, 0, 0]) for image in images]
        self.seen += rows
        return self.scores[rows]


def test_only_what_is_near_is_scored_again_and_in_its_place() -> None:
    exact = Exact(np.array([row(0.1), row(0.49), row(0.2), row(0.83)], np.float32))
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1).repeat(3, axis=3)
    quick = np.array([row(0.12), row(0.51), row(0.22), row(0.79)], np.float32)
    untouched = quick[[0, 2]].copy()
    assert score_again(exact, images, quick, TIERS) == 2  # type: ignore[arg-type]  # all that is used of an engine
    assert exact.seen == [1, 3]
    np.testing.assert_array_equal(quick[[1, 3]], exact.scores[[1, 3]])
    np.testing.assert_array_equal(quick[[0, 2]], untouched)
    assert score_again(exact, images, untouched, TIERS) == 0  # type: ignore[arg-type]


def test_verdicts_are_those_of_full_precision(tmp_path: Path) -> None:
    """Whatever the change, as long as no group changes by more than the drift."""
    bundle = make_bundle(tmp_path, drift={"bf16": 0.1})
    random = np.random.default_rng(7)
    sums = random.uniform(0, 1, 250)
    exact = np.array([row(value) for value in sums], np.float32)
    quick = np.array([row(value) for value in np.clip(sums + random.uniform(-0.1, 0.1, 250), 0, 1)], np.float32)
    judge = Judge({"nsfw": bundle})

    def verdicts(scores: Probabilities) -> list[str]:
        return [judge.judge({"nsfw": one}).verdict for one in scores.tolist()]

    images = np.arange(250, dtype=np.uint8).reshape(250, 1, 1, 1).repeat(3, axis=3)
    assert verdicts(quick) != verdicts(exact)
    again = score_again(Exact(exact), images, quick, Recheck(0.1, *borders(bundle)))  # type: ignore[arg-type]
    assert 0 < again < 200
    assert verdicts(quick) == verdicts(exact)


def test_borders_are_those_of_the_policy_served(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    thresholds, contest = borders(bundle)
    assert thresholds == ((SENSITIVE, 0.5), (SENSITIVE, 0.8))
    assert contest == ()


def test_without_tiers_the_shown_labels_contest(tmp_path: Path) -> None:
    output = Output(labels=LABELS, hidden=("drawings",), activation="softmax")
    bundle = make_bundle(tmp_path, policy=None, output=output)
    assert borders(bundle) == ((), (1, 2, 3, 4))


def test_a_policy_with_one_verdict_has_no_borders(tmp_path: Path) -> None:
    policy = Policy(name="flat", groups={"all": LABELS}, tiers=(Tier(name="safe"),))
    assert borders(make_bundle(tmp_path, policy=policy)) == ((), ())


def test_drift_is_measured_or_what_goldens_may_be_off() -> None:
    measured = manifest(drift={"bf16": 0.2}, tolerance={"f32": 0.005, "f16": 0.03})
    assert [measured.drift_for(precision) for precision in ("f32", "bf16", "f16")] == [0.0, 0.2, 0.03]
    with pytest.raises(BundleError, match="no tolerance for precision int8"):
        measured.drift_for("int8")
