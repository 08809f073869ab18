"""A watch whose tree is another directory by now, or that gets no queue of the kernel's, says so and loses no file."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from nsfwd.scanning.index.database import Index
from nsfwd.scanning.submission.action_handler import NullActionHandler
from nsfwd.scanning.submission.scan_run import RunOptions
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.walk import WalkedTree
from nsfwd.scanning.watches import inotify_tree
from nsfwd.scanning.watches.inotify import Inotify
from nsfwd.scanning.watches.watch import WatchPlan, watch
from tests.unit.scripted import Script, serving


class Watching:
    """A watch that runs in a test: what it said, and waiting for what it is to see."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory, self.address = directory, address
        self.said: list[str] = []
        self._seen: set[bytes] = set()
        self._changed = asyncio.Event()

    def run(self, root: Path, story: Callable[[Watching], Awaitable[None]], *, every: float = 600.0) -> None:
        """Watch a tree while something happens, then stop."""
        asyncio.run(asyncio.wait_for(self._run(root, story, every), 60))

    async def _run(self, root: Path, story: Callable[[Watching], Awaitable[None]], every: float) -> None:
        tree = WalkedTree((os.fsencode(root),))
        options = RunOptions("watch", tree.roots, connect=self.address, say=self._say, settled=self._saw)
        stops: list[Callable[[], object]] = []
        ready = asyncio.Event()
        with Index(self.directory / "index.db") as index:
            plan = WatchPlan(tree, options, settle=0.01, every=every, roots=0.01)
            running = asyncio.create_task(watch(index, plan, NullActionHandler(), stop=stops.append, ready=ready.set))
            telling = asyncio.create_task(self._tell(ready, story))
            try:
                await asyncio.wait((running, telling), return_when=asyncio.FIRST_COMPLETED)
                stops[-1]()
            finally:
                await asyncio.gather(running, telling)

    async def _tell(self, ready: asyncio.Event, story: Callable[[Watching], Awaitable[None]]) -> None:
        await ready.wait()
        await story(self)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that a word or a file of the watch brings about."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    async def sees(self, *paths: Path) -> None:
        await self.until(lambda: {os.fsencode(path) for path in paths} <= self._seen)

    async def says(self, text: str) -> None:
        await self.until(lambda: any(text in said for said in self.said))

    def _say(self, text: str) -> None:
        self.said.append(text)
        self._changed.set()

    def _saw(self, entry: FileEntry) -> None:
        self._seen.add(entry.path)
        self._changed.set()


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Watching]:
    with serving(tmp_path, Script()) as address:
        yield Watching(tmp_path, address)


def release(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_bytes(os.fsencode(directory / name))
    return directory


def test_a_link_that_is_switched_is_followed_and_what_comes_there_is_seen(watching: Watching, tmp_path: Path) -> None:
    first, second = release(tmp_path / "r1", "old.jpg"), release(tmp_path / "r2", "lies.jpg")
    current = tmp_path / "current"
    current.symlink_to(first)

    async def switch(watching: Watching) -> None:
        await watching.sees(current / "old.jpg")
        (tmp_path / "next").symlink_to(second)
        (tmp_path / "next").rename(current)
        await watching.sees(current / "lies.jpg")
        (second / "comes.jpg").write_bytes(b"comes")
        await watching.sees(current / "comes.jpg")

    watching.run(current, switch)
    assert sum("stands for another directory now" in text for text in watching.said) == 1


def test_a_parent_that_is_replaced_is_noticed(watching: Watching, tmp_path: Path) -> None:
    release(tmp_path / "a/tree", "old.jpg")
    release(tmp_path / "b/tree", "lies.jpg")

    async def replace(watching: Watching) -> None:
        await watching.sees(tmp_path / "a/tree/old.jpg")
        (tmp_path / "a").rename(tmp_path / "gone")
        await watching.says("is no longer there")
        (tmp_path / "b").rename(tmp_path / "a")
        await watching.sees(tmp_path / "a/tree/lies.jpg")
        (tmp_path / "a/tree/comes.jpg").write_bytes(b"comes")
        await watching.sees(tmp_path / "a/tree/comes.jpg")

    watching.run(tmp_path / "a/tree", replace)
    assert sum("is back; it" in text for text in watching.said) == 1


def test_a_tree_that_was_removed_is_watched_again_as_soon_as_it_is_back(watching: Watching, tmp_path: Path) -> None:
    tree = release(tmp_path / "tree", "old.jpg")

    async def remove(watching: Watching) -> None:
        await watching.sees(tree / "old.jpg")
        (tree / "old.jpg").unlink()
        tree.rmdir()
        await watching.says("is no longer there")
        release(tree, "new.jpg")
        await watching.sees(tree / "new.jpg")
        (tree / "comes.jpg").write_bytes(b"comes")
        await watching.sees(tree / "comes.jpg")

    watching.run(tree, remove)


def test_what_is_mounted_below_a_tree_is_noticed(
    watching: Watching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, table = release(tmp_path / "tree", "old.jpg"), tmp_path / "mountinfo"
    table.write_bytes(b"1 0 8:1 / / rw - ext4 /dev/sda rw\n")
    monkeypatch.setattr(inotify_tree, "MOUNTS", table)

    async def mount(watching: Watching) -> None:
        await watching.sees(tree / "old.jpg")
        place = os.fsencode(tree.resolve() / "a b").replace(b" ", b"\\040")
        (tmp_path / "new").write_bytes(table.read_bytes() + b"2 1 0:30 / " + place + b" rw - tmpfs tmpfs rw\n")
        (tmp_path / "new").rename(table)
        await watching.says("something was mounted or unmounted below it")

    watching.run(tree, mount)
    assert inotify_tree.root_state(os.fsencode(tree)).mounts == {(b"2", os.fsencode(tree.resolve() / "a b"))}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSYS])
def test_without_a_queue_of_the_kernels_it_is_swept_and_said_what_to_set(
    watching: Watching, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = release(tmp_path / "tree", "old.jpg")

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(inotify_tree, "Inotify", refuse)

    async def write(watching: Watching) -> None:
        await watching.sees(tree / "old.jpg")
        (tree / "comes.jpg").write_bytes(b"comes")
        await watching.sees(tree / "comes.jpg")

    watching.run(tree, write, every=0.05)
    word = "sysctl -w fs.inotify.max_user_instances=" if number == errno.EMFILE else "the kernel refuses inotify"
    assert len([text for text in watching.said if word in text]) == 1


def test_a_queue_that_comes_free_is_taken(watching: Watching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = release(tmp_path / "tree", "old.jpg")
    refusals = iter([OSError(errno.EMFILE, "Too many open files")])

    def scarce() -> Inotify:
        for error in refusals:
            raise error
        return Inotify()

    monkeypatch.setattr(inotify_tree, "Inotify", scarce)

    async def write(watching: Watching) -> None:
        await watching.sees(tree / "old.jpg")  # the first sweep took a queue
        (tree / "comes.jpg").write_bytes(b"comes")
        await watching.sees(tree / "comes.jpg")

    watching.run(tree, write)
