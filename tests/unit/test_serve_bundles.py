"""Which bundles a daemon opens, under which names and policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nsfwd.config import Settings
from nsfwd.errors import BundleError, SettingsError
from nsfwd.server.main import open_bundles
from tests.integration.harness import echo_bundle

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
    [({"other": STRICT}, "no bundle of that name"), ({"echo": {"grups": {}}}, "grups")],
)
def test_a_policy_that_fits_nothing_is_refused(models_dir: Path, policy: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        opened(models_dir, models=("echo",), policy=policy)


def test_a_missing_bundle_is_named(models_dir: Path) -> None:
    with pytest.raises(BundleError, match="nowhere"):
        opened(models_dir, models=("nowhere",))
