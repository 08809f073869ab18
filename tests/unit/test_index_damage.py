"""A damaged index: one line and the exit code of lost results, whatever its columns hold, and never a traceback."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.cli import main
from nsfwd.scanning.index.database import RULES, Index
from nsfwd.sqlite_store import find_damage
from tests.unit.shelves import Shelf

OVERRIDE = '{"verdict": "safe", "reason": "a statue", "by": "eva", "at": 1.0}'


@pytest.fixture
def sound(tmp_path: Path) -> Iterator[Path]:
    """An index with something in each table, in one file."""
    path = tmp_path / "sound.sqlite"
    (tmp_path / "tree").mkdir()
    with Index(path) as index:
        shelf = Shelf(index)
        run = shelf.run(roots=(bytes(tmp_path / "tree"),))
        for name, sensitive, override in (("a", 0.1, None), ("b", 0.6, OVERRIDE), ("c", 0.9, None)):
            (tmp_path / "tree" / name).write_text(name)
            shelf.scored(bytes(tmp_path / "tree" / name), sensitive, run, real=True, override=override)
        shelf.unscored(bytes(tmp_path / "tree" / "d"), "error", "corrupt", run)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        assert find_damage(db, RULES) == ""
    db.close()
    yield path


def codes(index: Path, capfd: pytest.CaptureFixture[str]) -> set[int]:
    """Run every verb that reads an index; none of them may end with a traceback."""
    tree = index.with_name("tree")
    found = set()
    for verb in (
        ("list",), ("stats",), ("show", str(tree / "b")), ("export",), ("audit", str(tree)), ("sample", "-n", "9"),
        ("rejudge",), ("prune",), ("relocate", str(tree), "/elsewhere"),
    ):  # fmt: skip
        code = main.run(["index", *verb, "--index", str(index)])
        told = capfd.readouterr().err
        assert code != 70 and "Traceback" not in told, (verb, told)
        if code == 74:
            assert told.startswith(f"nsfwd: {index}: ") and told.count("\n") == 1, (verb, told)
        found.add(code)
    return found


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("run", "roots"), ("run", "models"), ("model", "labels"), ("model", "identity"), ("file", "digest"),
        ("file", "status"), ("file", "score"), ("file", "override"), ("file", "models"), ("file", "mtime_ns"),
        ("file", "time"), ("score", "scores"), ("directory", "path"),
    ],
)  # fmt: skip
def test_a_column_that_holds_something_else(
    sound: Path, table: str, column: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = sound.with_name("damaged.sqlite")
    for value in ("text", '{"', b"\xff\xfe", 1 << 62, "[" * 2000):
        shutil.copy(sound, damaged)
        db = sqlite3.connect(damaged)
        db.execute("DROP TRIGGER file_changed")
        db.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        db.commit()
        damage = find_damage(db, RULES)
        db.close()
        seen = codes(damaged, capfd)
        assert damage or 74 not in seen, (value, seen)


def test_bytes_that_a_disk_has_lost(sound: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged, rng, seen = sound.with_name("damaged.sqlite"), random.Random(1), set[int]()
    for round in range(40):
        content = bytearray(sound.read_bytes())
        for _ in range(rng.choice((1, 20, 300))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if round % 4 == 0:
            del content[rng.randrange(len(content)) :]
        damaged.write_bytes(content)
        seen |= codes(damaged, capfd)
    assert 74 in seen


def test_a_defect_of_nsfwd_stays_one(sound: Path) -> None:
    with pytest.raises(TypeError, match="of nsfwd"), Index(sound):
        raise TypeError("of nsfwd")
