"""``nsfwd models compare`` as a user runs it, with two bundles whose scores are made of pixels."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from nsfwd.cli.main import run
from nsfwd.scanning.index.database import Index
from tests import pictures
from tests.echo_bundle import echo_bundle
from tests.unit.shelves import Shelf


def test_two_models_over_one_index(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    echo_bundle(tmp_path / "models", "small", side=8)
    echo_bundle(tmp_path / "models", "large", side=96, fit="crop")
    tree = tmp_path / "tree"
    tree.mkdir()
    with Index(tmp_path / "index.db") as index:
        shelf = Shelf(index)
        number = shelf.run()
        for picture in range(12):
            path = tree / f"{picture}.png"
            path.write_bytes(pictures.encoded(pictures.photo(picture), "PNG"))
            shelf.scored(os.fsencode(path), picture / 12, number, real=True)
        shelf.scored(os.fsencode(tree / "vanished.png"), 0.3, number)
    for name, value in {"NSFWD_ENGINE": "echo", "NSFWD_CACHE_DIR": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    page = tmp_path / "flips.html"
    (tmp_path / "models" / "large").rename(tmp_path / "large")
    large = str(tmp_path / "large")
    arguments = ["models", "compare", "small", large, "--index", str(tmp_path / "index.db")]
    arguments += ["--models-dir", str(tmp_path / "models"), "--html", str(page), "--format", "json"]
    assert run(arguments) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["drawn"] == told["files"] == 13 and told["unscored"] == 1
    assert [model["name"] for model in told["models"]] == ["small", large]
    assert all(model["cost"] > 0 and model["infer"] > 0 and "@" in model["model"] for model in told["models"])
    assert len(told["flips"]) == sum(row["files"] for row in told["verdicts"]) > 0
    assert stat.S_IMODE(page.stat().st_mode) == 0o600 and page.read_text().count("<img ") == len(told["flips"])
