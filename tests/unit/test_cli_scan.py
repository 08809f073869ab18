"""``nsfwd scan``: formats, lists of files, names that try something, and the exit codes scripts rely on."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nsfwd.cli import main
from nsfwd.cli.scan import absolute
from tests.unit.fakedaemon import FakeDaemon, Request, answer

Scan = Callable[..., tuple[int, str, str]]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "d.sock") as daemon:
        yield daemon


@pytest.fixture
def scan(daemon: FakeDaemon, capfdbinary: pytest.CaptureFixture[bytes]) -> Scan:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main.run(["scan", "--connect", daemon.address, *arguments])
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return code, out.decode("utf-8", "surrogateescape"), err.decode()

    return run


@pytest.mark.parametrize(
    ("names", "code", "strict"),
    [
        ("/a", 0, 0),
        ("/a /note", 0, 2),
        ("/a /big", 2, 2),
        ("/a /corrupt", 2, 2),
        ("/a /busy", 2, 2),
        ("/alarm", 1, 1),
        ("/alarm /corrupt", 1, 2),
        ("/alarm /note", 1, 2),
        ("/in/0", 0, 0),
    ],
)
def test_exit_codes(scan: Scan, names: str, code: int, strict: int) -> None:
    assert scan(*names.split())[0] == code
    assert scan("--strict", *names.split())[0] == strict


def test_text(scan: Scan) -> None:
    code, out, err = scan("/a.jpg")
    assert (code, out) == (0, "/a.jpg: safe (neutral 93.0%)\n")
    assert err.startswith("1 file in ")
    assert err.endswith(" s: 1 safe\n")
    _, out, err = scan("/alarm.jpg", "/big.jpg")
    assert sorted(out.splitlines()) == [
        "/alarm.jpg: sensitive (neutral 93.0%) ALARM",
        "/big.jpg: skipped too_large: it is too_large",
    ]
    assert err.endswith(" s: 1 sensitive, 1 skipped; 1 alarm\n")


def test_quiet_and_only_alarms(scan: Scan) -> None:
    assert scan("-q", "--only", "alarm", "/a", "/alarm", "/corrupt") == (
        1,
        "/alarm: sensitive (neutral 93.0%) ALARM\n",
        "",
    )


def test_json_is_one_valid_array_also_when_empty(scan: Scan) -> None:
    _, out, _ = scan("--format", "json", "/a", "/b", "/corrupt")
    replies = json.loads(out)
    assert sorted(reply["path"] for reply in replies) == ["/a", "/b", "/corrupt"]
    assert all("id" not in reply for reply in replies)
    assert json.loads(scan("--format", "json", "/in/0")[1]) == []


def test_ndjson_is_what_the_daemon_said(scan: Scan) -> None:
    _, out, _ = scan("--format", "ndjson", "/a")
    expected = answer({"path": "/a"})[0]
    assert [json.loads(line) for line in out.splitlines()] == [expected]


def test_csv(scan: Scan) -> None:
    _, out, _ = scan("--format", "csv", '/a,"b".jpg', "/corrupt")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0]["path"] == '/a,"b".jpg'
    assert (rows[0]["verdict"], rows[0]["alarm"], rows[0]["score"]) == ("safe", "false", "0.93")
    assert (rows[1]["status"], rows[1]["verdict"], rows[1]["code"]) == ("error", "", "corrupt")


def test_names_that_try_something_stay_on_their_line(scan: Scan, daemon: FakeDaemon) -> None:
    _, out, _ = scan("/a\nb: safe\x1b[2J.jpg", os.fsdecode(b"/\xe9.jpg"))
    assert sorted(out.splitlines()) == [
        "/\\xe9.jpg: safe (neutral 93.0%)",
        "/a\\nb: safe\\x1b[2J.jpg: safe (neutral 93.0%)",
    ]
    assert {"id": 2, "path_bytes": "L+kuanBn"} in daemon.requests


def test_directories(scan: Scan, daemon: FakeDaemon) -> None:
    code, out, _ = scan("-r", "--lane", "background", "--deadline", "2", "/x/in/70")
    assert (code, len(out.splitlines())) == (0, 70)
    assert daemon.requests[-1] == {
        "id": 1,
        "recursive": True,
        "path": "/x/in/70",
        "lane": "background",
        "deadline": 2.0,
    }


@pytest.mark.parametrize(("content", "flags"), [(b"/a\n\nb c\n/d", ""), (b"/a\0b c\0/d\0", "-0")])
def test_lists_of_files(
    scan: Scan, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, flags: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_bytes(content)
    assert scan("--files-from", "list", *flags.split(), "first")[0] == 0
    paths = [request["path"] for request in daemon.requests]
    assert paths == [f"{tmp_path}/first", "/a", f"{tmp_path}/b c", "/d"]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (b"a", b"/w/a"),
        (b"./a", b"/w/a"),
        (b"/x//y/", b"/x/y"),
        (b"../a", b"/w/../a"),
        (b".", b"/w"),
        (b"..a", b"/w/..a"),
    ],
)
def test_paths_are_made_absolute_without_guessing(given: bytes, path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getcwdb", lambda: b"/w")
    assert absolute(given) == path


def test_a_daemon_that_goes_away_leaves_valid_output_and_no_success(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def respond(request: Request) -> list[dict[str, Any]] | None:
        return None if request["path"] == "/gone" else answer(request)

    with FakeDaemon(tmp_path / "e.sock", respond) as daemon:
        assert main.run(["scan", "--connect", daemon.address, "--format", "json", "/gone", "/b"]) == 2
    out, err = capfd.readouterr()
    assert json.loads(out) == []
    assert "the rest was not scanned" in err


def _start(daemon: FakeDaemon, *arguments: str, **keywords: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nsfwd.cli.main", "scan", "--connect", daemon.address, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords)


def test_nobody_reads_the_output(daemon: FakeDaemon) -> None:
    process = _start(daemon, "/x/in/3000")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(10) == 141


def test_results_come_while_the_list_goes_on_and_ctrl_c_is_one_line(daemon: FakeDaemon) -> None:
    process = _start(daemon, "--files-from", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(b"/a\n/b\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"/a: safe (neutral 93.0%)\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr.read().splitlines()[-1] == b"nsfwd: interrupted"
    process.stdin.close()
