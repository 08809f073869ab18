"""A link that another user may have planted is not followed, whatever it is that is read, written or put back."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nsfwd.errors import ActionFailure, IndexFailure
from nsfwd.protocol.messages import FileIdentity
from nsfwd.scanning.actions.move_out import PLACEHOLDER, Subject, copy_out, take
from nsfwd.scanning.actions.quarantine import Store
from nsfwd.scanning.actions.quarantine_manifest import ManifestEntry, dump, load
from nsfwd.scanning.actions.restore import restore
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.trees import files
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.file_io import private
from nsfwd.scanning.trees.safe_paths import Diverted, below, name_beside, safe_directory, safe_parent

NOBODY = 65534
CONTENT = b"what was scored"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make files of two users")


def names(directory: Path) -> list[str]:
    return sorted(one.name for one in directory.iterdir())


def subject(path: Path) -> Subject:
    directory, name = os.path.split(os.fsencode(path))
    now = FileIdentity.of(path.lstat())
    found = FileEntry(directory, name, now.dev, now.ino, now.size, now.mtime_ns, now.ctime_ns)
    return Subject(found, hashlib.sha256(path.read_bytes()).digest(), {"verdict": "sensitive"})


def taken(store: Store, path: Path) -> ManifestEntry:
    entry, _ = take(store, subject(path))
    store.file(entry)
    return entry


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A directory of this user, in which others may not write."""
    tmp_path.chmod(0o755)
    (tmp_path / "secret").mkdir(mode=0o700)
    (tmp_path / "secret/kept").write_bytes(b"kept")
    return tmp_path


@pytest.fixture
def theirs(own: Path) -> Iterator[Path]:
    """A directory of another user."""
    directory = own / "theirs"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    yield directory


@pytest.fixture
def store(own: Path) -> Iterator[Store]:
    with Store.quarantine(own / "quarantine") as opened:
        yield opened


def plant(link: Path, target: Path) -> None:
    link.symlink_to(target)
    os.lchown(link, NOBODY, NOBODY)


def picture_in(directory: Path, name: str = "a.jpg") -> Path:
    directory.mkdir(exist_ok=True)
    os.chown(directory, NOBODY, NOBODY)
    path = directory / name
    path.write_bytes(CONTENT)
    os.chown(path, NOBODY, NOBODY)
    return path


def test_ones_own_links_are_followed_and_shown_where_they_lead(own: Path) -> None:
    (own / "a/b").mkdir(parents=True)
    (own / "link").symlink_to("a/../a/b")
    with safe_directory(os.fsencode(own / "link")) as opened:
        assert os.fstat(opened).st_ino == (own / "a/b").stat().st_ino
    (own / "b").symlink_to("link/file")
    with safe_parent(os.fsencode(own / "b")) as (place, name):
        assert (os.fstat(place).st_ino, name) == ((own / "a/b").stat().st_ino, b"file")
    (own / "loop").symlink_to("loop")
    with pytest.raises(OSError) as looped, safe_directory(os.fsencode(own / "loop")):
        pass
    assert looped.value.errno == errno.ELOOP and not isinstance(looped.value, Diverted)


def test_a_link_where_others_may_write_is_not_followed(own: Path) -> None:
    (own / "shared").mkdir()
    (own / "shared/link").symlink_to(own / "secret")
    (own / "shared").chmod(0o777)
    with pytest.raises(Diverted), safe_directory(os.fsencode(own / "shared/link")):
        pass
    (own / "shared").chmod(0o1777)  # there each can change only what is their own
    with safe_directory(os.fsencode(own / "shared/link")):
        pass


def test_below_a_directory_no_link_is_followed_and_nothing_leads_out(own: Path) -> None:
    (own / "link").symlink_to("secret")
    with safe_directory(os.fsencode(own)) as place:
        for relative, number in ((b"link", errno.ENOTDIR), (b"link/x", errno.ENOTDIR), (b"../x", errno.EINVAL)):
            with pytest.raises(OSError) as refused, below(place, relative, make=0o700):
                pass
            assert refused.value.errno == number
        with below(place, b"new/deep", make=0o700):
            assert (own / "new/deep").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("letter", ["x", "ü", "€", "😀"])
def test_a_longer_name_is_cut_at_255_bytes_and_at_a_character(letter: str) -> None:
    name = (letter * 255).encode()[: 255 // len(letter.encode()) * len(letter.encode())]
    longer = name_beside(name, b"~0123456")
    assert len(longer) <= 255 and longer.decode().endswith("~0123456")
    assert name_beside(b"short", b"~1") == b"short~1"


@as_root
def test_a_restore_never_goes_through_a_planted_link(store: Store, own: Path, theirs: Path) -> None:
    entry = taken(store, picture_in(theirs / "up"))
    (theirs / "up").rmdir()
    plant(theirs / "up", own / "secret")
    with pytest.raises(ActionFailure, match="another user may change it"):
        restore(store, entry)
    assert names(own / "secret") == ["kept"] and len(list(store.entries())) == 1


@as_root
def test_through_anothers_link_a_file_goes_back_to_the_very_directory_it_came_from(
    store: Store, own: Path, theirs: Path
) -> None:
    real = picture_in(theirs / "release-1")
    plant(theirs / "current", theirs / "release-1")
    seen = subject(real)
    through = FileEntry(
        os.fsencode(theirs / "current"), *(getattr(seen.found, name) for name in seen.found.__slots__[1:])
    )
    entry, _ = take(store, Subject(through, seen.digest, seen.facts, home=os.fsencode(theirs / "release-1")))
    store.file(entry)
    assert entry.directory == os.fsencode(theirs / "current")
    assert restore(store, entry) == () and real.read_bytes() == CONTENT


@as_root
def test_taking_goes_through_no_link_that_came_since(store: Store, own: Path, theirs: Path) -> None:
    path = own / "secret/a.jpg"
    path.write_bytes(CONTENT)
    plant(theirs / "up", own / "secret")
    judged = subject(path)
    through = FileEntry(
        os.fsencode(theirs / "up"), *(getattr(judged.found, name) for name in judged.found.__slots__[1:])
    )
    for act in (lambda one: take(store, one), lambda one: copy_out(own / "copies", one)):
        with pytest.raises(Diverted):
            act(Subject(through, judged.digest, judged.facts))
    assert path.exists() and not list(store.entries())


@as_root
@pytest.mark.parametrize("kind", ["copy", "move"])
def test_a_link_in_a_shelf_is_not_followed_and_costs_that_file_alone(own: Path, theirs: Path, kind: str) -> None:
    shelf = theirs / "shelf"
    path = picture_in(own / "tree")
    (shelf / str(own.parent)[1:]).mkdir(parents=True)
    plant(shelf / str(own)[1:], own / "secret")
    with pytest.raises(OSError) as refused:
        if kind == "copy":
            copy_out(shelf, subject(path))
        else:
            with Store.shelf(shelf) as opened:
                taken(opened, path)
    assert refused.value.errno == errno.ENOTDIR and path.exists()
    assert names(own / "secret") == ["kept"]


@as_root
def test_a_shelf_of_another_user_restores_only_where_that_user_may_write(own: Path, theirs: Path) -> None:
    for home, allowed in ((theirs / "tree", True), (own / "secret", False)):
        entry = _entry_in_a_shelf(theirs / f"shelf-{allowed}", picture_in(home), home)
        with Store.shelf(theirs / f"shelf-{allowed}") as opened:
            if allowed:
                assert restore(opened, entry) == () and (home / "a.jpg").exists()
            else:
                with pytest.raises(ActionFailure, match="neither the owner of this store"):
                    restore(opened, entry)


def _entry_in_a_shelf(shelf: Path, path: Path, home: Path) -> ManifestEntry:
    with Store.shelf(shelf) as opened:
        entry = taken(opened, path)
    if home.name == "secret":
        os.chown(home, 0, 0)
    for one in shelf.rglob("*"):
        os.chown(one, NOBODY, NOBODY)
    return entry


@as_root
def test_no_privilege_comes_out_of_a_manifest(store: Store, own: Path) -> None:
    path = picture_in(own / "tree")
    entry = taken(store, path)
    forged = msgspec.structs.replace(
        entry, mode=0o6755, uid=0, gid=0, extended={"security.capability": b"\1\0\0\2\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0"}
    )
    lost = restore(store, forged)
    found = path.stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o755, NOBODY, NOBODY)
    assert os.listxattr(path) == []
    assert set(lost) == {"owner", "security.capability", "set-user-ID, set-group-ID or sticky bit"}


@pytest.mark.parametrize(
    "change",
    [
        {"target": "../../etc/passwd"},
        {"target": "/etc/passwd"},
        {"target": "files/00/other"},
        {"path": "relative"},
        {"path": "/a/../b"},
        {"path": "/a//b"},
        {"name": "../x"},
        {"kind": "move"},
        {"digest": "0" * 63},
    ],
)
def test_a_manifest_that_nsfwd_would_not_write_is_refused(
    own: Path, store: Store, change: dict[str, str], b64: Callable[[str], str]
) -> None:
    path = own / "a.jpg"
    path.write_bytes(CONTENT)
    told = json.loads(dump(taken(store, path)))
    told |= {name: b64(value) if name in ("path", "target") else value for name, value in change.items()}
    with pytest.raises(ActionFailure, match="not one that nsfwd writes"):
        load(json.dumps(told).encode(), "here", kind="quarantine")


@pytest.fixture
def b64() -> Callable[[str], str]:
    return lambda text: json.loads(msgspec.json.encode(text.encode()))


@as_root
def test_no_output_and_no_index_goes_through_a_planted_link(own: Path, theirs: Path) -> None:
    plant(theirs / "report.html", own / "secret/kept")
    plant(theirs / "up", own / "secret")
    for path in (theirs / "report.html", theirs / "up/report.html"):
        with pytest.raises(Diverted), private(path) as out:
            out.write(b"replaced")
    plant(theirs / "index.db", own / "secret/index.db")
    with pytest.raises(IndexFailure, match="another user may change it"):
        Index(theirs / "index.db")
    assert names(own / "secret") == ["kept"] and (own / "secret/kept").read_bytes() == b"kept"


# -- names that are as long as they may be, and file systems that know less -------------------------------------------


@pytest.mark.parametrize("name", ["x" * 251 + ".jpg", "ü" * 125 + ".jpg"])
@pytest.mark.parametrize("across", [False, True], ids=["rename", "copy"])
def test_the_longest_names_are_copied_moved_and_put_back(
    own: Path, name: str, across: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own / "tree" / name
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    if across:
        for module in ("move_out", "restore"):
            monkeypatch.setattr(f"nsfwd.scanning.actions.{module}.rename", _only_within_a_directory)
    first = copy_out(own / "shelf", subject(path))
    Path(os.fsdecode(first)).write_bytes(b"another")
    second = copy_out(own / "shelf", subject(path))
    assert second != first and Path(os.fsdecode(second)).read_bytes() == CONTENT
    with Store.shelf(own / "shelf") as store:
        entry = taken(store, path)
        assert not path.exists() and restore(store, entry) == ()
    assert path.read_bytes() == CONTENT
    with private(path) as out:
        out.write(b"written")
    assert path.read_bytes() == b"written" and names(path.parent) == [name]


def _only_within_a_directory(source: int, name: bytes, target: int, new: bytes, how: int = 1) -> None:
    if os.fstat(source).st_ino != os.fstat(target).st_ino:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    files.rename(source, name, target, new, how)


class _Refusing:
    """A C library on a file system that knows no flags of renameat2."""

    def __init__(self, number: int) -> None:
        self.number = number

    def renameat2(self, *arguments: object) -> int:
        import ctypes

        ctypes.set_errno(self.number)
        return -1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_file_goes_and_comes_back_where_no_two_names_can_change_places(
    own: Path, store: Store, number: int, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_libc", _Refusing(number))
    if not links:
        monkeypatch.setattr(os, "link", _no_link)
    path = own / "tree/a.jpg"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    seen = subject(path)
    entry, _ = take(store, Subject(seen.found, seen.digest, seen.facts, placeholder=True))
    store.file(entry)
    assert path.read_bytes() == PLACEHOLDER
    assert restore(store, entry) == () and path.read_bytes() == CONTENT
    assert names(path.parent) == ["a.jpg"] and not list(store.entries())


def _no_link(*arguments: object, **named: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_file_in_the_placeholders_place_stays_there_too(
    own: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own / "tree/a.jpg"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    seen = subject(path)
    entry, _ = take(store, Subject(seen.found, seen.digest, seen.facts, placeholder=True))
    store.file(entry)
    monkeypatch.setattr(files, "_libc", _Refusing(errno.EINVAL))
    path.unlink()
    path.write_bytes(b"somebody else's")
    monkeypatch.setattr("nsfwd.scanning.actions.restore._check_place", lambda home, entry: True)
    with pytest.raises(ActionFailure, match="another file came into its place"):
        restore(store, entry)
    assert path.read_bytes() == b"somebody else's" and names(path.parent) == ["a.jpg"]
