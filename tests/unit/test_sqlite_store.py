"""Files of SQLite that several processes share: creation at once, and what is left alone because it is another's."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nsfwd.errors import IndexFailure, OverridesFailure
from nsfwd.overrides.override_store import OverrideStore
from nsfwd.scanning.index.database import Index
from nsfwd.sqlite_store import SqliteStore

BOTH = pytest.mark.parametrize("kind", [Index, OverrideStore])


@BOTH
def test_writers_that_create_one_file_at_once_all_open_it(tmp_path: Path, kind: type[SqliteStore]) -> None:
    failed: list[Exception] = []
    for number in range(20):
        path, together = tmp_path / f"{number}.sqlite", threading.Barrier(4)

        def create(path: Path = path, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                kind(path).close()
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []


def foreign(path: Path) -> None:
    """Another program's database, with changes that are still in its log, as a kill leaves it."""
    there = path.with_name("there")
    db = sqlite3.connect(there)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE cookies (name)")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("INSERT INTO cookies VALUES (1)")
    db.commit()
    for end in ("", "-wal"):
        Path(f"{path}{end}").write_bytes(Path(f"{there}{end}").read_bytes())
    db.close()


def nothing_of_sqlite(path: Path) -> None:
    path.write_bytes(b"GIF89a" * 1000)


def theirs_of_ours(path: Path) -> None:
    """The other of the two kinds of file."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA application_id = 1")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@BOTH
@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("make", [foreign, nothing_of_sqlite, theirs_of_ours, fifo, Path.mkdir])
def test_a_file_of_another_program_stays_as_it_is(
    tmp_path: Path, kind: type[SqliteStore], make: Callable[[Path], None], *, write: bool
) -> None:
    path = tmp_path / "file"
    make(path)
    before = content(tmp_path)
    with pytest.raises((IndexFailure, OverridesFailure), match=f"^{path}: "):
        kind(path, write=write)
    assert content(tmp_path) == before


@BOTH
def test_an_index_is_no_store_of_overrides_and_neither_is_it_one(tmp_path: Path, kind: type[SqliteStore]) -> None:
    other = OverrideStore if kind is Index else Index
    other(tmp_path / "file").close()
    with pytest.raises((IndexFailure, OverridesFailure), match=f"a database, but not {kind.FORMAT.name} of nsfwd"):
        kind(tmp_path / "file")
