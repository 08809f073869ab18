"""Former versions of bundles: kept when they are replaced, found by identity, and put back in one step."""

from __future__ import annotations

import ctypes
import errno
import hashlib
from pathlib import Path

import pytest

from nsfwd.bundles.bundle_store import Bundle, installed, open_bundle, verify_weights
from nsfwd.bundles.previous_versions import kept_versions, open_version, version_names
from nsfwd.cli import main
from nsfwd.errors import BundleError
from nsfwd.model_tools.pack import import_packed, pack
from nsfwd.model_tools.staging import installing
from nsfwd.model_tools.versions import KEPT, roll_back
from tests.unit.shelf import make_bundle


def packed(directory: Path, version: str) -> Path:
    """A packed bundle of this version, with weights of its own."""
    made = make_bundle(directory / version, version=version)
    weights = f"weights {version}".encode()
    old = made.manifest.files["model.keras"]
    made.weights.write_bytes(weights)
    manifest = made.directory / "bundle.toml"
    manifest.write_text(manifest.read_text("utf-8").replace(old, hashlib.sha256(weights).hexdigest()), "utf-8")
    file = directory / f"{version}.bundle"
    pack(open_bundle(made.directory), file)
    return file


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory of bundles in which version 2 has replaced version 1."""
    for version in ("1", "2"):
        import_packed(packed(tmp_path / "made", version), tmp_path / "models")
    return tmp_path / "models"


def versions(models: Path) -> list[str]:
    """Of the bundle that is there, then of those that are kept."""
    places = [models / "tiny", *kept_versions(models / "tiny")]
    return [open_bundle(place).manifest.version for place in places]


def back(models: Path, version: str = "") -> Bundle:
    with installing(models):
        return roll_back(models / "tiny", version)


def test_what_is_replaced_is_kept_out_of_sight(models: Path) -> None:
    assert versions(models) == ["2", "1"]
    assert installed(models) == ["tiny"]


def test_going_back_and_forth(models: Path) -> None:
    assert back(models).manifest.version == "1"
    assert versions(models) == ["1", "2"]
    verify_weights(open_bundle(models / "tiny"))
    assert back(models).manifest.version == "2"
    assert versions(models) == ["2", "1"]


def test_so_many_are_kept_and_no_more(models: Path, tmp_path: Path) -> None:
    for version in ("3", "4"):
        import_packed(packed(tmp_path / "made", version), models)
    assert versions(models) == ["4", "3", "2"]
    assert len(versions(models)) == 1 + KEPT


def test_one_of_several_by_its_version_or_its_digest(models: Path, tmp_path: Path) -> None:
    import_packed(packed(tmp_path / "made", "3"), models)
    digest = open_bundle(kept_versions(models / "tiny")[1]).model_identity.partition("@")[2]
    assert back(models, digest[:6]).manifest.version == "1"
    assert versions(models) == ["1", "3", "2"]
    assert back(models, "2").manifest.version == "2"
    assert versions(models) == ["2", "1", "3"]
    with pytest.raises(BundleError, match=r"no previous version of tiny in .* is 7"):
        back(models, "7")


def test_the_same_version_again_is_no_former_one(models: Path, tmp_path: Path) -> None:
    import_packed(tmp_path / "made" / "2.bundle", models)
    assert versions(models) == ["2", "1"]


def test_what_is_broken_is_not_worth_keeping(models: Path, tmp_path: Path) -> None:
    (models / "tiny" / "model.keras").unlink()
    import_packed(tmp_path / "made" / "2.bundle", models)
    assert versions(models) == ["2", "1"]


def test_a_version_that_was_altered_is_not_put_back(models: Path) -> None:
    (kept_versions(models / "tiny")[0] / "model.keras").write_bytes(b"other")
    with pytest.raises(BundleError, match="altered"):
        back(models)
    assert versions(models) == ["2", "1"]


def test_what_is_no_longer_whole_is_passed_over_unless_it_is_named(models: Path, tmp_path: Path) -> None:
    import_packed(packed(tmp_path / "made", "3"), models)
    (kept_versions(models / "tiny")[0] / "model.keras").write_bytes(b"other")
    with pytest.raises(BundleError, match="altered"):
        back(models, "2")
    assert back(models).manifest.version == "1"
    assert versions(models) == ["1", "3", "2"]


def test_versions_that_differ_in_their_policy_alone_are_told_apart(models: Path) -> None:
    kept = kept_versions(models / "tiny")[0] / "bundle.toml"
    before = open_bundle(kept.parent)
    kept.write_text(kept.read_text("utf-8").replace("threshold = 0.5", "threshold = 0.1"), "utf-8")
    strict = open_bundle(kept.parent)
    assert version_names(strict)[:2] == version_names(before)[:2]
    assert back(models, version_names(strict)[2][:8]).policy_identity == strict.policy_identity


def test_a_bundle_that_vanished_comes_back(models: Path) -> None:
    (models / "tiny").rename(models.parent / "elsewhere")
    assert back(models).manifest.version == "1"
    assert versions(models) == ["1"]


def test_without_a_former_version_it_says_so(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    with pytest.raises(BundleError, match="no previous version of tiny is kept"):
        back(tmp_path)


def test_names_that_contain_each_other_are_kept_apart(tmp_path: Path) -> None:
    for name in (".former-1-tiny", ".former-12-tiny", ".former-2-1-tiny", ".former-tiny", ".former-x-tiny"):
        (tmp_path / name).mkdir()
    assert [path.name for path in kept_versions(tmp_path / "tiny")] == [".former-12-tiny", ".former-1-tiny"]
    assert [path.name for path in kept_versions(tmp_path / "1-tiny")] == [".former-2-1-tiny"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_exchange(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class Libc:
        @staticmethod
        def renameat2(*_: object) -> int:
            ctypes.set_errno(code)
            return -1

    monkeypatch.setattr("nsfwd.model_tools.versions.ctypes.CDLL", lambda *_, **__: Libc)
    import_packed(packed(tmp_path / "made", "3"), models)
    assert versions(models) == ["3", "2", "1"]
    assert back(models).manifest.version == "2"


def test_a_version_that_was_replaced_is_found_by_its_identity(models: Path) -> None:
    directory = models / "tiny"
    present, former = open_bundle(directory), open_bundle(kept_versions(directory)[0])
    assert open_version(directory, "").directory == directory
    assert open_version(directory, present.model_identity).directory == directory
    assert open_version(directory, former.model_identity).directory == former.directory
    with pytest.raises(BundleError, match="was replaced and is not kept; a reload serves what is there now"):
        open_version(directory, "tiny@000000000000/f32")


def test_the_command_line_shows_both_and_tells_what_is_next(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--models-dir", str(models)]
    assert main.run(["models", "list", *where]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    assert [row[1] for row in rows] == ["yes", "kept"]
    assert rows[1][-4:] == ["nsfwd", "models", "rollback", "tiny"]
    assert main.run(["models", "info", "tiny", *where]) == 0
    assert "# kept: version 1, tiny@" in capsys.readouterr().out
    assert main.run(["models", "rollback", "tiny", *where]) == 0
    said = capsys.readouterr().err
    assert "version 1, policy default@" in said
    assert "nsfwd reload" in said
    assert main.run(["models", "rollback", "other", *where]) != 0
    assert "no previous version of other" in capsys.readouterr().err


def test_the_list_says_how_to_go_back_to_each(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_packed(packed(tmp_path / "made", "3"), models)
    assert main.run(["models", "list", "--models-dir", str(models)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    assert [row[-2:] for row in rows[1:]] == [["rollback", "tiny"], ["--to", "1"]]
