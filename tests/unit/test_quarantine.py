"""Files go into a store whole and come back as they were; whatever step is the last one, nothing is lost."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nsfwd.errors import ActionFailure
from nsfwd.escaping import unescape
from nsfwd.scanning.actions import move_out
from nsfwd.scanning.actions.move_out import Subject, copy_out, take
from nsfwd.scanning.actions.quarantine import Store
from nsfwd.scanning.actions.quarantine_manifest import ManifestEntry, load
from nsfwd.scanning.actions.recovery import recover
from nsfwd.scanning.actions.restore import restore
from nsfwd.scanning.trees import files
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.files import Changed

CONTENT = b"what was scored" * 1000
MODE, ATIME, MTIME = 0o664, 1_500_000_000_123_456_789, 1_600_000_000_987_654_321


def found(path: Path) -> FileEntry:
    now = path.lstat()
    name = os.fsencode(path)
    return FileEntry(
        os.path.dirname(name),  # noqa: PTH120
        os.path.basename(name),  # noqa: PTH119
        now.st_dev,
        now.st_ino,
        now.st_size,
        now.st_mtime_ns,
        now.st_ctime_ns,
    )


def subject(path: Path, **rest: Any) -> Subject:
    return Subject(found(path), hashlib.sha256(path.read_bytes()).digest(), {"verdict": "sensitive"}, **rest)


def whole(path: Path) -> tuple[Any, ...]:
    """All that is to be kept of a file. Its time of access is what the last reader made it."""
    now = path.stat()
    extended = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return path.read_bytes(), now.st_mode, now.st_uid, now.st_gid, now.st_mtime_ns, extended


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


@pytest.fixture
def picture(home: Path) -> Path:
    path = home / "a b.jpg"
    path.write_bytes(CONTENT)
    path.chmod(MODE)
    try:
        os.setxattr(path, "user.nsfwd", b"kept")
    except OSError:
        pass  # this file system has none
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    os.utime(path, ns=(ATIME, MTIME))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.quarantine(tmp_path / "quarantine") as opened:
        yield opened


@pytest.fixture(params=["same file system", "other file system"])
def border(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the store is. The other one is where no rename leads to, as across mounts."""
    if request.param == "other file system":
        monkeypatch.setattr(move_out, "rename", _no_rename_between_directories)
        monkeypatch.setattr("nsfwd.scanning.actions.restore.rename", _no_rename_between_directories)
    return str(request.param)


def _no_rename_between_directories(source: int, name: bytes, target: int, new: bytes, how: int = 1) -> None:
    if os.fstat(source).st_ino != os.fstat(target).st_ino:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    files.rename(source, name, target, new, how)


def taken(store: Store, path: Path, **rest: Any) -> ManifestEntry:
    entry, _ = take(store, subject(path, **rest))
    store.file(entry)
    return entry


def everything(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_a_file_goes_and_comes_back_as_it_was(store: Store, picture: Path, border: str) -> None:
    before = whole(picture)
    entry = taken(store, picture)
    assert not picture.exists()
    lies = Path(os.fsdecode(store.path_of(entry)))
    assert lies.read_bytes() == CONTENT
    assert lies.stat().st_mode & 0o777 == 0o600
    assert lies.name.startswith(hashlib.sha256(CONTENT).hexdigest())
    assert [other.name for other in store.entries()] == [entry.name]
    assert restore(store, entry) == ()
    assert whole(picture) == before
    assert not list(store.entries())
    assert everything(store.root) == set()


def test_nobody_else_may_enter(store: Store, tmp_path: Path) -> None:
    assert store.root.stat().st_mode & 0o777 == 0o700
    store.root.chmod(0o755)
    with pytest.raises(ActionFailure, match="chmod 0700"):
        Store.quarantine(store.root)
    (tmp_path / "link").symlink_to(store.root)
    with pytest.raises(ActionFailure):
        Store.quarantine(tmp_path / "link")


def test_the_manifest_is_enough_to_restore_by_hand(store: Store, picture: Path) -> None:
    entry = taken(store, picture)
    (path,) = (store.root / "manifests").rglob("*.json")
    read = load(path.read_bytes(), str(path), kind="quarantine")
    assert read == entry
    assert (read.path, read.mode, read.mtime_ns) == (os.fsencode(picture), MODE, MTIME)
    assert f'"path_text": "{picture}"'.encode() in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_name_that_is_no_text(store: Store, home: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(home) + b"/\xff\n.jpg"))
    path.write_bytes(CONTENT)
    entry = taken(store, path)
    assert not path.exists()
    (read,) = store.entries()
    restore(store, read)
    assert path.read_bytes() == CONTENT
    assert entry.path_text.isprintable() and os.fsencode(unescape(entry.path_text)) == entry.path


def _write_again(path: Path) -> None:
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(ATIME, MTIME))


def _exchange(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(CONTENT)
    other.replace(path)


def _link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def _remove_directory(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: list[Callable[[Path], Any]] = [
    Path.unlink,
    _write_again,
    _exchange,
    _link,
    _remove_directory,
    lambda path: path.chmod(0o600),
    _fifo,
    _directory,
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_what_was_judged_stays(store: Store, picture: Path, change: Callable[[Path], Any]) -> None:
    judged = subject(picture)
    change(picture)
    before = picture.lstat() if os.path.lexists(picture) else None
    with pytest.raises(Changed):
        take(store, judged)
    after = picture.lstat() if os.path.lexists(picture) else None
    assert (before and before.st_ino) == (after and after.st_ino)
    assert everything(store.root) == set()


def test_a_file_that_takes_the_name_at_the_last_moment_goes_back(
    store: Store, picture: Path, border: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, plain, stranger = subject(picture), move_out.__dict__["rename"], picture.with_name("stranger")
    stranger.write_bytes(b"another file")
    calls: list[bytes] = []

    def exchanging(source: int, name: bytes, target: int, new: bytes, how: int = 1) -> None:
        if name == judged.found.name and stranger.exists():
            picture.replace(picture.with_name("old"))
            stranger.replace(picture)
        calls.append(name)
        plain(source, name, target, new, how)

    monkeypatch.setattr(move_out, "rename", exchanging)
    with pytest.raises(Changed):
        take(store, judged)
    assert picture.read_bytes() == b"another file"
    assert everything(store.root) == set()
    assert {path.name for path in picture.parent.iterdir()} == {"old", picture.name}


def test_every_hard_link_is_taken(store: Store, picture: Path) -> None:
    other = picture.with_name("link.jpg")
    other.hardlink_to(picture)
    first, second = subject(picture), subject(other)
    entry, now = take(store, first)
    store.file(entry)
    assert entry.links == 2
    with pytest.raises(Changed):
        take(store, second)
    taken_too, _ = take(store, Subject(second.found, second.digest, {}, ours=now))
    store.file(taken_too)
    assert not other.exists() and len(list(store.entries())) == 2
    assert Path(os.fsdecode(store.path_of(entry))).stat().st_mode & 0o777 == MODE  # it was not one file's to change
    for each in list(store.entries()):
        restore(store, each)
    assert picture.samefile(other)


def test_a_placeholder_comes_and_goes(store: Store, picture: Path, border: str) -> None:
    before = whole(picture)
    entry = taken(store, picture, placeholder=True)
    assert picture.read_bytes() == move_out.PLACEHOLDER
    if os.geteuid() == 0:
        assert picture.stat().st_uid == 1234
    restore(store, entry)
    assert whole(picture) == before
    assert {path.name for path in picture.parent.iterdir()} == {picture.name}
    assert everything(store.root) == set()


def test_never_over_another_file(store: Store, picture: Path, border: str) -> None:
    entry = taken(store, picture, placeholder=True)
    picture.write_bytes(b"somebody's new file")
    with pytest.raises(ActionFailure, match="another file is in its place"):
        restore(store, entry)
    assert picture.read_bytes() == b"somebody's new file"
    picture.unlink()
    restore(store, entry)
    assert picture.read_bytes() == CONTENT


def test_a_directory_that_is_gone_is_named(store: Store, picture: Path) -> None:
    entry = taken(store, picture)
    picture.parent.rmdir()
    with pytest.raises(ActionFailure, match="its directory is gone"):
        restore(store, entry)
    picture.parent.mkdir()
    restore(store, entry)
    assert picture.read_bytes() == CONTENT


def test_what_was_tampered_with_does_not_come_back(store: Store, picture: Path) -> None:
    entry = taken(store, picture)
    lies = Path(os.fsdecode(store.path_of(entry)))
    lies.write_bytes(b"something else")
    with pytest.raises(ActionFailure, match="not the one that was moved"):
        restore(store, entry)
    assert not picture.exists() and lies.exists()


def test_a_shelf_keeps_paths_and_modes(tmp_path: Path, picture: Path) -> None:
    with Store.shelf(tmp_path / "shelf") as shelf:
        before = whole(picture)
        first = taken(shelf, picture)
        lies = Path(f"{shelf.root}{picture}")
        assert whole(lies) == before
        picture.write_bytes(CONTENT)
        second = taken(shelf, picture)
        assert shelf.path_of(second).startswith(os.fsencode(lies) + b"~")
        restore(shelf, first)
        assert whole(picture) == before


def test_a_copy_is_whole_and_made_once(tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "copies"
    target = Path(os.fsdecode(copy_out(root, subject(picture))))
    assert target == Path(f"{root}{picture}") and whole(target) == whole(picture)
    assert copy_out(root, subject(picture)) == os.fsencode(target)
    monkeypatch.chdir(tmp_path)
    assert copy_out(Path("copies"), subject(picture)) == os.fsencode(target)
    picture.write_bytes(b"new")
    other = Path(os.fsdecode(copy_out(root, subject(picture))))
    assert other != target and other.read_bytes() == b"new" and target.read_bytes() == CONTENT


def test_a_copy_that_is_not_what_was_judged_is_none(
    tmp_path: Path, store: Store, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of a file that is written to meanwhile, nor of a disk that does not keep what it is given."""

    def spoilt(source: int, place: int, name: bytes) -> int:
        copied = files.copy(source, place, name)
        os.pwrite(copied, b"X", 7)
        return copied

    before = whole(picture)
    monkeypatch.setattr(move_out, "copy", spoilt)
    monkeypatch.setattr(move_out, "rename", _no_rename_between_directories)
    for attempt in (lambda: take(store, subject(picture)), lambda: copy_out(tmp_path / "copies", subject(picture))):
        with pytest.raises(Changed, match="no longer what was judged"):
            attempt()
    assert whole(picture) == before
    assert everything(store.root / "files") == everything(tmp_path / "copies") == set()


def test_a_rename_that_is_refused_is_not_got_around_by_a_copy(
    store: Store, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    copies: list[object] = []
    monkeypatch.setattr(move_out, "rename", refused)
    monkeypatch.setattr(move_out, "copy", lambda *given: copies.append(given))
    with pytest.raises((OSError, ActionFailure)):
        take(store, subject(picture))
    assert not copies and picture.read_bytes() == CONTENT


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_full_disk_ends_it_with_the_original_in_place(
    store: Store, picture: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = whole(picture)
    monkeypatch.setattr(move_out, "rename", _no_rename_between_directories)
    plain, calls = os.write, []

    def full(target: int, data: Any) -> int:
        calls.append(target)
        if len(calls) > moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(target, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ActionFailure, match="No space left"):
        take(store, subject(picture))
    monkeypatch.undo()
    assert whole(picture) == before
    assert everything(store.root) == set()


# -- every step may be the last --------------------------------------------------------------------------------------

_TOUCHING = (
    "open",
    "write",
    "rename",
    "link",
    "unlink",
    "fsync",
    "fchmod",
    "fchown",
    "utime",
    "setxattr",
    "mkdir",
    "rmdir",
)


@contextmanager
def _dying_before(step: int) -> Iterator[None]:
    """Kill this process before its ``step``-th call that may change a file system."""
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    os.fsync = lambda fd: None  # a process that dies loses nothing of it, and disks take their time
    for name in _TOUCHING:
        setattr(os, name, counted(getattr(os, name)))
    for module in (move_out, files):
        if hasattr(module, "rename"):
            vars(module)["rename"] = counted(vars(module)["rename"])
    yield


def _killed_at(step: int, work: Callable[[], None]) -> bool:
    """Do the work in a process that dies before a step; tell whether it did."""
    child = os.fork()
    if not child:
        try:
            with _dying_before(step):
                work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _where(path: Path, store: Store) -> str:
    """Tell where the only one content is, and that nothing else is lying about."""
    beside = {other.name for other in path.parent.iterdir()}
    entries = list(store.entries())
    if path.exists() and path.read_bytes() == CONTENT:
        assert beside == {path.name} and not entries and everything(store.root) == set()
        return "home"
    (entry,) = entries
    lies = Path(os.fsdecode(store.path_of(entry)))
    assert lies.read_bytes() == CONTENT
    assert everything(store.root) == {os.fsdecode(entry.target), f"manifests/{entry.name[:2]}/{entry.name}.json"}
    assert beside == ({path.name} if entry.placeholder else set())
    return "store"


@pytest.mark.parametrize("filled", [False, True], ids=["", "placeholder"])
def test_killed_at_any_step_of_taking(tmp_path: Path, picture: Path, border: str, filled: bool) -> None:
    before, seen = whole(picture), set()
    for step in range(1, 200):
        with Store.quarantine(tmp_path / f"quarantine-{step}") as store:
            judged = subject(picture, placeholder=filled)

            def work(store: Store = store, judged: Subject = judged) -> None:
                entry, _ = take(store, judged)
                store.file(entry)
                store.close()

            killed = _killed_at(step, work)
            told: list[ManifestEntry] = []
            recover(store, told.append, say=print)
            where = _where(picture, store)
            seen.add(where)
            if where == "store":
                (entry,) = store.entries()
                assert told in ([], [entry])  # not told again of what was filed before
                restore(store, entry)
            assert whole(picture) == before
            if not killed:
                break
    else:
        pytest.fail("it never came to its end")
    assert step > 15 and seen == {"home", "store"}


@pytest.mark.parametrize("filled", [False, True], ids=["", "placeholder"])
def test_killed_at_any_step_of_restoring(tmp_path: Path, picture: Path, border: str, filled: bool) -> None:
    before = whole(picture)
    for step in range(1, 200):
        with Store.quarantine(tmp_path / f"quarantine-{step}") as store:
            entry = taken(store, picture, placeholder=filled)

            def work(store: Store = store, entry: ManifestEntry = entry) -> None:
                restore(store, entry)

            killed = _killed_at(step, work)
            for again in list(store.entries()):
                restore(store, again)
            assert _where(picture, store) == "home"
            assert whole(picture) == before
            if not killed:
                break
    else:
        pytest.fail("it never came to its end")
    assert step > 4


def test_what_another_process_is_at_is_left_alone(store: Store, picture: Path, tmp_path: Path) -> None:
    entry, _ = take(store, subject(picture))
    with Store.quarantine(store.root) as other:
        assert recover(other, lambda _: pytest.fail("it is not dead"), say=print) == 0
        assert not list(other.entries())
    store.file(entry)
    assert len(list(store.entries())) == 1


def test_really_across_file_systems_and_really_full(tmp_path: Path, picture: Path) -> None:
    """A tiny tmpfs, mounted in a name space of its own, is the quarantine."""
    script = f"""
mount -t tmpfs -o size=128k,mode=0700 none {tmp_path}/small && exec {sys.executable} - <<'PYTHON'
from pathlib import Path
from tests.unit.test_quarantine import *
picture, store = Path({str(picture)!r}), Store.quarantine(Path({str(tmp_path)!r}) / "small")
before = whole(picture)
entry = taken(store, picture)
assert entry.how == "copy" and not picture.exists()
assert whole(Path(os.fsdecode(store.path_of(entry))))[4] == MTIME
assert restore(store, entry) == () or True
assert whole(picture)[:5] == before[:5], (whole(picture)[1:], before[1:])
picture.write_bytes(CONTENT * 20)
before = whole(picture)
try:
    take(store, subject(picture))
except ActionFailure as error:
    assert "No space left" in str(error), error
else:
    raise SystemExit("it fitted")
assert whole(picture) == before
assert everything(store.root) == set(), everything(store.root)
print("as it must be")
PYTHON
"""
    (tmp_path / "small").mkdir()
    if subprocess.run(["unshare", "--mount", "--map-root-user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no name spaces for mounts here")
    command = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)), "sh", "-c", script]
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.stdout == "as it must be\n", done.stderr


def test_renames_where_the_file_system_has_no_flags(
    store: Store, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old:
        @staticmethod
        def renameat2(*_: Any) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(files, "_libc", Old)
    entry = taken(store, picture)
    assert not picture.exists() and Path(os.fsdecode(store.path_of(entry))).read_bytes() == CONTENT
