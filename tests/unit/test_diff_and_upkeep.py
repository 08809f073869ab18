"""Two runs held against each other; trees that moved; rows that nobody needs any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.errors import NsfwdError
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.maintenance import Pruned, prune, relocate
from nsfwd.scanning.reports.diff import Difference, What, differences
from tests.unit.shelves import Shelf


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "index.db") as opened:
        yield opened


@pytest.fixture
def shelf(index: Index) -> Shelf:
    return Shelf(index)


def test_what_became_of_files_between_two_runs(index: Index, shelf: Shelf) -> None:
    first = shelf.run()
    for name in (b"same", b"worse", b"back\xff", b"broken", b"gone", b"flickers"):
        shelf.scored(b"/srv/" + name, 0.1, first)
    second = shelf.run()
    shelf.scored(b"/srv/worse", 0.9, second)
    shelf.gone(b"/srv/gone", second)
    shelf.gone(b"/srv/back\xff", second)
    shelf.unscored(b"/srv/broken", "error", "corrupt", second)
    shelf.scored(b"/srv/flickers", 0.9, second)
    shelf.scored(b"/srv/passing", 0.1, second)
    third = shelf.run()
    shelf.scored(b"/srv/new", 0.6, third)
    shelf.scored(b"/srv/back\xff", 0.1, third)
    shelf.scored(b"/srv/flickers", 0.1, third)
    shelf.gone(b"/srv/passing", third)
    assert set(differences(index, first, third)) == {
        Difference(What.VERDICT, b"/srv/worse", "safe", "sensitive"),
        Difference(What.GONE, b"/srv/gone", "safe", ""),
        Difference(What.STATUS, b"/srv/broken", "safe", "error corrupt"),
        Difference(What.NEW, b"/srv/new", "", "review"),
    }
    assert {each.path: each.what for each in differences(index, second, third)} == {
        b"/srv/new": What.NEW,
        b"/srv/back\xff": What.NEW,
        b"/srv/flickers": What.VERDICT,
        b"/srv/passing": What.GONE,
    }


def test_runs_that_are_not_there_or_the_wrong_way_round_are_refused(index: Index, shelf: Shelf) -> None:
    run, later = shelf.run(), shelf.run()
    with pytest.raises(NsfwdError, match="no run 7"):
        differences(index, run, 7)
    with pytest.raises(NsfwdError, match="run 2 is not before run 1"):
        differences(index, later, run)


def test_what_stays_as_it_is_has_no_history(index: Index, shelf: Shelf) -> None:
    run = shelf.run()
    shelf.scored(b"/srv/a", 0.1, run)
    shelf.scored(b"/srv/a", 0.2, shelf.run())
    assert index.one("SELECT count(*), max(run) FROM history") == (1, run)


def paths(index: Index) -> set[bytes]:
    return {path for (path,) in index.read("SELECT path FROM directory")}


def test_a_tree_that_moved_is_followed(index: Index, shelf: Shelf) -> None:
    run = shelf.run()
    for path in (b"/srv/old/a", b"/srv/old/s\xff/b", b"/srv/old/s\xff/gone", b"/srv/older/c", b"/srv/d"):
        shelf.scored(path, 0.1, run)
    shelf.gone(b"/srv/old/s\xff/gone", run)
    assert relocate(index, b"/srv/old", b"/mnt/n\xfe", dry_run=True) == 2
    assert b"/srv/old" in paths(index)
    assert relocate(index, b"/srv/old", b"/mnt/n\xfe") == 2
    assert paths(index) == {b"/mnt/n\xfe", b"/mnt/n\xfe/s\xff", b"/srv/older", b"/srv"}
    with pytest.raises(NsfwdError, match="knows no directory /srv/old"):
        relocate(index, b"/srv/old", b"/mnt/other")
    with pytest.raises(NsfwdError, match="knows /srv already"):
        relocate(index, b"/mnt/n\xfe", b"/srv")
    with pytest.raises(NsfwdError, match="cannot relocate /"):
        relocate(index, b"/", b"/mnt")


def test_a_tree_may_move_into_itself(index: Index, shelf: Shelf) -> None:
    run = shelf.run()
    shelf.scored(b"/srv/a", 0.1, run)
    shelf.scored(b"/srv/x/b", 0.1, run)
    relocate(index, b"/srv", b"/srv/deeper")
    assert paths(index) == {b"/srv/deeper", b"/srv/deeper/x"}


def counts(index: Index) -> tuple[int, ...]:
    tables = ("file", "score", "history", "directory", "run")
    return tuple((index.one(f"SELECT count(*) FROM {table}") or (0,))[0] for table in tables)


@pytest.fixture
def aged(index: Index, shelf: Shelf) -> Index:
    """Four old runs and one of now: files that are there, gone long ago, gone just now, and taken into quarantine."""
    runs = [shelf.run() for _ in range(5)]
    with index.transaction():
        index.write("UPDATE run SET started = ? WHERE id = ?", (time.time(), runs[4]))
    shelf.scored(b"/srv/here", 0.1, runs[0])
    shelf.scored(b"/srv/here", 0.6, runs[1])
    shelf.scored(b"/srv/here", 0.9, runs[4])
    shelf.scored(b"/srv/left/gone", 0.1, runs[0])
    shelf.gone(b"/srv/left/gone", runs[1])
    shelf.scored(b"/srv/just", 0.1, runs[0])
    shelf.gone(b"/srv/just", runs[4])
    shelf.scored(b"/srv/taken", 0.9, runs[0])
    with index.transaction():
        index.write(
            """
            INSERT INTO action (run, time, kind, path, digest, verdict, outcome)
            SELECT ?, 1000.0, 'quarantine', ?, digest, 'sensitive', 'done' FROM file WHERE name = ?
            """,
            (runs[2], b"/srv/taken", b"taken"),
        )
    shelf.gone(b"/srv/taken", runs[2])
    return index


def test_pruning_says_first_what_it_would_do_and_then_does_just_that(aged: Index) -> None:
    before, cut = counts(aged), time.time() - 3600
    told = prune(aged, before=cut, apply=False)
    assert counts(aged) == before
    done = prune(aged, before=cut, apply=True)
    assert told == done == Pruned(files=2, scores=1, history=5, directories=1, runs=1)
    assert {name for (name,) in aged.read("SELECT name FROM file")} == {b"here", b"just"}
    assert {run for (run,) in aged.read("SELECT id FROM run")} == {1, 2, 3, 5}
    assert prune(aged, before=cut, apply=True) == Pruned()
    assert not list(aged.read("PRAGMA foreign_key_check")) and aged.one("PRAGMA integrity_check") == ("ok",)


def test_what_an_action_may_undo_keeps_its_scores(aged: Index) -> None:
    prune(aged, before=time.time() - 3600, apply=True)
    kept = "SELECT count(*) FROM score JOIN action ON action.digest = score.digest"
    assert aged.one(kept) == (1,)
    with aged.transaction():
        aged.write("UPDATE action SET restored = 2000.0")
    prune(aged, before=time.time() - 3600, apply=True)
    assert aged.one(kept) == (0,)


def test_the_state_of_old_days_can_still_be_compared(aged: Index) -> None:
    prune(aged, before=time.time() - 3600, apply=True)
    assert {(each.what, each.before, each.after) for each in differences(aged, 3, 5)} == {
        (What.VERDICT, "review", "sensitive"),
        (What.GONE, "safe", ""),
    }


def test_many_rows_go_in_steps(index: Index, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsfwd.scanning.index.maintenance.STEP", 3)
    run = shelf.run()
    for number in range(10):
        shelf.scored(b"/srv/%d" % number, 0.1, run)
        shelf.gone(b"/srv/%d" % number, run)
    shelf.run()
    assert prune(index, before=2000.0, apply=True).files == 10 and counts(index) == (0, 0, 0, 0, 1)
