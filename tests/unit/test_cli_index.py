"""``nsfwd index list``, ``show`` and ``stats`` over an index that sweeps left."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsfwd.cli import main
from nsfwd.scanning.index.database import Index
from tests.unit.scripted import Script, serving
from tests.unit.sweeping import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Two sweeps: a file is gone since the second, another came."""
    script = Script()
    with serving(tmp_path, script) as address:
        place = Place(tmp_path, address)
        for name, content in (("a/1.jpg", b"one"), ("a/2.jpg", b"alarm"), ("b/3.jpg", b"three"), ("b/n.txt", b"text")):
            place.write(name, content)
        script.errors[str(place.write("bad.jpg", b"bad")).encode()] = ("corrupt", False)
        place.sweep()
        (place.tree / "b/3.jpg").unlink()
        place.write(os.fsdecode(b"odd\xff.jpg"), b"odd")
        shutil.copy(place.tree / "a/2.jpg", place.tree / "copy.jpg")
        place.sweep()
        yield place


def told(place: Place, capfdbinary: pytest.CaptureFixture[bytes], *words: str, code: int = 0) -> bytes:
    assert main.run(["index", *words, "--index", str(place.path)]) == code
    out: bytes = capfdbinary.readouterr().out
    return out


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], ["bad.jpg", "copy.jpg", "odd\\xff.jpg", "a/1.jpg", "a/2.jpg", "b/n.txt"]),
        (["--alarm"], ["copy.jpg", "a/2.jpg"]),
        (["--verdict", "safe"], ["odd\\xff.jpg", "a/1.jpg"]),
        (["--status", "skipped", "--status", "error"], ["bad.jpg", "b/n.txt"]),
        (["--code", "corrupt"], ["bad.jpg"]),
        (["--gone"], ["b/3.jpg"]),
        (["--run", "2"], ["copy.jpg", "odd\\xff.jpg"]),
        (["--limit", "2"], ["bad.jpg", "copy.jpg"]),
        (["--overridden"], []),
    ],
)
def test_what_is_listed(
    place: Place, capfdbinary: pytest.CaptureFixture[bytes], flags: list[str], names: list[str]
) -> None:
    rows = [json.loads(line) for line in told(place, capfdbinary, "list", "--format", "ndjson", *flags).splitlines()]
    assert [row["path"].removeprefix(f"{place.tree}/") for row in rows] == names


def test_places_are_listed_with_all_below(place: Place, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    listed = told(place, capfdbinary, "list", str(place.tree / "b"), str(place.tree / "a/1.jpg"), "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(listed.decode())))
    assert [row["path"].removeprefix(f"{place.tree}/") for row in rows] == ["a/1.jpg", "b/n.txt"]


def test_the_score_in_a_list_stands_beside_the_verdict_that_it_decided(
    place: Place, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    heading, *lines = told(place, capfdbinary, "list", "--alarm").decode().splitlines()
    assert heading.split()[:5] == ["PATH", "STATUS", "VERDICT", "SCORE", "ALARM"]
    assert lines and all(line.split()[1:6] == ["ok", "sensitive", "1", "true", "porn"] for line in lines)


def test_a_name_that_is_no_utf_8_is_whole_in_json(place: Place, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    rows: list[dict[str, Any]] = json.loads(told(place, capfdbinary, "list", "--format", "json"))
    (odd,) = [row for row in rows if "path_bytes" in row]
    assert odd["path"].endswith("odd\\xff.jpg") and odd["sha256"] and odd["score"] > 0


def test_all_that_is_known_of_a_file(place: Place, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (known,) = json.loads(told(place, capfdbinary, "show", str(place.tree / "a/2.jpg"), "--format", "json"))
    assert known["verdict"] == "sensitive" and known["scores"]["nsfw"]["porn"] == 1.0
    assert known["copies"] == [str(place.tree / "copy.jpg")] and known["model"] == {"nsfw": "echo@000000000001/f32"}
    assert [(each["run"], each["what"]) for each in known["history"]] == [(1, "sensitive")]
    text = told(place, capfdbinary, "show", str(place.tree / "a/2.jpg")).decode()
    assert "\n  verdict: sensitive 1.00 (porn 100.0%) ALARM\n" in text
    gone = told(place, capfdbinary, "show", str(place.tree / "b/3.jpg")).decode()
    assert "  gone: 2\n" in gone and "gone" in gone.partition("history:")[2]
    assert told(place, capfdbinary, "show", "/nowhere", code=1) == b""


def test_how_many_came_to_what(place: Place, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    stats = json.loads(told(place, capfdbinary, "stats", "--format", "json"))
    assert stats["index"] | {"bytes": 0} == {
        "files": 6,
        "gone": 1,
        "directories": 3,
        "unreadable": 0,
        "contents": 4,
        "bytes": 0,
    }
    assert {(row["verdict"] or row["code"], row["files"]) for row in stats["outcomes"]} == {
        ("safe", 2),
        ("sensitive", 2),
        ("corrupt", 1),
        ("not_an_image", 1),
    }
    last, first = stats["runs"]
    assert (last["known"], last["ok"], last["unchanged"], first["found"], first["errors"]) == (1, 1, 4, 5, 1)
    assert told(place, capfdbinary, "stats", "--format", "csv").startswith(b"status,verdict,alarm,code,files,bytes\n")
    assert b"killed" not in told(place, capfdbinary, "stats")


def test_a_run_that_was_killed_is_called_so(place: Place, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with Index(place.path) as index, index.transaction():
        index.write("UPDATE run SET ended = NULL, why = NULL WHERE id = 2")
    assert b"killed" in told(place, capfdbinary, "stats")


def test_an_index_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert main.run(["index", "stats", "--index", str(tmp_path / "nowhere.db")]) == 74


def test_a_quarantine_below_the_tree_is_no_matter_of_the_audit(
    place: Place, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    below = place.tree / "b/taken"
    place.write("b/taken/files/ab/abc.123", b"taken")
    audited = json.loads(told(place, capfdbinary, "audit", str(place.tree), "--format", "json", code=2))["audit"]
    assert audited["never_seen"] == 1
    words = ("audit", str(place.tree), "--format", "json")
    for flag in ("--quarantine", "--to"):
        audited = json.loads(told(place, capfdbinary, *words, flag, str(below)))["audit"]
        assert audited["never_seen"] == 0 and audited["left_out"] == 1 and audited["proven"]
