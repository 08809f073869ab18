"""Why a path is denied: the first obstacle is named, as the daemon's user meets it."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import pytest

from nsfwd.cli import main
from nsfwd.cli.options.path_access import obstacle
from nsfwd.errors import SettingsError


def why(path: Path, user: str, root: Path | None = None) -> str:
    return obstacle(path, user=user, roots=[str(root or "/")])


def test_what_may_be_opened_has_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.touch()
    assert why(file, getpass.getuser()) == ""
    assert why(tmp_path, getpass.getuser(), tmp_path) == ""


def test_a_missing_part_and_a_foreign_root_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.jpg").touch()
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "out.jpg")
    assert why(tmp_path / "none" / "a.jpg", getpass.getuser()).startswith(f"{tmp_path}/none: No such")
    assert "the setting roots" in why(tmp_path / "in" / "link.jpg", getpass.getuser(), tmp_path / "in")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try as another user")
def test_the_directory_that_denies_it_is_named() -> None:
    # Not below tmp_path, whose own parents are closed to others.
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        closed, file = top / "closed", top / "closed" / "a.jpg"
        closed.mkdir()
        file.touch()
        closed.chmod(0o700)
        assert why(file, "nobody").startswith(f"{closed} may not be searched: it is drwx------, of user 0")
        closed.chmod(0o755)
        file.chmod(0o600)
        assert why(file, "nobody").startswith(f"{file} may not be read")
        file.chmod(0o644)
        assert why(file, "nobody") == ""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("nsfwd.config.settings_sources.SYSTEM_FILE", tmp_path / "none.toml")
    user, file = getpass.getuser(), tmp_path / "a.jpg"
    file.touch()
    assert main.run(["config", "check", "--as", user, str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: {user} may open it\n"
    assert main.run(["config", "check", "--as", user, str(file), "--root", "/none"]) == 1
    assert capsys.readouterr().out.startswith("denied: ")
    assert main.run(["config", "check", str(file)]) == 64


def test_a_file_that_the_caller_may_not_read_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nsfwd.config.settings_sources.SYSTEM_FILE", tmp_path / "none.toml")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.jpg"))
    file = tmp_path / "a.jpg"
    file.touch()
    assert main.run(["config", "check", "--as", getpass.getuser(), str(file)]) == 1
    assert capsys.readouterr().out.startswith(f"denied: {file} may not be read: it is ")


def test_an_unknown_user_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown user 'nobody-at-all'"):
        why(tmp_path, "nobody-at-all")


def test_the_roots_of_peers_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user = getpass.getuser()
    (tmp_path / "mail").mkdir()
    inside, beside = tmp_path / "mail" / "a.jpg", tmp_path / "a.jpg"
    inside.touch()
    beside.touch()
    file = tmp_path / "nsfwd.toml"
    file.write_text(
        f'roots = ["{tmp_path}"]\n[[peers]]\nname = "mail"\nuid = 1\nroots = ["{tmp_path}/mail"]\n'
        '[[peers]]\nname = "web"\nuid = 2\n'
    )

    def check(*arguments: str) -> tuple[int, list[str]]:
        code = main.run(["config", "check", "--config", str(file), "--as", user, *arguments])
        return code, capsys.readouterr().out.splitlines()

    refusal = f"{beside} is below none of the roots ({tmp_path}/mail): the row mail of peers"
    assert check(str(inside), str(beside)) == (
        0,
        [f"{inside}: {user} may open it", f"{beside}: {user} may open it", f"  but not for some peers: {refusal}"],
    )
    assert check("--peers", "mail", str(inside)) == (0, [f"{inside}: {user} may open it"])
    assert check("--peers", "mail", str(beside)) == (1, [f"denied: {refusal}"])
    assert check("--peers", "web", str(beside)) == (0, [f"{beside}: {user} may open it"])
    assert check("--peers", "none", str(beside))[0] == 78
