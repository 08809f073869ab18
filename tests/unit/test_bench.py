"""The arithmetic of the bench, and that each of its commands can be started."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest

from bench import corpus, daemon, figures, line_server, machine, markdown, plot, records, sweep, targets
from bench.__main__ import COMMANDS, MODULES, main
from bench.load import Http, Load, Ndjson
from bench.records import Table
from bench.session import Session

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert figures.percentile(values, 0.5) == 50
    assert figures.percentile(values, 0.99) == 99
    assert figures.percentile(values, 1.0) == 100
    assert figures.percentile(values, 0.0) == 1
    assert figures.percentile([7.0], 0.99) == 7


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.5)])
def test_there_is_no_percentile_of_nothing(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        figures.percentile(values, share)


def test_medians() -> None:
    assert figures.median([3.0, 1.0, 2.0]) == 2
    assert figures.median([4.0, 1.0, 2.0, 3.0]) == 2.5
    with pytest.raises(ValueError, match="no values"):
        figures.median([])


def test_a_slow_round_hits_both_sides_of_its_ratio() -> None:
    found = figures.ratio([90.0, 45.0, 91.0, 80.0, 99.0], [100.0, 50.0, 100.0, 100.0, 100.0])
    assert (found.low, found.median, found.high) == pytest.approx((0.9, 0.9, 0.91))
    assert figures.ratio([1.0], [2.0]) == figures.Spread(0.5, 0.5, 0.5)
    with pytest.raises(ValueError):
        figures.ratio([1.0], [1.0, 2.0])


def test_the_interval_of_a_ratio_holds_its_median_and_narrows_with_rounds() -> None:
    ours = [100.0 + (number * 37) % 11 for number in range(60)]
    few, many = (figures.interval(ours[:count], [100.0] * count) for count in (5, 60))
    assert few.low <= few.median <= few.high
    assert many.low <= many.median <= many.high
    assert many.high - many.low < few.high - few.low
    assert figures.interval([2.0], [1.0]) == figures.Spread(2.0, 2.0, 2.0)


def test_a_table_says_when_others_had_the_cores() -> None:
    assert figures.crowded([0.02, 0.5, 0.03]) == ""
    assert "**Others had 40% of the cores**" in figures.crowded([0.4, 0.5, 0.03])


def test_growth() -> None:
    assert figures.growth([100.0, 150.0, 102.0]) == pytest.approx(0.02)


def test_a_table_has_a_column_for_every_key_and_gaps_where_a_row_has_none() -> None:
    told = figures.table([{"c": 1, "rate": 12345.6}, {"c": 8, "p50": 0.01234}])
    assert told.splitlines() == [
        "| c | rate | p50 |",
        "| --- | --- | --- |",
        "| 1 | 12,346 |  |",
        "| 8 |  | 0.0123 |",
    ]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        (2.0, "2"),
        (2.5, "2.5"),
        (99.96, "100"),
        ("x", "x"),
        (figures.Spread(0.9, 0.85, 0.925), "0.9 (0.85 to 0.925)"),
    ],
)
def test_cells(value: object, cell: str) -> None:
    assert figures.spelled(value) == cell


def test_replies_are_counted_line_by_line() -> None:
    buffer = bytearray(b'{"id":4,"path":"/a","status":"ok"}\n{"id":17,"path":"/b","status":"ok"}\n{"id":5')
    assert Ndjson().replies(buffer) == [4, 17]
    assert buffer == b'{"id":5'
    with pytest.raises(RuntimeError, match="not scored"):
        Ndjson().replies(bytearray(b'{"id":4,"status":"error"}\n'))


def test_replies_of_http_are_counted_by_length_or_chunks() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    buffer = bytearray(whole + chunked + whole[:-1])
    assert Http().replies(buffer) == [None, None]
    assert buffer == whole[:-1]
    with pytest.raises(RuntimeError, match="not scored"):
        Http().replies(bytearray(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"))


def test_pictures_are_the_same_for_everybody(tmp_path: Path) -> None:
    once, again = (corpus.make(tmp_path / name, "small", 2) for name in ("a", "b"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    assert corpus.make(tmp_path / "a", "small", 1)[0].stat().st_mtime == once[0].stat().st_mtime


def test_a_report_is_a_table_and_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(results=tmp_path, directory=tmp_path)
    session.report("served", [{"c": 1, "img/s": 2.0}])
    assert "| c | img/s |" in capsys.readouterr().out
    (line,) = (tmp_path / f"{session.started}.jsonl").read_text().splitlines()
    assert json.loads(line).items() >= {"table": "served", "c": 1, "img/s": 2.0}.items()


def test_what_a_run_keeps_is_read_again(tmp_path: Path) -> None:
    rows = [{"c": 8, "ratio": figures.Spread(0.9, 0.85, 0.95), "p50 ratio": None}]
    session = Session(results=tmp_path, directory=tmp_path)
    session.report("served", rows, "Of nothing.")
    session.report("machine", [{"what": "cores", "is": "2"}])
    found = records.read(session.kept)
    assert {name: (table.note, list(table.rows)) for name, table in found.items()} == {
        "served": ("Of nothing.", rows),
        "machine": ("", [{"what": "cores", "is": "2"}]),
    }


def test_runs_are_shown_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "draw", lambda runs: None)  # matplotlib takes seconds
    for number, (kind, ratio) in enumerate((("small", 0.99), ("large", 0.9), ("small", 0.96))):
        session = Session(results=tmp_path, directory=tmp_path, started=str(number))
        session.report(f"served, {kind}", [{"c": 64, "rate ratio": figures.Spread(ratio, ratio, ratio)}])
    capsys.readouterr()
    main(
        ["show", "--markdown", str(tmp_path / "page.md"), *(f"--run={tmp_path}/{number}.jsonl" for number in range(3))]
    )
    told = capsys.readouterr().out
    assert told.count("### served, small") == 1
    assert "small, c = 64: 0.96; large, c = 64: **0.9**" in told
    assert "small, c = 64: 0.96; large, c = 64: **0.9**" in (tmp_path / "page.md").read_text()


def test_a_page_is_renewed_between_its_marks_alone(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    tables = {"one": Table("", [{"c": 1}]), "two": Table("Note.", [{"c": 2}])}
    assert markdown.write(target, tables) == []
    told = "# Mine\n\n" + target.read_text() + "\nBehind it.\n"
    target.write_text(told)
    assert markdown.write(target, {"two": Table("Other.", [{"c": 3}]), "three": Table()}) == ["three"]
    assert target.read_text() == told.replace("Note.", "Other.").replace("| 2 |", "| 3 |")


def test_targets_of_other_runs_stay_on_the_page() -> None:
    first, second, *_ = targets.TARGETS
    block = "<!-- bench: targets -->\n\n{}\n\n<!-- bench end -->"
    before = block.format(Table("", [{"target": second, "reached": "1.1"}, {"target": "given up", "reached": "1"}]))
    renewed, found = markdown.renew(before, {"targets": Table("", [{"target": first, "reached": "**0.9**"}])})
    rows = [{"target": first, "reached": "**0.9**"}, {"target": second, "reached": "1.1"}]
    assert (renewed, found) == (block.format(Table("", rows)), {"targets"})


def test_a_target_says_whether_it_was_missed_and_by_more_than_the_rounds_are_apart() -> None:
    ratios = [figures.Spread(0.97, 0.9, 1.0), figures.Spread(0.94, 0.9, 0.96), figures.Spread(0.9, 0.85, 0.93)]
    tables = {"served": Table("", [{"c": 8, "ratio": ratio} for ratio in ratios]), "cold": Table("", [{"s": 0.5}])}
    assert targets.Figure("served", "ratio", {"c": 8}, least=0.95, said="c = 8:").found(tables) == (
        "c = 8: 0.97, *0.94*, **0.9**"
    )
    assert targets.Figure("cold", "s", {}, most=0.4).found(tables) == "**0.5**"
    assert targets.Figure("served", "ratio", {"c": 1}, least=0.95).found(tables) == ""
    assert targets.Figure("peers", "ratio", {}, least=0.95).found(tables) == ""
    assert list(targets.reached({})) == []


def test_the_page_of_the_house_has_marks_for_every_table_that_is_aimed_at() -> None:
    told = (REPOSITORY / "docs" / "performance.md").read_text()
    names = [match["name"] for match in markdown.BLOCK.finditer(told)]
    assert len(names) == len(set(names)) == told.count("<!-- bench: ")
    aimed = {figure.table for target in targets.TARGETS.values() for figure in target}
    once = {f"{table}, {kind}" for table in ("served", "peers", "precisions end to end") for kind in corpus.KINDS}
    assert aimed - once <= set(names)


def test_a_tree_that_the_disk_has_no_room_for_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = sweep.Case("a thousand files", 1000)
    disk = types.SimpleNamespace(f_bavail=1 << 20, f_frsize=4096, f_files=10_000, f_favail=5000)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    assert sweep.lacking(tmp_path, case) == ""
    disk.f_favail = 1000
    assert "inodes" in sweep.lacking(tmp_path, case)
    disk.f_bavail = 1000
    assert "GB" in sweep.lacking(tmp_path, case)


def test_rounds_have_orders_that_differ_and_come_again() -> None:
    orders = [figures.shuffled("abcd", seed=number) for number in range(20)]
    assert orders == [figures.shuffled("abcd", seed=number) for number in range(20)]
    assert {order[0] for order in orders} == set("abcd")


def test_windows_of_photos_are_the_same_for_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "skimage" / "data").mkdir(parents=True)
    (tmp_path / "skimage" / "__init__.py").touch()
    corpus.photo(1, (512, 300)).save(tmp_path / "skimage" / "data" / "chelsea.png")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "skimage", raising=False)
    once, again = (corpus.make(tmp_path / name, "photos", 6) for name in ("a", "b"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    assert len({path.read_bytes() for path in once}) == 6


def test_no_photos_without_the_package_that_brings_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(corpus.NoPhotos, match=r"\[bench\]"):
        corpus.make(tmp_path, "photos", 1)


def test_the_line_server_speaks_as_the_daemon_does() -> None:
    told = line_server.reply(b'{"id":3,"path":"/a"}')
    assert json.loads(told).items() >= {"id": 3, "path": "/a", "status": "ok", "verdict": "safe"}.items()
    assert Ndjson().replies(bytearray(told)) == [3]


def test_the_line_server_answers_by_way_of_two_processes() -> None:
    with tempfile.TemporaryDirectory() as place, daemon.LineServer(Path(place), hops=2) as server:
        server.wait_ready()
        load = Load(server.unix, Ndjson(), 2)
        assert load.closed([Path(f"/{number}.jpg") for number in range(300)], depth=50).images == 300
        load.close()


def test_this_process_has_time_and_memory() -> None:
    assert machine.cpu_seconds([os.getpid()]) > 0
    assert machine.memory_mb([os.getpid()]) > 1
    assert machine.peak_mb(os.getpid()) > 1
    assert machine.busy_seconds() > 0
    cpu, others = machine.Meter([os.getpid()]).read()
    assert cpu >= 0 and others >= 0
    assert os.getpid() in machine.tree(os.getsid(0))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_something_to_run(name: str) -> None:
    assert callable(importlib.import_module(f"bench.{MODULES.get(name, name)}").measure)


def test_help_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert all(f"  {name}" in done.stdout for name in COMMANDS)
