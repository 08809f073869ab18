"""Lists in, replies out: what is done is done once, whatever ends the process, and nothing foreign stays in ``in``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nsfwd.errors import SweepRuns
from nsfwd.scanning.spool.lists import LONGEST, Job, Spool


def hand_in(root: Path, name: str, content: bytes) -> None:
    (root / "whole").write_bytes(content)
    (root / "whole").rename(root / "in" / f"{name}.list")


def reply(path: bytes, verdict: str = "safe") -> dict[str, Any]:
    return {"path": path.decode("utf-8", "replace"), "status": "ok", "verdict": verdict, "alarm": verdict != "safe"}


def answer(job: Job, most: int = 1000) -> list[tuple[int, bytes]]:
    done: list[tuple[int, bytes]] = []
    for number, path in job.paths():
        if len(done) == most:
            break
        job.write(number, reply(path))
        done.append((number, path))
    return done


def lines(root: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "out" / f"{name}.ndjson").read_bytes().splitlines()]


def begin(spool: Spool, name: str) -> Job:
    job = spool.begin(name)
    assert job is not None
    return job


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_a_list_is_answered_and_goes(tmp_path: Path, end: bytes) -> None:
    with Spool(tmp_path) as spool:
        hand_in(tmp_path, "a b", end.join([b"/a", b"", b"/b \xff", b"/c"]))
        assert spool.next() == "a b"
        job = begin(spool, "a b")
        assert answer(job) == [(0, b"/a"), (2, b"/b \xff"), (3, b"/c")]
        spool.end(job)
        job.close()
        assert spool.next() is None
    assert [line["id"] for line in lines(tmp_path, "a b")] == [0, 2, 3]
    done = json.loads((tmp_path / "out" / "a b.done").read_text())
    assert done["files"] == done["ok"] == 3 and done["verdicts"] == {"safe": 3} and done["alarms"] == 0
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"a b.ndjson", "a b.done"}


def test_a_killed_job_goes_on_without_doubled_lines(tmp_path: Path) -> None:
    paths = [b"/%d" % number for number in range(100)]
    with Spool(tmp_path) as spool:
        hand_in(tmp_path, "a", b"\n".join(paths))
        job = begin(spool, "a")
        answer(job, 37)
        os.write(job.result, b'{"id": 99, "path": "/9')  # a line that was being written
        job.close()
    with Spool(tmp_path) as spool:
        job = begin(spool, "a")
        assert job.counts["ok"] == 37
        assert len(answer(job)) == 63
        spool.end(job)
        job.close()
    found = lines(tmp_path, "a")
    assert sorted(line["id"] for line in found) == list(range(100))
    assert json.loads((tmp_path / "out" / "a.done").read_text())["files"] == 100


def test_a_job_that_was_killed_after_its_end_is_over(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        hand_in(tmp_path, "a", b"/a\n")
        job = begin(spool, "a")
        answer(job)
        spool._write("out", "a.done", job.summary())  # and no step further
        job.close()
        assert spool.next() == "a"
        assert spool.begin("a") is None and spool.next() is None
        assert not list((tmp_path / "work").iterdir())


def test_earlier_results_are_never_overwritten(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for content in (b"/a", b"/b"):
            hand_in(tmp_path, "a", content)
            job = spool.begin("a")
            if job is not None:
                answer(job)
                spool.end(job)
                job.close()
        assert spool.next() is None
    assert [line["path"] for line in lines(tmp_path, "a")] == ["/a"]
    assert (tmp_path / "refused" / "a.list").read_bytes() == b"/b"


def test_what_is_no_list_is_put_aside(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        inbox = tmp_path / "in"
        (inbox / "notes.txt").write_text("x")
        (inbox / ".hidden.list").write_text("x")
        (inbox / "directory.list").mkdir()
        (inbox / "link.list").symlink_to("/etc/passwd")
        os.mkfifo(inbox / "fifo.list")
        assert spool.next() is None
        assert not list(inbox.iterdir())
        (inbox / "notes.txt").write_text("y")
        assert spool.next() is None
    assert {path.name for path in (tmp_path / "refused").iterdir()} == {
        "notes.txt", "notes.txt~", ".hidden.list", "directory.list", "link.list", "fifo.list",
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "fifo.done").read_text()) == {"error": "no regular file"}


def test_the_oldest_list_is_first(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for moment, name in ((3, "a"), (1, "b"), (2, "c")):
            hand_in(tmp_path, name, b"/x")
            os.utime(tmp_path / "in" / f"{name}.list", (moment, moment))
        assert spool.next() == "b"


def test_a_path_without_end_takes_no_memory(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        hand_in(tmp_path, "a", b"/" + b"x" * 5_000_000 + b"\n/b")
        job = begin(spool, "a")
        (first, long), second = job.paths()
        assert first == 0 and LONGEST < len(long) < 3_000_000 and second == (1, b"/b")
        job.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Spool(tmp_path), pytest.raises(SweepRuns, match="another process"):
        Spool(tmp_path)
