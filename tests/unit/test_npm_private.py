"""npm runs in a directory of its own: no settings of the directories above reach it, and nothing stays behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nsfwd.model_tools.npm import npm_package

NPM = """#!/bin/sh
printf '%s\\n' "$PWD" "$(cat package.json)" "$npm_config_cache" "$NODE_DISABLE_COMPILE_CACHE" > "$TOLD"
touch a.tgz
"""


def test_npm_has_a_directory_and_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(NPM)
    npm.chmod(0o755)
    told = tmp_path / "told"
    monkeypatch.setenv("PATH", f"{npm.parent}:/bin:/usr/bin")
    monkeypatch.setenv("TOLD", str(told))
    monkeypatch.delenv("npm_config_cache", raising=False)
    with npm_package("some-package", "1.0.0") as file:
        where, package, cache, compiling = told.read_text().splitlines()
        assert file == Path(where, "a.tgz")
    assert where != str(Path.cwd())
    assert json.loads(package) == {"private": True}  # where npm stops to look for settings above
    assert Path(cache).is_relative_to(where)
    assert compiling == "1"
    assert not Path(where).exists()
