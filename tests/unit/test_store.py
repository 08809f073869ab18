"""Opening bundles, packing them into one file, and installing such a file without trusting it."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nsfwd.bundles.bundle_store import Bundle, installed, locate, open_bundle, verify_weights
from nsfwd.config import Settings
from nsfwd.errors import BundleError
from nsfwd.model_tools.pack import import_packed, pack
from nsfwd.model_tools.staging import installing, staged
from tests.echo_bundle import FIVE_TIERS
from tests.unit.shelf import make_bundle


def given(models_dir: Path, **settings: Any) -> Settings:
    return Settings(models_dir=str(models_dir), given={"models_dir": "--models-dir"}, **settings)


def test_bundle_opens_with_the_manifests_names(tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    assert (made.name, made.precision, made.policy) == ("nsfw", "f32", FIVE_TIERS)
    assert made.model_identity.startswith("tiny@")
    assert locate(given(tmp_path), "tiny") == tmp_path / "tiny"
    assert installed(tmp_path) == ["tiny"]
    other = open_bundle(tmp_path / "tiny", short="mine", precision="bf16")
    assert (other.name, other.model_identity.split("/")[1]) == ("mine", "bf16")
    verify_weights(made)


def test_missing_bundle_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nsfwd models pull nsfw-inception-v3"):
        locate(given(tmp_path), "nsfw-inception-v3")
    with pytest.raises(BundleError, match="nor in the catalogue"):
        locate(given(tmp_path), "other")


def test_a_bundle_is_found_as_the_daemon_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, its short name or its path; in the usual places only where no directory was given."""
    make_bundle(tmp_path / "system", name="elsewhere")
    make_bundle(tmp_path / "models")
    monkeypatch.setattr("nsfwd.bundles.bundle_store.SYSTEM", tmp_path / "system")
    monkeypatch.chdir(tmp_path)
    assert locate(Settings(), "elsewhere") == tmp_path / "system" / "elsewhere"
    assert locate(Settings(), "system/elsewhere") == Path("system/elsewhere")
    assert locate(Settings(), "tiny") == Path("models/tiny")
    assert locate(given(tmp_path / "models", models=("tiny=nsfw",)), "nsfw") == tmp_path / "models" / "tiny"
    with pytest.raises(BundleError, match="no bundle elsewhere"):
        locate(given(tmp_path / "models"), "elsewhere")


def test_a_bundle_in_a_strangers_working_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there by chance; a directory that the settings name is the operator's word."""
    made = make_bundle(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    for place in (made.weights, made.directory, tmp_path / "models", tmp_path):
        mode = place.stat().st_mode
        place.chmod(0o777)
        with pytest.raises(BundleError, match=f"another user may change {place}; to use it, set models_dir"):
            locate(Settings(), "tiny")
        assert locate(given(tmp_path / "models"), "tiny") == made.directory
        place.chmod(mode)
    assert locate(Settings(), "tiny") == Path("models/tiny")


@pytest.mark.parametrize("path", ["bundle.toml", "model.keras", "goldens/one.png"])
def test_missing_file_is_named(tmp_path: Path, path: str) -> None:
    made = make_bundle(tmp_path)
    (made.directory / path).unlink()
    with pytest.raises(BundleError, match=path):
        open_bundle(made.directory)


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    made.weights.write_bytes(b"other weights")
    with pytest.raises(BundleError, match="altered"):
        verify_weights(made)
    with pytest.raises(BundleError, match="altered"):
        pack(made, tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="f64"):
        open_bundle(make_bundle(tmp_path).directory, precision="f64")


def test_packed_bundle_is_imported_whole(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "here")
    digest = pack(made, tmp_path / "one")
    assert pack(made, tmp_path / "two") == digest
    there = import_packed(tmp_path / "one", tmp_path / "there", sha256=digest)
    assert there.model_identity == made.model_identity
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["tiny"]
    again = import_packed(tmp_path / "one", tmp_path / "there")
    verify_weights(again)


@pytest.mark.parametrize("name", ["-", "fifo", "stdout", "/dev/fd/1", "."])
def test_what_is_no_file_is_never_replaced_by_a_pack(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root a rename would put a file in the place of a device."""
    made = make_bundle(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("stdout").symlink_to("/proc/self/fd/1")
    before = sorted((path.name, path.lstat().st_ino) for path in tmp_path.iterdir())
    with pytest.raises(BundleError, match="name a file"):
        pack(made, Path(name))
    assert sorted((path.name, path.lstat().st_ino) for path in tmp_path.iterdir()) == before


def test_a_link_to_a_pack_stays_one(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "here")
    (tmp_path / "latest").symlink_to("one")
    digest = pack(made, tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert pack(made, tmp_path / "one") == digest


def test_import_with_another_digest_reads_nothing(tmp_path: Path) -> None:
    pack(make_bundle(tmp_path / "here"), tmp_path / "one")
    with pytest.raises(BundleError, match="nothing was read"):
        import_packed(tmp_path / "one", tmp_path / "there", sha256="0" * 64)
    assert not (tmp_path / "there").exists()


Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


def rename(old: str, new: str) -> Change:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        next(entry for entry, _ in members if entry.name == old).name = new

    return change


def link(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entry = members[-1][0]
    entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0


def alter(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entry, data = members[-1]
    members[-1] = (entry, bytes(len(data)))


def add(name: str) -> Change:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members.append((tarfile.TarInfo(name), b""))

    return change


@pytest.mark.parametrize(
    "change",
    [
        rename("tiny/model.keras", "../model.keras"),
        rename("tiny/model.keras", "/tmp/model.keras"),
        rename("tiny/model.keras", "tiny/../../model.keras"),
        rename("tiny/bundle.toml", "other/bundle.toml"),
        add("tiny/../../evil"),
        add("tiny/extra"),
        add("tiny/model.keras"),
        lambda members: members.pop(),
        lambda members: members.reverse(),
        lambda members: members.clear(),
        link,
        alter,
    ],
)
def test_unsafe_or_altered_file_changes_nothing(tmp_path: Path, change: Change) -> None:
    pack(make_bundle(tmp_path / "here"), tmp_path / "good")
    with tarfile.open(tmp_path / "good", "r:") as tar:
        members = []
        for entry in tar:
            opened = tar.extractfile(entry)
            members.append((entry, opened.read() if opened else b""))
    change(members)
    with tarfile.open(tmp_path / "bad", "w") as tar:
        for entry, data in members:
            entry.size = len(data) if entry.isfile() else 0
            tar.addfile(entry, io.BytesIO(data))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(BundleError, match="bad: "):
        import_packed(tmp_path / "bad", tmp_path / "there")
    assert not list((tmp_path / "there").glob("*"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "there") == before


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(BundleError, match="not a packed bundle"):
        import_packed(tmp_path / "bad", tmp_path / "there")


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


def hostile(path: Path, good: Path, *headers: bytes, length: int = 0) -> Path:
    """A packed bundle with a sound manifest and these headers after it; ``length`` bytes, most of them a hole."""
    with tarfile.open(good, "r:") as tar:
        first = tar.next()
        assert first is not None
        begin = good.read_bytes()[: tarfile.BLOCKSIZE + -(-first.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE]
    path.write_bytes(begin + b"".join(headers))
    if length:
        os.truncate(path, length)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE,
        tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"Z",
    ],
)  # fmt: skip
def test_only_plain_files_are_unpacked(tmp_path: Path, kind: bytes) -> None:
    pack(make_bundle(tmp_path / "here"), tmp_path / "good")
    bad = hostile(tmp_path / "bad", tmp_path / "good", header("tiny/model.keras", 200 << 30, kind))
    with pytest.raises(BundleError, match=r"bad: not a packed bundle .*not a plain file"):
        import_packed(bad, tmp_path / "there")
    assert not list((tmp_path / "there").glob("*"))


@pytest.mark.parametrize("size", [200 << 30, 1 << 60])
def test_a_size_that_is_claimed_is_not_written(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(make_bundle(tmp_path / "here"), tmp_path / "good")
    bad = hostile(tmp_path / "bad", tmp_path / "good", header("tiny/model.keras", size), length=200 << 30)
    monkeypatch.setattr("nsfwd.model_tools.pack._copy", lambda *_: pytest.fail("it was written"))
    with pytest.raises(BundleError, match=r"bad: its files have more than 8 GiB"):
        import_packed(bad, tmp_path / "there")
    bad = hostile(tmp_path / "bad", tmp_path / "good", header("tiny/bundle.toml", size))
    bad.write_bytes(bad.read_bytes()[-tarfile.BLOCKSIZE :])
    with pytest.raises(BundleError, match="the first member must be a bundle's"):
        import_packed(bad, tmp_path / "there")


def test_a_bundle_for_which_there_is_no_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(make_bundle(tmp_path / "here"), tmp_path / "good")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(BundleError, match=r"there: too little free space for a file of 10 bytes"):
        import_packed(tmp_path / "good", tmp_path / "there")
    assert not list((tmp_path / "there").glob("*"))


def test_a_bundle_gets_its_name_only_when_it_is_finished(tmp_path: Path) -> None:
    pack(make_bundle(tmp_path / "here"), tmp_path / "packed")

    def refuse(bundle: Bundle) -> None:
        assert bundle.directory != tmp_path / "there" / "tiny"
        raise BundleError(f"{bundle.weights} is no Keras file")

    with pytest.raises(BundleError, match=r"packed/model\.keras is no Keras file"):
        import_packed(tmp_path / "packed", tmp_path / "there", finish=refuse)
    assert not list((tmp_path / "there").glob("*"))
    make_bundle(tmp_path / "there")
    with pytest.raises(BundleError):
        import_packed(tmp_path / "packed", tmp_path / "there", finish=refuse)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["tiny"]


def test_killed_installation_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    (tmp_path / ".stage-left").mkdir()
    (tmp_path / ".stage-left" / "model.keras").touch()
    with installing(tmp_path):
        assert installed(tmp_path) == ["tiny"]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_failed_installation_leaves_the_old_bundle(tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    with pytest.raises(RuntimeError), installing(tmp_path), staged(tmp_path, "tiny") as directory:
        (directory / "model.keras").touch()
        raise RuntimeError
    verify_weights(open_bundle(made.directory))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
