"""What a tree's events come to: which files, which new directories; what is said when the kernel gives too little."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.scanning.trees.walk import Exclusion, WalkedTree
from nsfwd.scanning.watches import debounce, inotify, inotify_tree
from nsfwd.scanning.watches.debounce import Debouncer
from nsfwd.scanning.watches.inotify import Inotify
from nsfwd.scanning.watches.inotify_tree import InotifyTree, TreeEvents


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    (directory / "below" / "deep").mkdir(parents=True)
    return directory


@pytest.fixture
def tree(root: Path) -> Iterator[InotifyTree]:
    opened = InotifyTree(WalkedTree((os.fsencode(root),), Exclusion(("*.tmp", "hidden"))))
    cover(opened, root)
    yield opened
    opened.close()


def cover(tree: InotifyTree, directory: Path) -> list[str]:
    """Watch a directory and return the files found."""
    return [os.fsdecode(path) for files in tree.cover(os.fsencode(directory)) for path in files]


def news(tree: InotifyTree) -> TreeEvents:
    """All that happened. Events are in the queue before the call that caused them returns."""
    whole = TreeEvents()
    while select.select([tree.descriptor], [], [], 0)[0]:
        part = tree.read()
        whole.files += part.files
        whole.directories += part.directories
        whole.overflow |= part.overflow
        whole.gone |= part.gone
    return whole


def test_every_directory_is_watched_once(tree: InotifyTree, root: Path) -> None:
    assert tree.count == 3
    cover(tree, root)
    assert tree.count == 3 and not tree.unwatched


def test_written_moved_in_and_linked(tree: InotifyTree, root: Path, tmp_path: Path) -> None:
    deep = root / "below" / "deep"
    with (deep / "a.jpg").open("wb") as file:
        file.write(b"half")
        file.flush()
        assert news(tree) == TreeEvents()  # it is still being written
    assert news(tree).files == [os.fsencode(deep / "a.jpg")]
    (tmp_path / "b.jpg").write_bytes(b"whole")
    (tmp_path / "b.jpg").rename(deep / "b.jpg")
    (deep / "c.jpg").hardlink_to(deep / "b.jpg")
    assert news(tree).files == [os.fsencode(deep / name) for name in ("b.jpg", "c.jpg")]
    (deep / "c.jpg").chmod(0o600)
    (deep / "c.jpg").unlink()
    assert news(tree) == TreeEvents()


def test_what_is_excluded_is_no_news(tree: InotifyTree, root: Path) -> None:
    (root / "a.tmp").write_bytes(b"")
    (root / "hidden").mkdir()
    assert news(tree) == TreeEvents()


def test_a_new_directory_is_watched_and_listed(tree: InotifyTree, root: Path) -> None:
    (root / "new" / "deeper").mkdir(parents=True)
    (root / "new" / "deeper" / "early.jpg").write_bytes(b"before it was watched")
    assert os.fsencode(root / "new") in news(tree).directories
    assert cover(tree, root / "new") == [str(root / "new" / "deeper" / "early.jpg")]
    (root / "new" / "deeper" / "late.jpg").write_bytes(b"")
    assert news(tree).files == [os.fsencode(root / "new" / "deeper" / "late.jpg")]


def test_a_directory_that_moves_within_the_tree_is_known_by_its_new_name(tree: InotifyTree, root: Path) -> None:
    (root / "below").rename(root / "moved")
    assert news(tree).directories == [os.fsencode(root / "moved")]
    cover(tree, root / "moved")
    (root / "moved" / "deep" / "a.jpg").write_bytes(b"")
    assert news(tree).files == [os.fsencode(root / "moved" / "deep" / "a.jpg")]


def test_a_directory_that_leaves_the_tree_is_no_longer_watched(tree: InotifyTree, root: Path, tmp_path: Path) -> None:
    (root / "below").rename(tmp_path / "outside")
    news(tree)
    (tmp_path / "outside" / "deep" / "a.jpg").write_bytes(b"")
    assert news(tree).files == [] and tree.count == 1


def test_a_removed_directory_gives_its_watch_back(tree: InotifyTree, root: Path) -> None:
    (root / "below" / "deep").rmdir()
    news(tree)
    assert tree.count == 2


def test_the_root_may_go(tree: InotifyTree, root: Path) -> None:
    root.rename(root.with_name("elsewhere"))
    assert news(tree).gone


def test_links_are_followed_only_on_request(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.jpg").write_bytes(b"")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)
    for follow, files, count in ((False, [], 3), (True, [str(root / "link" / "a.jpg")], 4)):
        tree = InotifyTree(WalkedTree((os.fsencode(root),), follow=follow))
        assert (cover(tree, root), tree.count) == (files, count)
        tree.close()


def test_events_that_were_lost_are_said_to_be(tree: InotifyTree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip("this machine's queue of events is too long to fill")
    files = [root / "a", root / "b"]
    for file in files:
        file.touch()
    for number in range(most + 2):  # equal neighbours would be one event
        os.close(os.open(files[number % 2], os.O_WRONLY))
    assert news(tree).overflow
    tree.renew()
    cover(tree, root)
    (root / "c").touch()
    assert news(tree).files == [os.fsencode(root / "c")]


def test_too_few_watches_are_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (root / f"d{number}").mkdir()
        (root / f"d{number}" / "a.jpg").write_bytes(b"")
    plain = Inotify.add
    given: set[bytes] = set()

    def limited(self: Inotify, directory: bytes, *, follow: bool = False) -> int:
        if directory not in given and len(given) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        given.add(directory)
        return plain(self, directory, follow=follow)

    monkeypatch.setattr(Inotify, "add", limited)
    tree = InotifyTree(WalkedTree((os.fsencode(root),)))
    found = cover(tree, root)
    assert tree.count == 2 and len(tree.unwatched) == 6
    assert len(found) == 5  # what cannot be watched is listed all the same
    monkeypatch.setattr(Inotify, "add", plain)
    cover(tree, root)
    assert tree.count == 8 and not tree.unwatched
    tree.close()


def test_the_kernels_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inotify_tree.inotify_limit("max_user_watches") > 0
    monkeypatch.setattr(inotify_tree, "LIMITS", tmp_path / "none")
    assert inotify_tree.inotify_limit("max_user_watches") == 0


def test_no_directory_no_watch(tmp_path: Path) -> None:
    queue = Inotify()
    (tmp_path / "file").touch()
    for name, number in (("nothing", errno.ENOENT), ("file", errno.ENOTDIR)):
        with pytest.raises(OSError) as caught:
            queue.add(os.fsencode(tmp_path / name))
        assert caught.value.errno == number
    queue.close()
    queue.close()
    assert inotify.IN_CLOSE_WRITE  # the numbers are the kernel's


# -- settling --------------------------------------------------------------------------------------------------------


def test_a_file_is_scored_once_it_is_still(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    name = os.fsencode(path)
    path.write_bytes(b"half")
    waiting = Debouncer(0.5)
    waiting.add(name, 10.0)
    assert waiting.due() == 10.5 and list(waiting.ready(10.4)) == []
    path.write_bytes(b"half and more")  # without an event yet
    assert list(waiting.ready(10.5)) == [] and waiting.due() == 11.0
    waiting.add(name, 10.9)  # an event: it begins anew
    assert list(waiting.ready(11.0)) == []
    (found,) = waiting.ready(11.4)
    assert (found.path, found.size, found.ino) == (name, 13, path.stat().st_ino)
    assert waiting.due() is None and not len(waiting)


def test_what_is_gone_or_no_file_is_not_scored(tmp_path: Path) -> None:
    waiting = Debouncer(0.5)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "fifo")
    for name in ("gone", "link", "fifo"):
        waiting.add(os.fsencode(tmp_path / name), 1.0)
    assert list(waiting.ready(2.0)) == [] and not len(waiting)


def test_no_more_wait_than_can_be_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debounce, "MOST", 2)
    waiting = Debouncer(0.5)
    assert waiting.add(b"/a", 1.0) and waiting.add(b"/b", 1.0) and waiting.add(b"/a", 1.1)
    assert not waiting.add(b"/c", 1.2)
