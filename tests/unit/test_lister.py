"""Directories are named as a stream, a chunk at a time, and an incomplete list says so."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from nsfwd.imaging import lister as module
from nsfwd.imaging.lister import Lister
from nsfwd.ipc import child_messages
from nsfwd.ipc.link import MAX_PACKET


def listed(
    directory: Path | bytes,
    *,
    recursive: bool = False,
    skip: int = 0,
    chunk: int = 3,
    max_depth: int = 8,
    max_entries: int = 1000,
    roots: tuple[bytes, ...] = (b"/",),
) -> tuple[list[bytes], child_messages.Entries]:
    """All paths of a directory, and the last message."""
    lister = Lister(child_messages.ListerSetup(roots, max_depth, max_entries, chunk))
    entries = lister.answer(child_messages.List(1, os.fsencode(directory), recursive, skip))
    paths: list[bytes] = []
    while True:
        assert entries is not None
        assert len(entries.paths) <= chunk
        paths += entries.paths
        if entries.end:
            assert lister.answer(child_messages.More(1)) is None
            return paths, entries
        entries = lister.answer(child_messages.More(1))


def names(directory: Path, paths: list[bytes]) -> set[str]:
    prefix = os.fsencode(directory) + b"/"
    assert all(path.startswith(prefix) for path in paths)
    assert len(set(paths)) == len(paths)
    return {os.fsdecode(path.removeprefix(prefix)) for path in paths}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "in"
    (top / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    for file in ("in/a.jpg", "in/.hidden", "in/text", "in/sub/b.jpg", "in/sub/deep/c.jpg", "out/d.jpg"):
        (tmp_path / file).write_bytes(b"x")
    os.mkfifo(top / "fifo")
    for name, target in {"link": "a.jpg", "dangling": "no", "to-fifo": "fifo", "to-sub": "sub", "up": ".."}.items():
        (top / name).symlink_to(target)
    (top / "outside").symlink_to("../out/d.jpg")
    return top


def test_regular_files_and_links_to_them_hidden_ones_too(tree: Path) -> None:
    paths, last = listed(tree)
    assert names(tree, paths) == {"a.jpg", ".hidden", "text", "link", "outside"}
    assert (last.end, last.code) == (True, "")


def test_recursion_never_follows_links(tree: Path) -> None:
    paths, last = listed(tree, recursive=True)
    expected = {"a.jpg", ".hidden", "text", "link", "outside", "sub/b.jpg", "sub/deep/c.jpg"}
    assert names(tree, paths) == expected
    assert last.code == ""


def test_paths_are_spelled_as_the_client_spelled_the_directory(tree: Path) -> None:
    for spelled in (b"/in/../in", b"/in///"):
        top = os.fsencode(tree.parent) + spelled
        paths, _ = listed(top, recursive=True)
        assert all(path.startswith(top.rstrip(b"/") + b"/") for path in paths)
        assert all(os.path.exists(path) for path in paths)  # noqa: PTH110 - names are bytes


def test_links_that_leave_the_roots_are_named_whether_or_not_they_lead_anywhere(tree: Path) -> None:
    (tree / "nowhere").symlink_to("../out/missing.jpg")
    paths, _ = listed(tree, roots=(os.fsencode(tree),))
    assert {"outside", "nowhere", "up"} <= names(tree, paths)


def test_a_list_is_resumed_behind_what_was_named(tree: Path) -> None:
    whole, _ = listed(tree, recursive=True)
    for skip in range(len(whole) + 2):
        rest, last = listed(tree, recursive=True, skip=skip)
        assert rest == whole[skip:]
        assert last.code == ""


@pytest.mark.parametrize(
    ("path", "roots", "code"),
    [
        (b"/no/such/directory", (b"/",), "not_found"),
        (b"/no/such/directory", (b"/etc",), "forbidden"),
        (b"/", (b"/etc",), "forbidden"),
        (b"/proc", (b"/",), "forbidden"),
        (b"etc", (b"/",), "relative_path"),
        (b"", (b"/",), "bad_path"),
    ],
)
def test_what_cannot_be_listed(path: bytes, roots: tuple[bytes, ...], code: str) -> None:
    paths, last = listed(path, roots=roots)
    assert (paths, last.code) == ([], code)
    assert last.message


def test_too_many_entries_end_the_list(tree: Path) -> None:
    for number in range(20):
        (tree / f"{number}.jpg").touch()
    paths, last = listed(tree, max_entries=10)
    assert last.code == "too_many_entries"
    assert len(paths) <= 10
    count = sum(1 for _ in tree.iterdir())
    assert listed(tree, max_entries=count)[1].code == ""
    assert listed(tree, max_entries=count - 1)[1].code == "too_many_entries"


def test_too_deep_is_told_and_the_rest_is_named(tree: Path) -> None:
    paths, last = listed(tree, recursive=True, max_depth=1)
    assert last.code == "too_deep"
    assert "sub/b.jpg" in names(tree, paths)
    assert "sub/deep/c.jpg" not in names(tree, paths)
    assert listed(tree, recursive=True, max_depth=2)[1].code == ""


@pytest.mark.parametrize(
    ("error", "code"), [(FileNotFoundError(2, "gone"), "not_found"), (PermissionError(13, "no"), "permission")]
)
def test_a_directory_below_that_cannot_be_entered_is_told_and_the_rest_is_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, code: str
) -> None:
    really = os.open

    def closed(path: object, *rest: object, **keys: object) -> int:
        if path == b"deep":
            raise error
        return really(path, *rest, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr("nsfwd.imaging.lister.os.open", closed)
    paths, last = listed(tree, recursive=True)
    assert last.code == code
    assert "sub/b.jpg" in names(tree, paths)


def test_long_names_never_make_a_packet_too_long(tmp_path: Path) -> None:
    top = tmp_path
    for _ in range(14):
        top = top / ("d" * 250)
    top.mkdir(parents=True)
    for number in range(60):
        (top / f"{number:0250d}").touch()
    lister = Lister(child_messages.ListerSetup((b"/",), 99, 9999, 256))
    entries = lister.answer(child_messages.List(1, os.fsencode(tmp_path), True, 0))
    count = 0
    while entries is not None:
        assert len(child_messages.encode(entries)) <= MAX_PACKET
        count += len(entries.paths)
        entries = None if entries.end else lister.answer(child_messages.More(1))
    assert count == 60


def test_a_slow_chunk_is_sent_unfinished(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_SECONDS", 0.0)
    lister = Lister(child_messages.ListerSetup((b"/",), 8, 1000, 100))
    first = lister.answer(child_messages.List(1, os.fsencode(tree), True, 0))
    assert first is not None
    assert not first.end
    assert len(first.paths) <= 1
    assert names(tree, listed(tree, recursive=True)[0]) >= {"sub/b.jpg"}


def open_below(tree: Path) -> list[str]:
    """What this process holds open in *tree*; others' descriptors may come and go meanwhile."""
    held = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor that reads this directory
            held.append(str(descriptor.readlink()))
    return [path for path in held if path.startswith(str(tree))]


def test_a_forgotten_list_lets_go_of_its_directories(tree: Path) -> None:
    lister = Lister(child_messages.ListerSetup((b"/",), 8, 1000, 1))
    for number in range(5):
        lister.answer(child_messages.List(number, os.fsencode(tree), True, 0))
    assert open_below(tree)
    for number in range(5):
        assert lister.answer(child_messages.Forget(number)) is None
    assert lister.answer(child_messages.More(3)) is None
    assert open_below(tree) == []


def test_lists_do_not_disturb_each_other(tree: Path) -> None:
    lister = Lister(child_messages.ListerSetup((b"/",), 8, 1000, 1))
    whole, _ = listed(tree)
    found: dict[int, list[bytes]] = {1: [], 2: []}
    for number in found:
        entries = lister.answer(child_messages.List(number, os.fsencode(tree), False, 0))
        assert entries is not None
        found[number] += entries.paths
    for _ in range(len(whole) + 1):
        for number, paths in found.items():
            entries = lister.answer(child_messages.More(number))
            paths += entries.paths if entries is not None else []
    assert found == {1: whole, 2: whole}
