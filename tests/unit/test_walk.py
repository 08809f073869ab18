"""Walking: what is found, in which order and in which parts; what is left out, and what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsfwd.scanning.trees import walk
from nsfwd.scanning.trees.file_entry import join, within
from nsfwd.scanning.trees.walk import Exclusion, Walk, WalkedTree, outermost


def made(directory: Path, *names: str) -> bytes:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return os.fsencode(directory)


def found(tree: WalkedTree) -> list[bytes]:
    return sorted(join(part.directory, entry[0]) for part in Walk(tree) for entry in part.entries)


def test_files_of_a_directory_come_in_the_order_of_their_inodes(tmp_path: Path) -> None:
    root = made(tmp_path, *(f"{number}.jpg" for number in range(100)))
    (part,) = Walk(WalkedTree((root,)))
    inodes = [entry[2] for entry in part.entries]
    assert inodes == sorted(inodes) and len(inodes) == 100 and part.whole
    one = (tmp_path / "7.jpg").stat()
    assert (b"7.jpg", one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) in part.entries


def test_a_large_directory_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "PART", 4)
    root = made(tmp_path, *(str(number) for number in range(10)), "below/a")
    parts = list(Walk(WalkedTree((root,))))
    assert (parts[0].first, parts[0].last) == (True, False)
    assert sum(len(part.entries) for part in parts) == 11 and max(len(part.entries) for part in parts) <= 4
    assert [part.directory for part in parts if part.last] == [root, root + b"/below"]


def test_what_is_no_regular_file_is_passed_over(tmp_path: Path) -> None:
    root = made(tmp_path, "a")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    assert found(WalkedTree((root,))) == found(WalkedTree((root,), follow=True)) == [root + b"/a"]


def test_followed_links_end(tmp_path: Path) -> None:
    root = made(tmp_path / "tree", "a/b/c")
    made(tmp_path, "outside/d")
    (tmp_path / "tree/a/up").symlink_to(tmp_path / "tree")
    (tmp_path / "tree/out").symlink_to(tmp_path / "outside")
    assert [path.rpartition(b"/")[2] for path in found(WalkedTree((root,), follow=True))] == [b"c", b"d"]
    walked = Walk(WalkedTree((root,)))
    assert sum(len(part.entries) for part in walked) == 1 and walked.links == 2


def test_other_file_systems_are_entered_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made(tmp_path, "a", "mounted/b")
    inode, fstat = (tmp_path / "mounted").stat().st_ino, os.fstat

    def elsewhere(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        return os.stat_result((*status[:2], status.st_dev + 1, *status[3:])) if status.st_ino == inode else status

    monkeypatch.setattr("nsfwd.scanning.trees.walk.os.fstat", elsewhere)
    one = Walk(WalkedTree((root,)))
    assert [entry[0] for part in one for entry in part.entries] == [b"a"] and one.foreign == 1
    assert len(found(WalkedTree((root,), cross=True))) == 2


def test_exclusions_are_by_name_or_by_path(tmp_path: Path) -> None:
    root = made(tmp_path, "a.jpg", "a.tmp", "cache/b.jpg", "deep/cache/c.jpg", "deep/d.jpg")
    assert len(found(WalkedTree((root,), Exclusion(["*.tmp", "cache"])))) == 2
    assert len(found(WalkedTree((root,), Exclusion([f"{tmp_path}/cache"])))) == 4
    assert sum(part.excluded for part in Walk(WalkedTree((root,), Exclusion(["*.jpg"])))) == 4


@pytest.mark.parametrize("pattern", ["*", "?.jpg", "[!b].jpg"])
def test_a_pattern_may_meet_names_that_are_no_utf_8(pattern: str) -> None:
    assert Exclusion([pattern]).holds(b"/x/\xff.jpg")


def test_a_missing_root_is_told(tmp_path: Path) -> None:
    (part,) = Walk(WalkedTree((os.fsencode(tmp_path / "nowhere"),)))
    assert (part.code, part.last, part.entries) == ("not_found", True, [])


def test_a_directory_that_cannot_be_searched_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made(tmp_path, "a", "b")

    class Closed:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self._entry, self.name = entry, entry.name
            self.is_file, self.is_dir, self.inode = entry.is_file, entry.is_dir, entry.inode

        def stat(self, **_: bool) -> os.stat_result:
            if self.name == "a":
                raise PermissionError(13, "Permission denied")
            return self._entry.stat()

    files = Walk._files

    def closed(self: Walk, *rest: object) -> object:
        return [(inode, Closed(entry)) for inode, entry in files(self, *rest)]  # type: ignore[arg-type]

    monkeypatch.setattr(Walk, "_files", closed)
    (part,) = Walk(WalkedTree((root,)))
    assert part.code == "permission" and [entry[0] for entry in part.entries] == [b"b"]


def test_counting_looks_at_no_file(tmp_path: Path) -> None:
    root = made(tmp_path, "a", "b/c")
    assert [entry for part in Walk(WalkedTree((root,)), names_only=True) for entry in part.entries] == [
        (b"a", 0, 0, 0, 0, 0),
        (b"c", 0, 0, 0, 0, 0),
    ]


def test_a_root_within_another_is_walked_with_it(tmp_path: Path) -> None:
    assert outermost([b"/a/b", b"/a", b"/ab", b"/a"]) == [b"/a", b"/ab"]
    assert outermost([b"/", b"/a"]) == [b"/"]
    assert within(b"/a/b", b"/a") and within(b"/a", b"/") and not within(b"/ab", b"/a")
