"""The row of a run, and that two sweeps never walk one tree."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from nsfwd.errors import NsfwdError
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.runs import Run, alive


@pytest.mark.parametrize("other", [b"/srv/a", b"/srv/a/below", b"/srv", b"/"])
def test_trees_that_lie_in_each_other_are_one(tmp_path: Path, other: bytes) -> None:
    with Index(tmp_path / "index.db") as index, Index(tmp_path / "index.db") as second:
        run = Run.begin(index, "sweep", [b"/srv/a", b"/srv/b"])
        with pytest.raises(NsfwdError, match=rf"runs already \(run 1, process {os.getpid()}"):
            Run.begin(second, "sweep", [other])
        Run.begin(second, "sweep", [b"/srv/ab"]).close()
        Run.begin(second, "watch", [other]).close()
        run.close()
        Run.begin(second, "sweep", [other]).close()


def test_a_link_to_a_tree_is_that_tree(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with Index(tmp_path / "index.db") as index:
        run = Run.begin(index, "sweep", [os.fsencode(tmp_path / "real")])
        with pytest.raises(NsfwdError, match="runs already"):
            Run.begin(index, "sweep", [os.fsencode(tmp_path / "link")])
        run.close()


def _hold(path: Path, ready: object) -> None:
    run = Run.begin(Index(path), "sweep", [b"/srv"])
    ready.set()  # type: ignore[attr-defined]
    signal.pause()
    run.close()


def test_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(path, ready))
    process.start()
    assert ready.wait(60)
    with Index(path) as index:
        with pytest.raises(NsfwdError, match="runs already"):
            Run.begin(index, "sweep", [b"/srv"])
        assert alive(index, 1)
        process.kill()
        process.join(60)
        assert not alive(index, 1)
        Run.begin(index, "sweep", [b"/srv"]).close()


def test_the_counts_and_the_end_are_written(tmp_path: Path) -> None:
    with Index(tmp_path / "index.db") as index:
        run = Run.begin(index, "spool", [b"/a", b"/b"])
        run.counts.ok, run.counts.known, run.counts.excluded = 3, 2, 1
        run.end("paused", "for the night")
        run.close()
        row = index.one("SELECT kind, roots, found, ok, known, why, message, ended >= started FROM run")
        assert row == ("spool", b"/a\0/b", 6, 3, 2, "paused", "for the night", 1)
