"""The index as a file: who may read it, what it refuses, and that a transaction is whole or nothing."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from nsfwd.errors import IndexFailure
from nsfwd.scanning.index.database import MIGRATIONS, Index


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


def test_a_new_index_is_for_its_owner_alone(path: Path) -> None:
    with Index(path) as index:
        index_files = [path, *path.parent.glob("index.db-*")]
        assert {stat.S_IMODE(file.stat().st_mode) for file in index_files} == {0o600}
        assert [name for (name,) in index.read("SELECT name FROM migration")] == [each.name for each in MIGRATIONS]


def test_an_index_is_opened_again_with_what_was_written(path: Path) -> None:
    with Index(path) as index, index.transaction():
        index.write("INSERT INTO directory (path) VALUES (?)", (b"/a\xff",))
    with Index(path, create=False) as index:
        assert index.one("SELECT path FROM directory") == (b"/a\xff",)


def test_rows_that_nobody_asked_for_anymore_may_outlive_it(path: Path) -> None:
    with Index(path) as index:
        rows = index.read("SELECT name FROM migration UNION ALL SELECT name FROM migration")
        assert next(rows) == (MIGRATIONS[0].name,)
    rows.close()  # type: ignore[attr-defined]  # a generator


def test_a_transaction_is_whole_or_nothing(path: Path) -> None:
    with Index(path) as index:
        with pytest.raises(RuntimeError), index.transaction():
            index.write("INSERT INTO directory (path) VALUES (?)", (b"/a",))
            raise RuntimeError
        assert index.one("SELECT count(*) FROM directory") == (0,)


def test_an_index_of_a_newer_version_is_refused(path: Path) -> None:
    Index(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(IndexFailure, match="newer nsfwd"):
        Index(path)


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(IndexFailure, match="not an index"):
        Index(path)
    with sqlite3.connect(path) as db:
        assert [name for (name,) in db.execute("SELECT name FROM sqlite_master")] == ["theirs"]


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"GIF89a" * 1000)
    with pytest.raises(IndexFailure, match=r"index\.db: file is not a database"):
        Index(path)


def test_a_missing_index_is_not_made_by_who_only_reads(path: Path) -> None:
    with pytest.raises(IndexFailure, match="there is no index"):
        Index(path, create=False)
    assert not path.exists()


def test_a_directory_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(IndexFailure, match=r"nowhere/index\.db: No such file"):
        Index(path.parent / "nowhere" / "index.db")
