"""The audit against trees on the disk: every file is in one of the six, and nothing that is missing stays unseen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.runs import Run
from nsfwd.scanning.reports.audit import COUNTED, Audit, AuditTally, Kind, as_dict
from nsfwd.scanning.trees.walk import Exclusion, WalkedTree
from tests.unit.shelves import Shelf

ODD = b"odd\xff name\n.jpg"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "sub" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "c.txt", "sub/d.jpg", "sub/deep/e.jpg"):
        (tree / name).write_bytes(name.encode())
    Path(os.fsdecode(os.fsencode(tree) + b"/" + ODD)).write_bytes(b"odd")
    (tree / "link").symlink_to("a.jpg")
    return tree


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "index.db") as opened:
        yield opened


@pytest.fixture
def swept(index: Index, tree: Path) -> Shelf:
    """The tree as a whole sweep leaves it in the index."""
    shelf = Shelf(index)
    root = os.fsencode(tree)
    run = shelf.run(roots=(root,))
    for name in (b"a.jpg", b"b.jpg", ODD, b"sub/d.jpg"):
        shelf.scored(root + b"/" + name, 0.1, run, real=True)
    shelf.unscored(root + b"/c.txt", "skipped", "not_an_image", run, real=True)
    shelf.unscored(root + b"/sub/deep/e.jpg", "error", "corrupt", run, real=True)
    return shelf


def audited(index: Index, *roots: Path, exclude: tuple[str, ...] = ()) -> tuple[AuditTally, dict[Kind, set[bytes]]]:
    audit = Audit(index, WalkedTree(tuple(os.fsencode(root) for root in roots), Exclusion(exclude)))
    lists: dict[Kind, set[bytes]] = {kind: set() for kind in Kind}
    for entry in audit.entries():
        lists[entry.kind].add(entry.path)
    for kind in Kind:
        assert len(lists[kind]) == audit.tally.kinds[kind]
    assert audit.tally.found == sum(len(lists[kind]) for kind in COUNTED)
    return audit.tally, lists


def test_a_tree_that_was_swept_is_proven(index: Index, swept: Shelf, tree: Path) -> None:
    tally, lists = audited(index, tree)
    assert tally.proven and tally.found == 6 and tally.gone == 0 and tally.links == 1 and not tally.unended
    assert len(lists[Kind.OK]) == 4 and os.fsencode(tree) + b"/" + ODD in lists[Kind.OK]
    assert dict(tally.codes) == {(Kind.SKIPPED, "not_an_image"): 1, (Kind.ERROR, "corrupt"): 1}
    assert as_dict(tally)["codes"] == {"error": {"corrupt": 1}, "skipped": {"not_an_image": 1}}


def test_what_came_changed_and_went_shows(index: Index, swept: Shelf, tree: Path) -> None:
    (tree / "sub" / "new.jpg").write_bytes(b"new")
    (tree / "other").mkdir()
    (tree / "other" / "newer.jpg").write_bytes(b"newer")
    (tree / "a.jpg").write_bytes(b"changed")
    (tree / "b.jpg").unlink()
    tally, lists = audited(index, tree)
    assert not tally.proven and tally.gone == 1
    assert lists[Kind.CHANGED] == {os.fsencode(tree / "a.jpg")}
    assert lists[Kind.UNSEEN] == {os.fsencode(tree / "sub/new.jpg"), os.fsencode(tree / "other/newer.jpg")}


def test_another_file_in_its_place_is_a_changed_one(index: Index, swept: Shelf, tree: Path) -> None:
    before = (tree / "a.jpg").stat()
    (tree / "twin").write_bytes(b"b.jpg")
    os.utime(tree / "twin", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tree / "twin").rename(tree / "a.jpg")
    assert audited(index, tree)[1][Kind.CHANGED] == {os.fsencode(tree / "a.jpg")}


def test_a_file_that_is_marked_as_gone_and_is_there_was_never_seen(index: Index, swept: Shelf, tree: Path) -> None:
    swept.gone(os.fsencode(tree / "a.jpg"), swept.run())
    assert audited(index, tree)[1][Kind.UNSEEN] == {os.fsencode(tree / "a.jpg")}


def test_what_is_excluded_is_listed_and_not_taken_for_gone(index: Index, swept: Shelf, tree: Path) -> None:
    (tree / "new.tmp").write_bytes(b"")
    tally, lists = audited(index, tree, exclude=("*.tmp", "b.jpg", "sub"))
    assert lists[Kind.EXCLUDED] == {os.fsencode(tree / "new.tmp"), os.fsencode(tree / "b.jpg")}
    assert tally.proven and tally.left_out == 1 and tally.gone == 0


def test_a_part_of_a_tree_and_overlapping_trees(index: Index, swept: Shelf, tree: Path) -> None:
    assert audited(index, tree / "sub")[0].found == 2
    assert audited(index, tree, tree / "sub", tree)[0].found == 6


def test_a_directory_that_cannot_be_walked_shows(
    index: Index, swept: Shelf, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, really = os.fsencode(tree / "sub"), os.open

    def refusing(path: bytes, *arguments: int, **more: int) -> int:
        if path == locked:
            raise PermissionError(13, "Permission denied")
        return really(path, *arguments, **more)

    monkeypatch.setattr("nsfwd.scanning.trees.walk.os.open", refusing)
    tally, lists = audited(index, tree)
    assert lists[Kind.UNREADABLE] == {locked} and tally.codes[Kind.UNREADABLE, "permission"] == 1
    assert tally.unknown == 1 and not tally.proven and tally.gone == 0
    with index.transaction():
        index.write("UPDATE directory SET code = 'permission' WHERE path = ?", (locked,))
    tally, _ = audited(index, tree)
    assert tally.unknown == 0 and tally.kinds[Kind.UNREADABLE] == 1 and tally.proven


def test_a_tree_that_is_not_there_shows(index: Index, tmp_path: Path) -> None:
    tally, lists = audited(index, tmp_path / "nowhere")
    assert lists[Kind.UNREADABLE] == {os.fsencode(tmp_path / "nowhere")} and not tally.proven


def test_files_of_a_tree_that_went_are_gone(index: Index, swept: Shelf, tree: Path) -> None:
    tree.rename(tree.with_name("elsewhere"))
    assert audited(index, tree)[0].gone == 6


def test_a_sweep_that_was_cut_short_shows(index: Index, swept: Shelf, tree: Path) -> None:
    root = os.fsencode(tree)
    swept.run(roots=(root,), why="paused")
    assert [(each.run, each.why) for each in audited(index, tree)[0].unended] == [(2, "paused")]
    swept.run(roots=(b"/elsewhere",), why="finished")
    run = Run.begin(index, "sweep", (os.path.dirname(root),))  # noqa: PTH120
    assert audited(index, tree)[0].unended[0].why == "running"
    run.close()
    assert audited(index, tree)[0].unended[0].why == "killed"


def test_an_audit_that_is_stopped_says_so(index: Index, swept: Shelf, tree: Path) -> None:
    audit = Audit(index, WalkedTree((os.fsencode(tree),)), stopped=lambda: True)
    seen = list(audit.entries())
    assert 0 < len(seen) < 6 and audit.tally.cut_short and not audit.tally.proven


def test_nothing_is_written(index: Index, swept: Shelf, tree: Path) -> None:
    before = list(index.read("SELECT * FROM file")), list(index.read("SELECT * FROM directory"))
    (tree / "new.jpg").write_bytes(b"new")
    audited(index, tree)
    assert (list(index.read("SELECT * FROM file")), list(index.read("SELECT * FROM directory"))) == before
