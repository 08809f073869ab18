"""Numbers of stat(2) at both ends of their range go through everything that keeps or shows them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nsfwd.cli.main import run
from nsfwd.protocol.messages import FileIdentity
from nsfwd.scanning.actions.executor import ActionExecutor, ActionPlan
from nsfwd.scanning.actions.quarantine import Store
from nsfwd.scanning.actions.restore import restore
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.file_table import FileTable, Known, RowOutcome, Settled
from nsfwd.scanning.index.stat_columns import loaded_identity, local, stored_identity, utc
from nsfwd.scanning.reports.audit import Audit
from nsfwd.scanning.reports.index_export import WRITERS, records
from nsfwd.scanning.reports.records import file
from nsfwd.scanning.reports.where import parse
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.walk import WalkedTree
from tests.unit.scripted import Script, serving
from tests.unit.shelves import Shelf
from tests.unit.sweeping import Place

SECONDS = 10_413_792_000
"""2300-01-01, whose nanoseconds do not fit 63 bits; every file system of today keeps it."""

BITS = (0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
TIMES = (0, -1, (1 << 63) - 1, 1 << 63, -(1 << 63) - 1, (1 << 64) - 1, 10**23, -(10**23))
FILES = [
    *(FileEntry(b"/t", b"dev %d" % number, number, 5, 3, 7, 8) for number in BITS),
    *(FileEntry(b"/t", b"ino %d" % number, 5, number, 3, 7, 8) for number in BITS),
    *(FileEntry(b"/t", b"size %d" % number, 5, 6, number, 7, 8) for number in BITS[:3]),
    *(FileEntry(b"/t", b"mtime %d" % number, 5, 6, 3, number, 8) for number in TIMES),
    *(FileEntry(b"/t", b"ctime %d" % number, 5, 6, 3, 7, number) for number in TIMES),
]
OUTCOME = RowOutcome(b"\1" * 32, "ok", None, "safe", 0, "neutral", 0.1, None, "{}", None)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "index.db") as opened:
        yield opened


@pytest.fixture
def filled(index: Index) -> Index:
    """Every extreme file, as a sweep records it."""
    shelf = Shelf(index)
    ledger = FileTable(index, shelf.run())
    with index.transaction():
        ledger.enrol({}, {}, "policy")
        outcome = OUTCOME._replace(policy=ledger.present["policy"])
        ledger.save([Settled(found, outcome, {}) for found in FILES])
    return index


@pytest.mark.parametrize("found", FILES, ids=lambda found: found.name.decode())
def test_what_is_stored_is_read_back(index: Index, found: FileEntry) -> None:
    numbers = (found.dev, found.ino, found.size, found.mtime_ns, found.ctime_ns)
    row = index.one("SELECT ?, ?, ?, ?, ?", stored_identity(*numbers))
    assert row is not None and loaded_identity(row) == numbers


def test_an_extreme_file_is_known_again_and_another_one_is_not(filled: Index) -> None:
    ledger = FileTable(filled, 1)
    with filled.transaction():
        ledger.enrol({}, {}, "policy")
    for found in FILES:
        assert ledger.look(found).known is Known.UNCHANGED, found.name
        assert ledger.look(replace(found, mtime_ns=found.mtime_ns - 1)).known is not Known.UNCHANGED, found.name


def test_every_listing_has_every_extreme_file(filled: Index) -> None:
    for found in FILES:
        row = file(filled, found.path)
        assert row is not None and row["file"]["mtime_ns"] == found.mtime_ns and row["file"]["ino"] == found.ino
    for spelling in ("csv", "ndjson", "parquet"):
        out = io.BytesIO()
        WRITERS[spelling](records(filled), out)
        assert out.tell()
    out = io.BytesIO()
    WRITERS["ndjson"](records(filled), out)
    told = {json.loads(line)["path"]: json.loads(line).get("mtime") for line in out.getvalue().splitlines()}
    assert len(told) == len(FILES) and told["/t/mtime 9223372036854775808"].startswith("2262-04-11T23:47:16.854776")
    assert told[f"/t/mtime {10**23}"] is None  # the year 3,170,843


def test_conditions_on_dates_hold_beyond_63_bits(filled: Index) -> None:
    later = {one["path"] for one in records(filled, parse("mtime > 9999-12-31"))}
    assert later == {f"/t/mtime {10**23}"}
    earlier = {one["path"] for one in records(filled, parse("mtime < 1600-01-01"))}
    assert earlier == {f"/t/mtime {-(10**23)}"}


def test_dates_end_with_the_year_9999_and_never_in_an_error() -> None:
    assert str(utc(253402300799 * 10**9)) == "9999-12-31 23:59:59+00:00"
    assert utc(253402300800 * 10**9) is None and utc(-(10**23)) is None
    assert local(0.0).startswith(("1970-01-01T", "1969-12-31T")) and local(1e300) == "1e+300 s"


@pytest.mark.parametrize("number", ["9223372036854775808", "99999999999999999999999"])
@pytest.mark.parametrize("command", ["list --run", "list --limit", "stats --runs", "diff 1"])
def test_a_number_on_the_command_line_that_no_row_can_have_is_wrong_usage(
    filled: Index, command: str, number: str
) -> None:
    assert run(["index", *command.split(), number, "--index", str(filled.path)]) == 64


# -- from end to end --------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with serving(tmp_path, Script()) as address:
        yield Place(tmp_path, address)


def test_a_file_of_the_far_future_is_swept_audited_taken_and_put_back(place: Place) -> None:
    place.write("plain.jpg", b"plain")
    late = place.write("late.jpg", b"alarm late")
    os.utime(late, (SECONDS, SECONDS))
    before = FileIdentity.of(late.stat())
    assert before.mtime_ns > 1 << 63
    assert place.sweep().counts.ok == 2 and place.sweep().counts.unchanged == 2
    with Index(place.path) as index:
        audit = Audit(index, WalkedTree((os.fsencode(place.tree),)))
        list(audit.entries())
        assert audit.tally.proven
        quarantine = place.path.with_name("quarantine")
        plan = ActionPlan(("quarantine",), apply=True, quarantine=quarantine, placeholder=True)
    with Index(place.path) as index:
        actions = ActionExecutor(index, plan, roots=(os.fsencode(place.tree),), say=place.said.append)
        place.sweep(actions)
    assert late.read_bytes() != b"alarm late"
    with Store.quarantine(quarantine) as store:
        (entry,) = store.entries()
        assert entry.mtime_ns == before.mtime_ns and restore(store, entry) == ()
    assert late.read_bytes() == b"alarm late" and late.stat().st_mtime_ns == before.mtime_ns


def test_a_row_that_cannot_be_written_costs_that_row_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        place.write(f"{number % 3}/{number}.jpg", b"picture %d" % number)
    outcome = FileTable.outcome

    def odd(ledger: FileTable, judged: object) -> RowOutcome:
        told = outcome(ledger, judged)  # type: ignore[arg-type]
        return told._replace(label="\ud800") if judged.found.name == b"7.jpg" else told  # type: ignore[attr-defined]

    monkeypatch.setattr(FileTable, "outcome", odd)
    progress = place.sweep()
    assert len(place.rows()) == 19 and "1/7.jpg" not in place.rows()
    assert (progress.counts.ok, progress.counts.errors, progress.unscored) == (19, 1, 1)
    assert [text for text in place.said if "1/7.jpg: cannot be recorded" in text]
