"""Lists in, replies out: what is done is done once, whatever ends the process, and nothing foreign stays in ``in``."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from nsfwd.backoff import Backoff
from nsfwd.cli import main
from nsfwd.errors import SweepRuns
from nsfwd.scanning.spool.spool_dir import LONGEST, ListFailure, Spool, SpoolJob
from nsfwd.scanning.spool.spool_worker import work_off
from tests.unit.scripted import Script, serving


def hand_in(root: Path, name: str, content: bytes) -> None:
    (root / "whole").write_bytes(content)
    (root / "whole").rename(root / "in" / f"{name}.list")


def reply(path: bytes, verdict: str = "safe") -> dict[str, Any]:
    return {"path": path.decode("utf-8", "replace"), "status": "ok", "verdict": verdict, "alarm": verdict != "safe"}


def answer(job: SpoolJob, most: int = 1000) -> list[tuple[int, bytes]]:
    done: list[tuple[int, bytes]] = []
    for number, path in job.paths():
        if len(done) == most:
            break
        job.write(number, reply(path))
        done.append((number, path))
    return done


def lines(root: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "out" / f"{name}.ndjson").read_bytes().splitlines()]


def begin(spool: Spool, name: str) -> SpoolJob:
    job = spool.begin(name)
    assert job is not None
    return job


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_a_list_is_answered_and_goes(tmp_path: Path, end: bytes) -> None:
    with Spool(tmp_path, say=print) as spool:
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
    with Spool(tmp_path, say=print) as spool:
        hand_in(tmp_path, "a", b"\n".join(paths))
        job = begin(spool, "a")
        answer(job, 37)
        os.write(job.result, b'{"id": 99, "path": "/9')  # a line that was being written
        job.close()
    with Spool(tmp_path, say=print) as spool:
        job = begin(spool, "a")
        assert job.counts["ok"] == 37
        assert len(answer(job)) == 63
        spool.end(job)
        job.close()
    found = lines(tmp_path, "a")
    assert sorted(line["id"] for line in found) == list(range(100))
    assert json.loads((tmp_path / "out" / "a.done").read_text())["files"] == 100


def test_a_job_that_was_killed_after_its_end_is_over(tmp_path: Path) -> None:
    with Spool(tmp_path, say=print) as spool:
        hand_in(tmp_path, "a", b"/a\n")
        job = begin(spool, "a")
        answer(job)
        spool._write("out", "a.done", job.summary())  # and no step further
        job.close()
        assert spool.next() == "a"
        assert spool.begin("a") is None and spool.next() is None
        assert not list((tmp_path / "work").iterdir())


def test_earlier_results_are_never_overwritten(tmp_path: Path) -> None:
    with Spool(tmp_path, say=print) as spool:
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
    with Spool(tmp_path, say=print) as spool:
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
    assert json.loads((tmp_path / "out" / "fifo.done").read_text()) == {"error": "not a regular file"}


def test_the_oldest_list_is_first(tmp_path: Path) -> None:
    with Spool(tmp_path, say=print) as spool:
        for moment, name in ((3, "a"), (1, "b"), (2, "c")):
            hand_in(tmp_path, name, b"/x")
            os.utime(tmp_path / "in" / f"{name}.list", (moment, moment))
        assert spool.next() == "b"


def test_a_path_without_end_takes_no_memory(tmp_path: Path) -> None:
    with Spool(tmp_path, say=print) as spool:
        hand_in(tmp_path, "a", b"/" + b"x" * 5_000_000 + b"\n/b")
        job = begin(spool, "a")
        (first, long), second = job.paths()
        assert first == 0 and LONGEST < len(long) < 3_000_000 and second == (1, b"/b")
        job.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Spool(tmp_path, say=print), pytest.raises(SweepRuns, match="another process"):
        Spool(tmp_path, say=print)


@pytest.mark.parametrize("stem", ["x" * 201, "x" * 250, "ü" * 125, "ü" * 101, "😀" * 62])
def test_a_name_is_counted_in_bytes_and_lists_behind_it_are_answered(tmp_path: Path, stem: str) -> None:
    with Spool(tmp_path, say=print) as spool:
        hand_in(tmp_path, stem, b"/a\n")
        hand_in(tmp_path, "ü" * 100, b"/b\n")
        for _ in range(2):  # the name is refused again where it comes again
            job = begin(spool, "ü" * 100)
            answer(job)
            spool.end(job)
            job.close()
            assert spool.next() is None
            hand_in(tmp_path, stem, b"/a\n")
            for done in (tmp_path / "out").iterdir():
                if done.name.startswith("ü" * 100 + "."):
                    done.unlink()
            hand_in(tmp_path, "ü" * 100, b"/b\n")
    refused = sorted((tmp_path / "refused").iterdir())
    assert len(refused) == 2 and all(len(os.fsencode(one.name)) <= 255 for one in refused)
    told = tmp_path / "out" / f"{stem}.done"
    if len(os.fsencode(told.name)) <= 255:
        assert "200 bytes" in json.loads(told.read_bytes())["error"]


def _in_the_way(tmp_path: Path, what: str) -> None:
    out, work = tmp_path / "out/odd.ndjson", tmp_path / "work/odd.json"
    if what == "link":
        out.symlink_to("elsewhere")
    elif what == "fifo":
        os.mkfifo(out)
    elif what == "hard link":
        (tmp_path / "kept").write_bytes(b"kept\n")
        out.hardlink_to(tmp_path / "kept")
    elif what == "work is a link":
        work.symlink_to(work)
    elif what == "work is a directory":
        work.mkdir()
    else:
        out.mkdir()


@pytest.mark.parametrize("what", ["link", "fifo", "hard link", "directory", "work is a link", "work is a directory"])
def test_whatever_stands_in_the_way_of_one_list_refuses_that_one_alone(tmp_path: Path, what: str) -> None:
    with Spool(tmp_path, say=print) as spool:
        hand_in(tmp_path, "odd", b"/a\n")
        os.utime(tmp_path / "in/odd.list", (1, 1))
        hand_in(tmp_path, "plain", b"/b\n")
        assert spool.next() == "odd"
        _in_the_way(tmp_path, what)
        identity = (tmp_path / "in/odd.list").stat()
        if "work" not in what:  # as it is where the way was clear when the list was begun
            told = {"dev": identity.st_dev, "ino": identity.st_ino, "size": identity.st_size, "mtime_ns": 10**9}
            (tmp_path / "work/odd.json").write_text(json.dumps(told))
        assert spool.begin("odd") is None
        assert spool.next() == "plain" and [one.name for one in (tmp_path / "refused").iterdir()] == ["odd.list"]
    if what == "hard link":
        assert (tmp_path / "kept").read_bytes() == b"kept\n"


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EILSEQ, errno.ESTALE, errno.EACCES])
def test_a_list_that_cannot_be_looked_at_nor_put_aside_is_left_and_said(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with Spool(tmp_path, say=said.append) as spool:
        hand_in(tmp_path, "odd", b"/a\n")
        hand_in(tmp_path, "plain", b"/b\n")
        stat, rename = os.stat, os.rename

        def odd_stat(name: Any, **rest: Any) -> os.stat_result:
            if name == "odd.list":
                raise OSError(number, os.strerror(number))
            return stat(name, **rest)

        def odd_rename(name: Any, new: Any, **rest: Any) -> None:
            if os.fsencode(name) == b"odd.list":
                raise OSError(number, os.strerror(number))
            rename(name, new, **rest)

        monkeypatch.setattr(os, "stat", odd_stat)
        monkeypatch.setattr(os, "rename", odd_rename)
        assert spool.next() == "plain" and spool.next() == "plain"
    assert len(said) == 1 and "cannot be put aside" in said[0]
    assert json.loads((tmp_path / "out/odd.done").read_bytes()) == {"error": os.strerror(number)}


def test_a_service_stays_while_a_list_can_be_neither_done_nor_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsfwd.scanning.spool.spool_worker.LOOK", 0.001)
    monkeypatch.setattr("nsfwd.scanning.spool.spool_worker.LIST_LEFT", Backoff((0.01,)))
    said: list[str] = []
    script, root, rename = Script(), tmp_path / "spool", os.rename
    (tmp_path / "a.jpg").write_bytes(b"picture")

    def shown(text: str) -> None:
        if len(said) == 1:  # another list is answered while the first is left
            hand_in(root, "plain", os.fsencode(tmp_path / "a.jpg"))
        elif len(said) > 4:  # it was tried again; now a person has helped
            monkeypatch.setattr(os, "rename", rename)

    def refuse(name: Any, new: Any, **rest: Any) -> None:
        if os.fsencode(name) == b"odd":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        rename(name, new, **rest)

    with serving(tmp_path, script) as address, Spool(root, say=said.append) as spool:
        (root / "in/odd").write_bytes(b"no list")
        monkeypatch.setattr(os, "rename", refuse)
        assert asyncio.run(asyncio.wait_for(work_off(spool, None, say=said.append, shown=shown), 60)) == 0
        assert spool.left == {"odd"}
        working = work_off(spool, address, say=said.append, shown=shown, stay=True)
        assert asyncio.run(asyncio.wait_for(working, 60)) == 1 and not spool.left
    assert len(lines(root, "plain")) == 1 and (root / "refused/odd").exists()
    assert "odd: not the name of a list; and it cannot be put aside" in said[0]


def test_a_list_that_is_left_is_an_error_where_nobody_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/odd").write_bytes(b"no list")

    def refuse(*names: Any, **rest: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "rename", refuse)
    assert main.run(["spool", "--directory", str(tmp_path)]) == 74


def test_a_list_that_cannot_be_read_to_its_end_is_over_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Spool(tmp_path, say=print) as spool:
        hand_in(tmp_path, "odd", b"/a\n")
        job = begin(spool, "odd")
        monkeypatch.setattr(os, "pread", _stale)
        with pytest.raises(ListFailure, match="Stale file handle") as failed:
            answer(job)
        spool.end(job, why=str(failed.value))
        job.close()
        assert spool.next() is None and not list((tmp_path / "work").iterdir())
    assert json.loads((tmp_path / "out/odd.done").read_bytes())["error"] == str(failed.value)


def _stale(*arguments: Any) -> bytes:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


@pytest.mark.parametrize("line", [b'{"id": 1000000000000000000}', b'{"id": -5}', b'{"id": "0"}', b"[]", b"[" * 100_000])
def test_a_result_that_is_none_costs_no_memory_and_is_begun_anew(tmp_path: Path, line: bytes) -> None:
    with Spool(tmp_path, say=print) as spool:
        hand_in(tmp_path, "a", b"/a\n/b\n")
        job = begin(spool, "a")
        os.write(job.result, line + b"\n")
        job.close()
        job = begin(spool, "a")
        assert not job.answered and answer(job) == [(0, b"/a"), (1, b"/b")]
        job.close()


def test_refused_paths_are_asked_about_again_and_errors_are_answers(tmp_path: Path) -> None:
    script, paths = Script(), [os.fsencode(tmp_path / f"{number}.jpg") for number in range(10)]
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(b"picture")
    script.refusals, script.errors[paths[3]] = 25, ("corrupt", False)
    root = tmp_path / "spool"
    with serving(tmp_path, script) as address, Spool(root, say=print) as spool:
        (root / "in/a.list").write_bytes(b"\n".join(paths))
        assert asyncio.run(asyncio.wait_for(work_off(spool, address, say=print, shown=print), 60)) == 1
    assert sorted(line["id"] for line in lines(root, "a")) == list(range(10)) and set(script.asked.values()) == {1}
    assert json.loads((root / "out/a.done").read_bytes())["errors"] == 1
