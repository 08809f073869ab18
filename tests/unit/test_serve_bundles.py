"""Which bundles a daemon opens, under which names and policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nsfwd.config import Settings
from nsfwd.errors import BundleError, SettingsError
from nsfwd.server.daemon import open_bundles
from tests.echo_bundle import echo_bundle

STRICT = {"groups": {"nude": ["porn"]}, "tiers": [{"name": "safe"}, {"name": "bad", "group": "nude", "threshold": 0.1}]}


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    echo_bundle(tmp_path)
    return tmp_path


def opened(models_dir: Path, **settings: Any) -> Any:
    [bundle] = open_bundles(Settings(models_dir=str(models_dir), **settings))
    return bundle


def test_the_short_name_is_the_settings_or_the_bundles_own(models_dir: Path) -> None:
    assert opened(models_dir, models=("echo",)).name == "nsfw"
    assert opened(models_dir, models=("echo=mine",)).name == "mine"


@pytest.mark.parametrize("key", ["echo", "mine"])
def test_the_sites_policy_replaces_the_bundles_and_not_the_models_identity(models_dir: Path, key: str) -> None:
    plain = opened(models_dir, models=("echo=mine",))
    strict = opened(models_dir, models=("echo=mine",), policy={key: STRICT})
    assert strict.model_identity == plain.model_identity
    assert strict.policy_identity != plain.policy_identity
    assert strict.policy.tiers[1].name == "bad"


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"nsfw": {}, "echo": {}}, "[policy.echo]: no bundle of that name"),
        ({"other": STRICT}, "[policy.other]: no bundle of that name is served (served: nsfw)"),
        ({"echo": {"grups": {}}}, "[policy.echo]: object contains unknown field grups"),
        ({"echo": {"thresholds": {"review": "high"}}}, "[policy.echo]: expected float, got str at thresholds[...]"),
        ({"echo": {"thresholds": {"revue": 0.4}}}, "there is no tier 'revue' (there: safe, review, sensitive)"),
        ({"echo": {"alarms": ["worst"]}}, "there is no tier 'worst'"),
        ({"echo": {"thresholds": {"review": 1.5}}}, "tier 'review' has threshold 1.5; it must be in (0, 1]"),
        ({"echo": {"thresholds": {"sensitive": 0.0}}}, "tier 'sensitive' has threshold 0.0; it must be in (0, 1]"),
        (
            {"echo": {"thresholds": {"review": 0.9}}},
            "tier 'sensitive' must have a higher threshold than the tier below",
        ),
        ({"echo": {"thresholds": {"safe": 0.1}}}, "the first tier 'safe' is the floor: no group, threshold or alarm"),
        (
            {"echo": {"groups": {"sensitive": ["prn"]}}},
            "'prn', which is not a label of this model (drawings, hentai, neutral",
        ),
        ({"echo": {"groups": {"safe": ["neutral"]}}}, "names the group 'sensitive', which does not exist"),
    ],
)
def test_a_policy_that_fits_nothing_is_refused(models_dir: Path, policy: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        opened(models_dir, models=("echo",), policy=policy)
    assert words in str(caught.value)
    assert str(caught.value).startswith("[policy.")
    assert "\n" not in str(caught.value)


def test_a_part_of_the_policy_is_changed_and_the_rest_stays(models_dir: Path) -> None:
    plain = opened(models_dir, models=("echo",))
    change = {"thresholds": {"review": 0.3}, "alarms": ["review", "sensitive"]}
    changed = opened(models_dir, models=("echo",), policy={"nsfw": change})
    assert changed.policy.groups == plain.policy.groups
    assert [(tier.name, tier.group, tier.threshold, tier.alarm) for tier in changed.policy.tiers] == [
        ("safe", None, None, False),
        ("review", "sensitive", 0.3, True),
        ("sensitive", "sensitive", 0.8, True),
    ]
    assert changed.model_identity == plain.model_identity
    assert changed.policy_identity != plain.policy_identity
    assert changed.policy.name == "nsfw"
    quiet = opened(models_dir, models=("echo",), policy={"nsfw": {"alarms": [], "name": "quiet"}})
    assert not any(tier.alarm for tier in quiet.policy.tiers)
    assert quiet.policy_identity.startswith("quiet@")


def test_without_tiers_the_label_is_the_verdict(models_dir: Path) -> None:
    assert opened(models_dir, models=("echo",), policy={"echo": {"tiers": []}}).policy.tiers == ()


def test_a_missing_bundle_is_named(models_dir: Path) -> None:
    with pytest.raises(BundleError, match="nowhere"):
        opened(models_dir, models=("nowhere",))
