"""A site's policy in its settings, from the file to the verdict: at a start, a reload, and without a daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import REPOSITORY, Daemon, Json, ask


def nsfwd(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsfwd", *map(str, arguments)]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=env)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.jpg"
    path.write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    return path


def spelled(text: str, models: Path) -> str:
    return f'models_dir = "{models}"\nmodels = ["echo=nsfw"]\nengine = "echo"\ndecoders = 1\n{text}'


def test_the_examples_of_the_document_are_good(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)  # which writes a bundle; it need not run
    text = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    section = text.partition("\n## Thresholds, tiers and alarms\n")[2].partition("\n## ")[0]
    examples = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 2
    identities = set()
    for example in examples:
        file = tmp_path / "nsfwd.toml"
        file.write_text(spelled(example, tmp_path / "models"))
        checked = nsfwd("config", "check", "--config", file)
        assert checked.returncode == 0, checked.stderr
        model, policy = re.findall(r"serving nsfw \((\S+), policy (\S+)\)", checked.stdout)[0]
        identities.add((model, policy.partition("@")[0]))
        shown = tomllib.loads(nsfwd("config", "show", "--config", file).stdout)
        assert shown["policy"] == tomllib.loads(example)["policy"]
    assert len({model for model, _ in identities}) == 1
    assert {name for _, name in identities} == {"nsfw", "school"}
    assert not daemon.stderr


def test_a_changed_threshold_changes_verdict_and_policy_and_nothing_else(tmp_path: Path, photo: Path) -> None:
    file = tmp_path / "nsfwd.toml"
    file.write_text("")
    with Daemon(tmp_path, flags=["--config", str(file)]) as daemon:

        def scan() -> Json:
            reply = ask(daemon.unix, {"path": str(photo)})
            assert reply["status"] == "ok"
            return reply

        def reload(text: str) -> subprocess.CompletedProcess[str]:
            file.write_text(text)
            return nsfwd("reload", "--connect", f"unix:{daemon.unix}")

        plain = scan()
        score = plain["groups"]["nsfw"]["sensitive"]
        assert 0 < score < 1
        strict = f'[policy.nsfw]\nthresholds = {{ review = {score / 2}, sensitive = 1.0 }}\nalarms = ["review"]\n'
        assert reload(strict).returncode == 0
        strictly = scan()
        assert (strictly["verdict"], strictly["alarm"]) == ("review", True)
        assert strictly["because"]["threshold"] == score / 2
        assert strictly["scores"] == plain["scores"]
        assert strictly["model"] == plain["model"]
        assert strictly["policy"] != plain["policy"]
        for text, reason in (
            ("[policy.nsfw]\nthresholds = { review = 2.0 }\n", "tier 'review' has threshold 2.0; it must be in (0, 1]"),
            ("[policy.nsfw.groups]\nsensitive = ['nude']\n", "'nude', which is not a label of this model"),
            ("[policy.nsfw]\nthresholds = { review = 0.9, sensitive = 0.5 }\n", "must have a higher threshold"),
        ):
            refused = reload(text)
            assert refused.returncode == 1
            assert reason in refused.stderr
            assert scan()["policy"] == strictly["policy"]
        file.write_text(spelled(strict, tmp_path / "models"))
        # The same settings without a daemon, and those of a start.
        local = nsfwd("scan", "--local", "--format", "ndjson", photo, NSFWD_CONFIG=str(file))
        assert local.returncode == 1, local.stderr  # an alarm
        reply = json.loads(local.stdout.splitlines()[0])
        assert (reply["verdict"], reply["policy"]) == ("review", strictly["policy"])
    started = Daemon(tmp_path / "again", flags=["--config", str(file)])
    with started:
        assert ask(started.unix, {"path": str(photo)})["policy"] == strictly["policy"]
