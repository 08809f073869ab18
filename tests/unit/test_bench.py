"""The arithmetic of the bench, and that each of its commands can be started."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import corpus, figures, machine
from bench.__main__ import COMMANDS
from bench.load import Http, Ndjson
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
    assert figures.median_ratio([90.0, 45.0, 91.0], [100.0, 50.0, 100.0]) == pytest.approx(0.9)
    with pytest.raises(ValueError):
        figures.median_ratio([1.0], [1.0, 2.0])


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


@pytest.mark.parametrize(("value", "cell"), [(None, ""), (2.0, "2"), (2.5, "2.5"), (99.96, "100"), ("x", "x")])
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


def test_this_process_has_time_and_memory() -> None:
    assert machine.cpu_seconds([os.getpid()]) > 0
    assert machine.memory_mb([os.getpid()]) > 1
    assert os.getpid() in machine.tree(os.getsid(0))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_something_to_run(name: str) -> None:
    assert callable(importlib.import_module(f"bench.{name}").measure)


def test_help_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert all(f"  {name}" in done.stdout for name in COMMANDS)
