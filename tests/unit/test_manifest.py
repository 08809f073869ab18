"""Manifests: what is read, what is refused, and what an identity depends on."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest

from nsfwd.bundles.bundle_store import catalogue
from nsfwd.bundles.manifest import FrameSampling, Output, Recipe, dump_manifest, identity, parse_manifest
from nsfwd.bundles.toml_writer import dump_toml
from nsfwd.errors import BundleError
from tests.echo_bundle import LABELS
from tests.unit.shelf import manifest

WITH_FILES = manifest(files={"model.keras": "0" * 64})


def test_dumped_manifest_reads_back_equal() -> None:
    assert parse_manifest(dump_manifest(WITH_FILES), "there") == WITH_FILES


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ('name = "tiny"', 'name = "tiny"\nnmae = 1', "nmae"),
        ("width = 8", "width = 8\nfliter = 1", "fliter"),
        ("width = 8", "width = 0", "width"),
        ('filter = "bilinear"', 'filter = "cubic"', "cubic"),
        ('filter = "bilinear"\nantialias = true', 'filter = "lanczos"\nantialias = false', "lanczos"),
        ("align_corners = false", "align_corners = true", "align_corners"),
        ("draft = 2.0", "draft = 0.5", "draft"),
        ("mean = []", "mean = [0.5]", "three"),
        ("std = []", "std = [1.0, 0.0, 1.0]", "std"),
        ('"drawings", "hentai"', '"drawings", "drawings"', "labels"),
        ("hidden = []", 'hidden = ["other"]', "other"),
        ('activation = "softmax"', 'activation = "relu"', "activation"),
        ('name = "tiny"', 'name = "../tiny"', "name"),
        ('file = "one.png"', 'file = "../one.png"', "plain file name"),
        ('"model.keras" = "0', '"../model.keras" = "0', "safe path"),
        ('"model.keras" = "0', '"/model.keras" = "0', "safe path"),
        ('"model.keras" = "0', '"model.keras" = "x', "digest"),
        ('"porn", "sexy"]\n\n', '"porn", "gore"]\n\n', "gore"),
        ("threshold = 0.8", "threshold = 0.4", "higher threshold"),
        ("threshold = 0.8", "threshold = 1.5", "(0, 1]"),
        ('group = "sensitive"\nthreshold = 0.5', "threshold = 0.5", "review"),
        ("name = ", "name == ", "there"),
    ],
)
def test_wrong_manifest_is_refused_in_one_line(before: str, after: str, complaint: str) -> None:
    text = dump_manifest(WITH_FILES)
    assert before in text
    with pytest.raises(BundleError) as caught:
        parse_manifest(text.replace(before, after, 1), "there")
    assert str(caught.value).startswith("there: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"model.keras": "1" * 64}},
        {"recipe": Recipe(width=8, height=8, filter="nearest")},
        {"recipe": Recipe(width=8, height=8, frames=FrameSampling(sample=3))},
        {"output": Output(labels=LABELS[::-1], activation="softmax")},
        {"output": Output(labels=LABELS, activation="sigmoid")},
    ],
)
def test_identity_changes_with_what_changes_scores(changes: dict[str, Any]) -> None:
    assert identity(msgspec.structs.replace(WITH_FILES, **changes), "f32") != identity(WITH_FILES, "f32")


def test_identity_changes_with_precision() -> None:
    full, half = identity(WITH_FILES, "f32"), identity(WITH_FILES, "bf16")
    assert full.startswith("tiny@")
    assert half.endswith("/bf16")
    assert full.split("/")[0] != half.split("/")[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": None},
        {"summary": "another"},
        {"goldens": ()},
        {"recipe": Recipe(width=8, height=8, reason="because")},
        {"files": {"model.keras": "0" * 64, "LICENSE": "2" * 64}},
    ],
)
def test_identity_stays_when_scores_stay(changes: dict[str, Any]) -> None:
    assert identity(msgspec.structs.replace(WITH_FILES, **changes), "f32") == identity(WITH_FILES, "f32")


def test_catalogue_is_complete() -> None:
    assert list(catalogue()) == ["nsfw-inception-v3", "nsfw-mobilenet-v2-100", "nsfw-mobilenet-v2-140"]
    for entry in catalogue().values():
        known = entry.manifest
        assert known.source.integrity.startswith("sha512-")
        assert known.licence.name == "MIT"
        assert known.licence.notices
        assert len(known.goldens) >= 4
        assert set(known.tolerance) == {"f32", "f16", "bf16", "int8"}
        assert known.recipe.reason
        assert known.good_for
        assert any("child abuse" in line for line in known.bad_for)
        assert known.policy is not None
        assert [(tier.name, tier.threshold, tier.alarm) for tier in known.policy.tiers] == [
            ("safe", None, False),
            ("review", 0.5, False),
            ("sensitive", 0.8, True),
        ]
        assert not known.files


def test_toml_spells_every_kind_of_value() -> None:
    document = {
        "text": 'a "quoted"\nline\\ \x7f é',
        "number": 3,
        "share": 1e-09,
        "yes": True,
        "list": [1.5, 2.0],
        "table": {"odd key.": 1, "empty": {}},
        "tables": [{"inner": {"x": 1}}, {"inner": {"x": 2}}],
    }
    assert tomllib.loads(dump_toml({**document, "nothing": None})) == document
