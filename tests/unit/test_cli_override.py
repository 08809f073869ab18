"""``nsfwd override``: what is kept, shown and refused, and what each exit code means."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsfwd.cli import main
from nsfwd.cli.options.tiers import floor_of
from nsfwd.config import load_settings
from nsfwd.overrides.override_store import OverrideStore
from tests.unit.fakedaemon import FakeDaemon, Request
from tests.unit.shelf import make_bundle

STATUE = b"a statue"
DIGEST = hashlib.sha256(STATUE).hexdigest()

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """``nsfwd override`` in a directory with a picture, a policy of three tiers and no store yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nsfwd.config.settings_sources.SYSTEM_FILE", tmp_path / "none.toml")
    make_bundle(tmp_path / "models")
    (tmp_path / "statue.jpg").write_bytes(STATUE)
    for name, value in {"MODELS_DIR": "models", "MODELS": "tiny", "OVERRIDES": "state/o.sqlite"}.items():
        monkeypatch.setenv(f"NSFWD_{name}", value)

    def override(*arguments: str) -> tuple[int, str, str]:
        code = main.run(["override", *arguments])
        shown = capfd.readouterr()
        return code, shown.out, shown.err

    return override


def store() -> OverrideStore:
    return OverrideStore(Path("state/o.sqlite"))


def test_a_decision_is_kept_by_content_with_who_why_and_where(run: Run, tmp_path: Path) -> None:
    code, out, err = run("add", "statue.jpg", "--verdict", "safe", "--reason", "a statue", "--by", "eva")
    assert (code, err) == (0, "")
    assert out.startswith(f"sha256:{DIGEST} safe by eva on ")
    assert out.endswith(f": a statue ({tmp_path}/statue.jpg)\n")
    with store() as overrides:
        kept = overrides.get(DIGEST)
        assert kept is not None
        assert (kept.verdict, kept.reason, kept.by, kept.expires) == ("safe", "a statue", "eva", None)
        assert kept.path == bytes(tmp_path / "statue.jpg")


def test_a_decision_is_made_for_a_digest_or_for_what_comes_on_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("add", f"sha256:{DIGEST.upper()}", "--verdict", "safe", "--reason", "x")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(STATUE)))
    assert run("add", "-", "--verdict", "review", "--reason", "y")[0] == 0
    with store() as overrides:
        assert [(one.digest.hex(), one.verdict, one.path) for one in overrides.items()] == [(DIGEST, "review", b"")]


def test_who_decided_is_the_one_who_typed_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError

    line = ("add", "statue.jpg", "--verdict", "safe", "--reason", "x")
    monkeypatch.setenv("SUDO_USER", "eva")
    assert " safe by eva " in run(*line)[1]
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setattr("getpass.getuser", nobody)
    assert f" safe by uid {os.getuid()} " in run(*line)[1]


@pytest.mark.parametrize(
    ("when", "seconds"), [("30d", 30 * 86400), ("12h", 12 * 3600), ("1.5 d", 36 * 3600), ("2y", 730 * 86400)]
)
def test_a_decision_may_expire(run: Run, when: str, seconds: float) -> None:
    code, out, _ = run("add", "statue.jpg", "--verdict", "safe", "--reason", "x", "--expires", when)
    assert code == 0
    assert " safe until 2" in out
    with store() as overrides:
        (kept,) = overrides.items()
        assert kept.expires is not None
        assert abs(kept.expires - time.time() - seconds) < 60


def test_a_verdict_that_no_policy_has_is_refused_unless_forced(run: Run) -> None:
    wrong = ("add", "statue.jpg", "--verdict", "sfae", "--reason", "x")
    code, out, err = run(*wrong)
    assert (code, out) == (1, "")
    assert "unknown verdict 'sfae'; the policies have safe, review, sensitive; --force accepts it" in err
    assert not Path("state").exists()
    assert run(*wrong, "--force")[0] == 0


def test_without_bundles_a_verdict_cannot_be_checked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSFWD_MODELS_DIR", "nowhere")
    monkeypatch.setenv("NSFWD_CONNECT", "unix:nowhere.sock")
    code, _, err = run("add", "statue.jpg", "--verdict", "safe", "--reason", "x")
    assert code == 1
    assert "cannot check the verdict" in err and "in nowhere" in err and "nowhere.sock" in err
    assert "--force" in err


def test_where_the_bundles_are_not_the_daemon_is_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def respond(request: Request) -> list[dict[str, Any]]:
        tiers = [{"name": name} for name in ("fine", "odd")]
        return [{"op": request["op"], "status": "ok", "models": [{"name": "n", "labels": [], "tiers": tiers}]}]

    monkeypatch.setenv("NSFWD_MODELS_DIR", "nowhere")
    with FakeDaemon(tmp_path / "d.sock", respond) as daemon:
        monkeypatch.setenv("NSFWD_CONNECT", daemon.address)
        assert run("add", "statue.jpg", "--verdict", "odd", "--reason", "x")[0] == 0
        code, _, err = run("add", "statue.jpg", "--verdict", "safe", "--reason", "x")
        assert code == 1 and "fine, odd" in err
        assert floor_of(load_settings(None, os.environ)) == "fine"
    assert [request["op"] for request in daemon.requests] == ["models"] * 3


def test_bundles_are_found_where_the_system_keeps_them_unless_a_setting_says_otherwise(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NSFWD_MODELS_DIR")
    (tmp_path / "models").rename(tmp_path / "system")
    monkeypatch.setattr("nsfwd.bundles.bundle_store.SYSTEM", tmp_path / "system")
    assert run("add", "statue.jpg", "--verdict", "safe", "--reason", "x")[0] == 0
    monkeypatch.setenv("NSFWD_MODELS_DIR", "models")
    monkeypatch.setenv("NSFWD_CONNECT", "unix:nowhere.sock")
    assert run("add", "statue.jpg", "--verdict", "safe", "--reason", "x")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("add", "none.jpg", "--verdict", "safe", "--reason", "x"), 64, "none.jpg: No such file"),
        (("add", ".", "--verdict", "safe", "--reason", "x"), 64, ".: Is a directory"),
        (("add", "empty.jpg", "--verdict", "safe", "--reason", "x"), 64, "empty.jpg: the file is empty"),
        (("add", "sha256:12", "--verdict", "safe", "--reason", "x"), 1, "64 hexadecimal digits"),
        (("add", "statue.jpg", "--verdict", "safe"), 64, "--reason"),
        (("add", "statue.jpg", "--verdict", "safe", "--reason", "x", "--expires", "2x"), 64, "write 30m, 12h, 30d, 2w"),
        (
            ("add", "statue.jpg", "--verdict", "safe", "--reason", "x", "--expires", "1999-01-01"),
            64,
            "must be in the future",
        ),
        (
            ("add", "statue.jpg", "--verdict", "safe", "--reason", "x", "--expires", "99999y"),
            64,
            "must be in the future",
        ),
        (("add", "statue.jpg", "--verdict", "safe", "--reason", "x", "--expires", "nan"), 64, "must be in the future"),
        (("add", "statue.jpg", "--verdict", "safe", "--reason", "\x1b[2J"), 1, "control characters"),
        (("remove", "statue.jpg"), 1, "there is no store"),
        (("list", "--store", "other.sqlite"), 1, "other.sqlite: there is no store"),
        (("import", "none.ndjson"), 64, "none.ndjson"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_code(run: Run, arguments: tuple[str, ...], code: int, why: str) -> None:
    Path("empty.jpg").touch()
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert why in err
    assert err.count("\n") == 1


def test_nothing_is_kept_of_several_when_one_cannot_be_read(run: Run) -> None:
    assert run("add", "statue.jpg", "none.jpg", "--verdict", "safe", "--reason", "x")[0] == 64
    assert not Path("state").exists()


def test_a_store_that_is_damaged_or_none_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("state").mkdir()
    Path("state/o.sqlite").write_bytes(b"nonsense" * 1000)
    assert "file is not a database" in run("list")[2]
    monkeypatch.setenv("NSFWD_OVERRIDES", "none")
    code, _, err = run("list")
    assert code == 1
    assert "--store" in err


def test_before_the_first_decision_lists_are_empty(run: Run) -> None:
    code, out, err = run("list")
    assert (code, out) == (0, "")
    assert "no overrides yet" in err
    assert run("export")[:2] == (0, "")


def test_lists_come_in_four_spellings(run: Run) -> None:
    run("add", "statue.jpg", "--verdict", "safe", "--reason", "a, b", "--by", "eva")
    run("add", f"sha256:{'0' * 64}", "--verdict", "sensitive", "--reason", "x", "--by", "kim")
    text = run("list")[1].splitlines()
    assert [line.split()[1] for line in text] == ["safe", "sensitive"]
    rows = json.loads(run("list", "--format", "json")[1])
    assert rows == [json.loads(line) for line in run("list", "--format", "ndjson")[1].splitlines()]
    assert [row["by"] for row in rows] == ["eva", "kim"]
    table = list(csv.DictReader(io.StringIO(run("list", "--format", "csv")[1])))
    assert [row["reason"] for row in table] == ["a, b", "x"]
    assert run("list", "statue.jpg")[1].splitlines() == text[:1]
    assert json.loads(run("list", f"sha256:{'1' * 64}", "--format", "json")[1]) == []


def test_names_cannot_steer_the_terminal(run: Run) -> None:
    Path("a\x1b[2J\n.jpg").write_bytes(STATUE)
    out = run("add", "a\x1b[2J\n.jpg", "--verdict", "safe", "--reason", "x")[1]
    assert "\x1b" not in out
    assert out.count("\n") == 1


def test_a_decision_taken_back_is_told_and_remembered(run: Run) -> None:
    run("add", "statue.jpg", "--verdict", "safe", "--reason", "a statue", "--by", "eva")
    code, out, _ = run("remove", "statue.jpg", "--by", "kim")
    assert code == 0
    assert out.startswith(f"removed: sha256:{DIGEST} safe by eva")
    code, out, err = run("remove", "statue.jpg")
    assert (code, out) == (1, "")
    assert "no override for statue.jpg" in err
    lines = run("list", "--history")[1].splitlines()
    assert [line.split()[2] for line in lines] == ["added", "removed"]
    assert "by eva: a statue" in lines[0]
    assert "by kim" in lines[1]
    assert run("list", "--history", "statue.jpg")[1].splitlines() == lines


def test_expired_decisions_are_listed_on_request_and_always_exported(run: Run) -> None:
    with store() as overrides:
        overrides.add(DIGEST, "safe", expires=time.time() - 10)
    assert run("list")[1] == ""
    assert " safe expired " in run("list", "--expired")[1]
    assert DIGEST in run("export")[1]


@pytest.mark.parametrize("name", ["all.ndjson", "all.csv"])
def test_what_is_exported_is_imported_elsewhere(run: Run, name: str) -> None:
    run("add", "statue.jpg", "--verdict", "safe", "--reason", "a statue", "--expires", "30d")
    assert run("export", "-o", name) == (0, "", f"wrote 1 overrides to {name}\n")
    before = run("export")[1]
    elsewhere = ("--store", "elsewhere.sqlite")
    assert run("import", name, *elsewhere) == (0, "", "1 added, 0 replaced, 0 not newer than the present one\n")
    assert run("import", name, *elsewhere)[2].startswith("0 added, 0 replaced, 1 not")
    assert run("export", *elsewhere)[1] == before


def test_of_an_import_all_is_taken_or_nothing(run: Run) -> None:
    good = json.dumps({"sha256": DIGEST, "verdict": "safe"})
    Path("wrong.ndjson").write_text(f'{good}\n{{"sha256": "12"}}\n')
    assert "line 2: verdict is missing" in run("import", "wrong.ndjson")[2]
    Path("strange.ndjson").write_text(good + "\n" + good.replace("safe", "fine") + "\n")
    code, _, err = run("import", "strange.ndjson")
    assert code == 1
    assert "'fine'" in err
    with store() as overrides:
        assert list(overrides.items()) == []
    assert run("import", "strange.ndjson", "--force")[0] == 0


def test_an_export_is_private_and_whole_or_on_stdout(run: Run) -> None:
    with store() as overrides:
        overrides.add(DIGEST, "safe")
    Path("kept.ndjson").write_text("before")
    assert run("export", "-o", "kept.ndjson") == (0, "", "wrote 1 overrides to kept.ndjson\n")
    assert Path("kept.ndjson").stat().st_mode & 0o777 == 0o600
    assert run("export", "-o", "-") == (0, Path("kept.ndjson").read_text(), "wrote 1 overrides to -\n")
    assert not Path("-").exists()
    code, _, err = run("export", "-o", "nowhere/kept.ndjson")
    assert (code, err) == (74, "nsfwd: nowhere/kept.ndjson: No such file or directory\n")


def test_a_history_has_one_spelling(run: Run) -> None:
    assert run("list", "--history", "--format", "json")[0] == 64


def test_check_warns_of_roots_that_are_not_there(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["config", "check", "--root", "/", "--root", "/mnt/\x1bgone"]) == 0
    err = capfd.readouterr().err
    assert err == "warning: root /mnt/\\x1bgone: no such directory, so nothing below it is scanned\n"


def test_check_warns_of_verdicts_that_no_policy_has(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["config", "check"]) == 0
    with store() as overrides:
        overrides.add(DIGEST, "fine")
    assert main.run(["config", "check"]) == 0
    assert 'override verdict "fine" is in no policy (safe, review, sensitive)' in capfd.readouterr().err
    Path("state/o.sqlite").write_bytes(b"nonsense" * 1000)
    assert main.run(["config", "check"]) == 1
    assert 'not a database; to judge without overrides: overrides = "none"' in capfd.readouterr().err
