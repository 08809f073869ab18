"""An index as a table in each format: every row, odd names, and files for their owner alone."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.scanning.index.database import Index
from nsfwd.scanning.reports.index_export import COLUMNS, WRITERS, records
from nsfwd.scanning.reports.where import parse
from nsfwd.scanning.trees.file_io import private
from tests.unit.shelves import Shelf, spread


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "index.db") as opened:
        shelf = Shelf(opened)
        run = shelf.run()
        shelf.scored(b"/srv/a,b\n.jpg", 0.1, run)
        shelf.scored(b"/odd\xff.jpg", 0.9, run, override='{"verdict": "sensitive", "by": "eva"}')
        shelf.unscored(b"/srv/broken.jpg", "error", "corrupt", run)
        shelf.scored(b"/srv/gone.jpg", 0.1, run)
        shelf.gone(b"/srv/gone.jpg", run)
        yield opened


def spelled(index: Index, spelling: str) -> bytes:
    out = io.BytesIO()
    WRITERS[spelling](records(index), out)
    return out.getvalue()


def test_ndjson_has_every_file_that_is_there(index: Index) -> None:
    plain, odd, broken = [json.loads(line) for line in spelled(index, "ndjson").splitlines()]
    assert plain["path"] == "/srv/a,b\n.jpg" and "path_bytes" not in plain and plain["alarm"] is False
    assert list(plain["scores"]["nsfw"].values()) == list(spread(0.1)) and plain["models"] == {"nsfw": "tiny@1/f32"}
    assert plain["time"] == "1970-01-01T00:16:40+00:00" and plain["policy"].startswith("default@")
    assert odd["path"] == "/odd\\xff.jpg" and odd["path_bytes"] == "L29kZP8uanBn" and odd["override"]["by"] == "eva"
    assert broken["code"] == "corrupt" and not {"verdict", "alarm", "score", "scores", "sha256"} & broken.keys()


def test_csv_has_the_same(index: Index) -> None:
    rows = list(csv.DictReader(io.StringIO(spelled(index, "csv").decode(), newline="")))
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 3
    assert rows[0]["path"] == "/srv/a,b\n.jpg" and rows[0]["alarm"] == "false" and rows[2]["alarm"] == ""
    assert json.loads(rows[1]["scores"])["nsfw"]["porn"] == 0.9 and float(rows[1]["score"]) == 0.9


def test_parquet_has_the_same(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    monkeypatch.setattr("nsfwd.scanning.reports.index_export.GROUP", 2)
    file = parquet.ParquetFile(io.BytesIO(spelled(index, "parquet")))
    rows = file.read().to_pylist()
    assert file.num_row_groups == 2 and list(rows[0]) == list(COLUMNS)
    assert rows[1]["path_bytes"] == "L29kZP8uanBn" and rows[1]["alarm"] is True and rows[2]["score"] is None
    assert rows[0]["time"].year == 1970 and rows[0]["time"].tzinfo is not None


def test_only_what_is_asked_for(index: Index) -> None:
    def paths(*arguments: object, **more: float) -> list[str]:
        return [record["path"] for record in records(index, *arguments, **more)]  # type: ignore[arg-type]

    assert paths(parse("alarm = true")) == ["/odd\\xff.jpg"]
    assert paths(parse("gone = true")) == ["/srv/gone.jpg"]
    assert paths(parse("verdict = safe or status = error")) == ["/srv/a,b\n.jpg", "/srv/broken.jpg"]
    assert len(paths(since=1000.0)) == 3 and paths(since=1000.1) == []
    assert paths(parse("alarm = true"), since=1000.1) == []


def test_a_file_is_for_its_owner_alone_and_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    path.chmod(0o644)
    with pytest.raises(RuntimeError), private(path) as out:
        out.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with private(path) as out:
        out.write(b"new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stream_of_the_process_is_written_to_where_it_is(tmp_path: Path) -> None:
    log, link = tmp_path / "log", tmp_path / "link"
    log.write_bytes(b"before\n")
    held = os.open(log, os.O_WRONLY | os.O_APPEND)
    link.symlink_to(f"/dev/fd/{held}")
    try:
        with private(link) as file:
            file.write(b"row\n")
        with private(Path(f"/proc/self/fd/{held}")) as file:
            file.write(b"another\n")
        log.unlink()
        with private(link) as file:
            file.write(b"to a file without a name")
    finally:
        os.close(held)
    assert link.is_symlink() and list(tmp_path.iterdir()) == [link]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("old.csv")
    with private(tmp_path / "link.csv") as out:
        out.write(b"new")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "old.csv").read_text() == "new"


def test_what_cannot_be_written_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "nowhere/out.csv"
    with pytest.raises(OSError, match=re.escape(f"No such file or directory: '{path}'")), private(path):
        pass


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with private(pipe) as file:
        file.write(b"row")
    assert os.read(reader, 10) == b"row" and pipe.is_fifo()
    os.close(reader)
