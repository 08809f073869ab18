"""An index that may only be read: on read-only media, of another user, of an older version."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nsfwd.cli.main import run
from nsfwd.errors import IndexFailure
from nsfwd.scanning.index.database import MIGRATIONS, Index
from nsfwd.scanning.reports.records import file
from tests.unit.shelves import Shelf

READERS = ("list", "show /srv/a.jpg", "stats", "export", "diff 1 2", "sample")


def names(directory: Path) -> list[str]:
    return sorted(one.name for one in directory.iterdir())


def fill(path: Path) -> None:
    with Index(path) as index:
        shelf = Shelf(index)
        shelf.scored(b"/srv/a.jpg", 0.1, shelf.run())
        shelf.run()
        with index.transaction():
            index.write(
                "INSERT INTO action (time, kind, path, digest, verdict, outcome)"
                " VALUES (1, 'log', CAST('/srv/a.jpg' AS BLOB), x'00', 'safe', 'done')"
            )


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes an index as 0.1.0 had it."""

    def make(path: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Index, "FORMAT", replace(Index.FORMAT, migrations=MIGRATIONS[:1]))
            fill(path)

    return make


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a directory one in which nothing can be made; root is refused by hand what others are by the mode."""

    def close(directory: Path) -> None:
        directory.chmod(0o555)
        real = os.access
        monkeypatch.setattr(os, "access", lambda path, how, **rest: not how & os.W_OK and real(path, how, **rest))

    return close


@pytest.mark.parametrize("command", READERS)
def test_every_reading_verb_reads_on_read_only_media_and_makes_nothing(
    tmp_path: Path, read_only: Callable[[Path], None], command: str, older: Callable[[Path], None]
) -> None:
    directory = tmp_path / "media"
    directory.mkdir()
    older(directory / "index.db")
    before = (directory / "index.db").read_bytes()
    read_only(directory)
    assert run(["index", *command.split(), "--index", str(directory / "index.db")]) == 0
    assert names(directory) == ["index.db"] and (directory / "index.db").read_bytes() == before


def test_an_older_index_is_shown_and_then_brought_up_to_date_with_all_its_rows(
    tmp_path: Path, older: Callable[[Path], None]
) -> None:
    path = tmp_path / "index.db"
    older(path)
    with Index(path, write=False) as index:
        before = file(index, b"/srv/a.jpg")
        assert before is not None and before["actions"][0]["links"] is None
        with pytest.raises(IndexFailure), index.transaction():
            index.write("DELETE FROM run")
    with Index(path) as index:
        assert index.one("PRAGMA user_version") == (len(MIGRATIONS),) and file(index, b"/srv/a.jpg") == before


def test_a_log_that_cannot_be_read_is_said_and_not_left_out(tmp_path: Path, read_only: Callable[[Path], None]) -> None:
    directory = tmp_path / "media"
    directory.mkdir()
    fill(tmp_path / "index.db")
    writer = sqlite3.connect(tmp_path / "index.db")
    writer.execute("UPDATE run SET found = 7")
    writer.commit()
    for name in ("index.db", "index.db-wal"):
        (directory / name).write_bytes((tmp_path / name).read_bytes())
    writer.close()
    read_only(directory)
    with pytest.raises(IndexFailure, match=r"index.db-wal can only be read where the directory can be written"):
        Index(directory / "index.db", write=False)


def test_an_empty_index_and_one_that_may_not_be_read_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.db"
    with pytest.raises(IndexFailure, match="there is no index"):
        Index(path, write=False)
    path.touch()
    with pytest.raises(IndexFailure, match="the index is empty"):
        Index(path, write=False)
    with pytest.raises(IndexFailure, match="name is too long"):
        Index(tmp_path / ("ü" * 125))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_what_root_makes_beside_an_index_belongs_to_the_index_owner(tmp_path: Path) -> None:
    from nsfwd.scanning.index.runs import Run

    path = tmp_path / "index.db"
    fill(path)
    os.chown(path, 65534, 65534)
    with Index(path) as index:
        begun = Run.begin(index, "sweep", (b"/srv",))
        begun.end("finished")
        begun.close()
    assert path.with_name("index.db-runs").stat().st_uid == 65534
