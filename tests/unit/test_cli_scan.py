"""``nsfwd scan``: formats, lists of files, names that try something, and the exit codes scripts rely on."""

from __future__ import annotations

import contextlib
import csv
import errno
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
from nsfwd.cli.options.path_inputs import absolute
from tests.unit.fakedaemon import Barring, FakeDaemon, Request, answer, failed

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
    assert (code, out) == (0, "/a.jpg: safe 0.05 (neutral 93.0%)\n")
    assert err.startswith("1 file in ")
    assert err.endswith(" s: 1 safe\n")
    _, out, err = scan("/alarm.jpg", "/big.jpg")
    assert sorted(out.splitlines()) == [
        "/alarm.jpg: sensitive 0.95 (neutral 93.0%) ALARM",
        "/big.jpg: skipped too_large: it is too_large",
    ]
    assert err.endswith(" s: 1 sensitive, 1 skipped; 1 alarm\n")


def test_quiet_and_only_alarms(scan: Scan) -> None:
    assert scan("-q", "--only", "alarm", "/a", "/alarm", "/corrupt") == (
        1,
        "/alarm: sensitive 0.95 (neutral 93.0%) ALARM\n",
        "",
    )


TIERS = ("safe", "review", "sensitive")


def three_tiers(request: Request) -> list[dict[str, Any]]:
    """Answer as a daemon with the bundles' policy: a name with ``review`` is of the tier in between."""
    if request.get("op") == "models":
        tiers = [{"name": name, "alarm": name == "sensitive"} for name in TIERS]
        return [{"op": "models", "status": "ok", "models": [{"name": "nsfw", "labels": [], "tiers": tiers}]}]
    replies = answer(request) or []
    if "review" not in str(request.get("path")):
        return replies
    because = {"model": "nsfw", "group": "sensitive", "score": 0.7996, "threshold": 0.8}
    return [reply | {"verdict": "review", "because": because} for reply in replies]


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        ("/a /review", 0, ["/a", "/review"]),
        ("--only review /a /review /alarm", 1, ["/review"]),
        ("--only review --only alarm /a /review /alarm", 1, ["/alarm", "/review"]),
        ("--only safe /a /review /corrupt", 2, ["/a"]),
        ("--fail-on review /a", 0, ["/a"]),
        ("--fail-on review /a /review", 1, ["/a", "/review"]),
        ("--fail-on review --only alarm /review", 1, []),
        ("--fail-on review --fail-on safe /a", 1, ["/a"]),
        ("--fail-on review --strict /review /note", 2, ["/note", "/review"]),
        ("--fail-on review /review /corrupt", 1, ["/corrupt", "/review"]),
        ("--fail-on reviw /review", 64, []),
        ("--only alarms /review", 64, []),
    ],
)
def test_a_tier_that_is_no_alarm_can_be_shown_and_fail(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], arguments: str, code: int, shown: list[str]
) -> None:
    with FakeDaemon(tmp_path / "three.sock", three_tiers) as daemon:
        assert main.run(["scan", "-l", "--connect", daemon.address, *arguments.split()]) == code
    sys.stdout.flush()
    out, err = capfdbinary.readouterr()
    assert sorted(out.decode().split()) == shown
    assert (b"safe, review, sensitive" in err) == (code == 64)


def test_the_score_shown_is_the_one_that_decided(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """With as many decimals as it takes to see on which side of the threshold it is."""
    with FakeDaemon(tmp_path / "three.sock", three_tiers) as daemon:
        assert main.run(["scan", "-q", "--connect", daemon.address, "/review"]) == 0
        assert main.run(["scan", "-q", "--connect", daemon.address, "--format", "csv", "/review"]) == 0
    sys.stdout.flush()
    text, *table = capfdbinary.readouterr()[0].decode().splitlines()
    assert text == "/review: review 0.7996 (neutral 93.0%)"
    (row,) = csv.DictReader(table)
    assert (row["score"], row["group"], row["group_score"], row["threshold"]) == ("0.93", "sensitive", "0.7996", "0.8")


def test_paths_alone_are_what_they_are(scan: Scan) -> None:
    odd = os.fsdecode(b"/alarm\n\x1b\xe9")
    assert scan("-q", "-l0", "--only", "alarm", "/a", odd, "/corrupt") == (1, f"{odd}\0", "")
    code, out, _ = scan("-l", "/a", "/corrupt")
    assert (code, sorted(out.splitlines())) == (2, ["/a", "/corrupt"])
    assert scan("-0", "/a")[0] == 64


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
    _, out, _ = scan("--format", "csv", '/a,"b".jpg', "/corrupt", "/c\rd.jpg", "/e\nf.jpg")
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    assert {row["path"] for row in rows} == {'/a,"b".jpg', "/corrupt", "/c\rd.jpg", "/e\nf.jpg"}
    assert rows[0]["path"] == '/a,"b".jpg'
    assert (rows[0]["verdict"], rows[0]["alarm"], rows[0]["score"]) == ("safe", "false", "0.93")
    assert (rows[1]["status"], rows[1]["verdict"], rows[1]["code"]) == ("error", "", "corrupt")


def test_names_that_try_something_stay_on_their_line(scan: Scan, daemon: FakeDaemon) -> None:
    _, out, _ = scan("/a\nb: safe\x1b[2J.jpg", os.fsdecode(b"/\xe9.jpg"))
    assert sorted(out.splitlines()) == [
        "/\\xe9.jpg: safe 0.05 (neutral 93.0%)",
        "/a\\nb: safe\\x1b[2J.jpg: safe 0.05 (neutral 93.0%)",
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
        answered = main.run(["scan", "--connect", daemon.address, "--format", "json", "/b", "/missing", "/gone"])
        out, err = capfd.readouterr()
        assert (answered, len(json.loads(out)), "the rest was not scanned" in err) == (2, 2, True)
        nothing = main.run(["scan", "--connect", daemon.address, "--format", "json", "/gone"])
    out, err = capfd.readouterr()
    assert (nothing, json.loads(out), err.count("\n")) == (69, [], 1)


def test_a_peer_that_may_not_ask_is_told_so_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever the verb, and by one connection: as with a daemon that is not there, nothing was asked."""
    lines = ("scan /a", "scan -r /a", "ping", "ready", "stats", f"bench {__file__}")
    with Barring(tmp_path / "e.sock") as daemon:
        for line in lines:
            assert main.run([*line.split(), "--connect", daemon.address]) == 69, line
    err = capfd.readouterr().err.splitlines()
    assert [line.endswith("not you") for line in err] == [True] * len(lines)
    assert len(daemon.requests) == len(lines)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two pictures, a hidden directory with one, a link to a picture, and a loop of links."""
    top = tmp_path / "tree"
    (top / ".thumbs").mkdir(parents=True)
    (top / "below").mkdir()
    for name in ("a.jpg", "below/b.gif", ".thumbs/c.jpg"):
        (top / name).write_bytes(name.encode())
    (top / "link.jpg").symlink_to("a.jpg")
    (top / "below" / "loop").symlink_to(top)
    (top / "nowhere.jpg").symlink_to("gone")
    return top


def _asked(daemon: FakeDaemon, top: Path) -> list[str]:
    return sorted(request["path"].removeprefix(f"{top}/") for request in daemon.requests if "path" in request)


def test_exclusions_leave_out_names_and_whole_paths(scan: Scan, daemon: FakeDaemon, tree: Path) -> None:
    assert scan("-r", "--exclude", ".thumbs", "--exclude", "*.gif", str(tree), "/x/in/0", "/y.gif")[0] == 0
    assert _asked(daemon, tree) == ["/x/in/0", "a.jpg", "link.jpg"]
    daemon.requests.clear()
    scan("-r", "--exclude", f"{tree}/below/*", str(tree))
    assert _asked(daemon, tree) == [".thumbs/c.jpg", "a.jpg", "link.jpg"]
    daemon.requests.clear()
    scan("--exclude", "a*", str(tree))
    assert _asked(daemon, tree) == ["link.jpg"]
    assert not any("recursive" in request for request in daemon.requests)


@pytest.fixture(params=["unix", "tcp"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeDaemon]:
    """A daemon to which descriptors can be passed, and one to which they cannot."""
    with FakeDaemon(tmp_path / "o.sock" if request.param == "unix" else None) as daemon:
        yield daemon


def _got(daemon: FakeDaemon) -> list[bytes]:
    """What was opened for the daemon: as descriptors over a Unix socket, as bytes over TCP."""
    passed, sent = sorted(daemon.passed), sorted(daemon.bodies)
    assert not (sent if daemon.address.startswith("unix:") else passed)
    return passed or sent


@pytest.mark.parametrize("name", [b"locked.jpg", b"missing.jpg", b"locked\n\xe9.jpg"])
def test_what_the_daemon_cannot_open_is_opened_here(
    scan: Scan, opening: FakeDaemon, tmp_path: Path, name: bytes
) -> None:
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(b"picture")
    code, out, _ = scan("--connect", opening.address, str(file), "/other.jpg", "--format", "csv")
    replies = {reply["path"]: reply for reply in csv.DictReader(io.StringIO(out, newline=""))}
    assert (code, _got(opening)) == (0, [b"picture"])
    assert {path: reply["verdict"] for path, reply in replies.items()} == {str(file): "safe", "/other.jpg": "safe"}


def test_a_thousand_files_that_are_passed_leave_no_descriptor_open(
    daemon: FakeDaemon, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "locked.jpg").write_bytes(b"picture")
    (tmp_path / "list").write_text(f"{tmp_path}/locked.jpg\n" * 1000)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    command = ["scan", "-q", "--connect", daemon.address, "--files-from", str(tmp_path / "list")]
    assert main.run(command) == 0
    assert len(daemon.passed) == len(capfd.readouterr().out.splitlines()) == 1000
    assert len(os.listdir("/proc/self/fd")) - before < 10  # noqa: PTH208 (the daemon's threads have some)


def test_what_is_not_sent(scan: Scan, daemon: FakeDaemon, tmp_path: Path) -> None:
    """Nothing that lies outside the roots, nothing that cannot be read here either, nothing when told so."""
    for name in ("outside.jpg", "locked.jpg"):
        (tmp_path / name).write_bytes(b"picture")
    _, out, _ = scan(str(tmp_path / "outside.jpg"), str(tmp_path / "missing.jpg"))
    assert sorted(line.partition(": ")[2] for line in out.splitlines()) == [
        "error forbidden: it is forbidden",
        "error not_found: it is not_found",
    ]
    assert "error permission" in scan("--send", "never", str(tmp_path / "locked.jpg"))[1]
    assert daemon.bodies == daemon.passed == []


def test_a_directory_that_the_daemon_cannot_list_is_walked_here(scan: Scan, opening: FakeDaemon, tree: Path) -> None:
    locked = tree.rename(tree.with_name("locked"))
    code, out, _ = scan("--connect", opening.address, "-r", "--exclude", ".thumbs", str(locked))
    assert code == 0
    assert _got(opening) == [b"a.jpg", b"a.jpg", b"below/b.gif"]
    assert sorted(line.partition(": ")[0].removeprefix(f"{locked}/") for line in out.splitlines()) == [
        "a.jpg",
        "below/b.gif",
        "link.jpg",
    ]


def test_everything_is_opened_here_when_told_so(scan: Scan, opening: FakeDaemon, tree: Path) -> None:
    code, out, _ = scan("--connect", opening.address, "--send", "always", str(tree), str(tree / "gone"), "/dev/null")
    assert (code, _got(opening)) == (2, [b"a.jpg", b"a.jpg"])
    assert f"{tree}/gone: error not_found: No such file or directory\n" in out
    assert "/dev/null: error bad_path: not a regular file\n" in out


def test_bytes_are_sent_when_told_so(scan: Scan, daemon: FakeDaemon, tree: Path) -> None:
    (tree / "large.jpg").write_bytes(b"x" * 1001)
    code, out, _ = scan("--send", "bytes", str(tree))
    assert (code, sorted(daemon.bodies), daemon.passed) == (2, [b"a.jpg", b"a.jpg"], [])
    assert f"{tree}/large.jpg: skipped too_large: more than 1000 bytes\n" in out


def test_directories_of_this_machine_are_listed_here(scan: Scan, daemon: FakeDaemon, tree: Path) -> None:
    """A file is asked again after a restart, or opened here; what is left of a directory could not be."""
    assert scan("-r", str(tree), "/x/in/2")[0] == 0
    assert _asked(daemon, tree) == [".thumbs/c.jpg", "/x/in/2", "a.jpg", "below/b.gif", "link.jpg"]
    assert [request for request in daemon.requests if "recursive" in request] == [
        {"id": 5, "recursive": True, "path": "/x/in/2"}
    ]
    daemon.requests.clear()
    scan("--send", "never", "-r", str(tree))
    assert daemon.requests == [{"id": 1, "recursive": True, "path": str(tree)}]


def test_what_is_said_of_every_scan(scan: Scan, daemon: FakeDaemon) -> None:
    assert scan("--frames", "3", "--identity", "--lane", "normal", "--deadline", "2", "/a")[0] == 0
    said = {"frames": 3, "identity": True, "lane": "normal", "deadline": 2.0}
    assert daemon.requests == [{"id": 1, "path": "/a", **said}]
    assert scan("--frames", "0", "/a")[0] == 64
    for seconds in ("nan", "inf", "0", "86401"):
        assert scan("--deadline", seconds, "/a")[0] == 64


def test_an_image_on_stdin(daemon: FakeDaemon) -> None:
    command = [sys.executable, "-m", "nsfwd.cli.main", "scan", "--connect", daemon.address, "-"]
    done = subprocess.run([*command, "/a"], input=b"picture", capture_output=True, check=True)
    assert sorted(done.stdout.splitlines()) == [b"-: safe 0.05 (neutral 93.0%)", b"/a: safe 0.05 (neutral 93.0%)"]
    assert daemon.bodies == [b"picture"]
    twice = subprocess.run([*command, "--files-from", "-"], input=b"", capture_output=True, check=False)
    assert (twice.returncode, b"stdin can be read once" in twice.stderr) == (64, True)


def test_colours_tell_what_it_came_to(scan: Scan) -> None:
    _, out, _ = scan("--color", "always", "/a", "/alarm", "/note", "/corrupt")
    colours = {line.partition(": ")[0]: line.partition("\x1b[")[2].partition("m")[0] for line in out.splitlines()}
    assert colours == {"/a": "32", "/alarm": "1;31", "/note": "2", "/corrupt": "33"}


@pytest.mark.parametrize(("variables", "painted"), [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False)])
def test_colours_only_where_the_terminal_has_them(
    variables: dict[str, str], painted: bool, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert ("\x1b[" in scan("/a")[1]) is painted
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in scan("/a")[1]


def test_what_the_caller_may_not_read_is_for_the_daemon_to_read(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another user; and one such file must not end a run over many."""
    (tmp_path / "closed.jpg").touch()
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # as root everything may be read
    code, out, _ = scan(str(tmp_path / "closed.jpg"), "/b")
    assert (code, out.count("safe")) == (0, 2)


def test_waiting_for_a_daemon_that_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[FakeDaemon] = []
    monkeypatch.setattr("nsfwd.cli.scan.BETWEEN_LOOKS", 0.0)

    def sleep(_: float) -> None:
        if not late:
            late.append(FakeDaemon(tmp_path / "late.sock"))

    monkeypatch.setattr("nsfwd.cli.scan.time.sleep", sleep)
    assert main.run(["scan", "--wait", "--connect", f"unix:{tmp_path}/late.sock", "/a"]) == 0
    late[0].__exit__()
    assert main.run(["scan", "--wait", "--connect", "nonsense", "/a"]) == 64


def test_progress_on_a_terminal_alone(daemon: FakeDaemon, tree: Path) -> None:
    """With rate, count and total; the results on stdout stay clean."""
    reader, terminal = os.openpty()
    command = [sys.executable, "-m", "nsfwd.cli.main", "scan", "-r", "--exclude", "x", "--connect", daemon.address]
    done = subprocess.run([*command, str(tree)], stdout=subprocess.PIPE, stderr=terminal, check=True)
    os.close(terminal)
    parts = []
    with contextlib.suppress(OSError):  # which is how a terminal says that all was read
        while part := os.read(reader, 65536):
            parts.append(part)
    os.close(reader)
    shown = b"".join(parts).decode()
    assert len(done.stdout.splitlines()) == 4
    assert b"\x1b" not in done.stdout
    assert "/" in shown and "4 files in" in shown


def test_a_long_list_is_not_kept(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Memory while 20,000 paths are scanned is what it is for 2,000."""
    peaks = []
    for number in (2_000, 20_000):
        (tmp_path / "list").write_text("".join(f"/{index}.jpg\n" for index in range(number)))
        line = ["scan", "-q", "--connect", daemon.address, "--files-from", str(tmp_path / "list")]
        code = f"import sys; from nsfwd.cli.main import run; run({line!r}); "
        # not ru_maxrss, which counts the memory of whoever forked it
        code += "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert len(done.stdout.splitlines()) == number
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] - peaks[0] < 4096, "KiB"


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
    assert process.stdout.readline() == b"/a: safe 0.05 (neutral 93.0%)\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr.read().splitlines()[-1] == b"nsfwd: interrupted"
    process.stdin.close()


@pytest.mark.parametrize(
    ("closed", "code", "out"),
    [
        ("<&-", 0, "/a: safe 0.05 (neutral 93.0%)\n"),
        (">&-", 74, ""),
        ("2>&-", 0, "/a: safe 0.05 (neutral 93.0%)\n"),
        ("<&- >&- 2>&-", 74, ""),
        ("- <&-", 2, "-: error unreadable: Bad file descriptor\n/a: safe 0.05 (neutral 93.0%)\n"),
    ],
)
def test_streams_that_the_caller_has_closed(daemon: FakeDaemon, closed: str, code: int, out: str) -> None:
    command = f"{sys.executable} -m nsfwd.cli.main scan --connect {daemon.address} /a {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, "".join(sorted(done.stdout.splitlines(keepends=True)))) == (code, out)
    assert "Traceback" not in done.stderr


def test_a_list_on_a_stdin_that_is_closed_is_no_empty_list(daemon: FakeDaemon) -> None:
    command = f"{sys.executable} -m nsfwd scan --connect {daemon.address} --files-from - <&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (74, b"nsfwd: standard input: Bad file descriptor\n")


def test_what_is_told_of_a_strange_name_is_escaped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A daemon that is lost in the middle of a directory of that name."""

    def respond(request: Request) -> list[dict[str, Any]] | None:
        return [answer({"path": "/x"})[0]] if "path_bytes" in request else None

    with FakeDaemon(tmp_path / "e.sock", respond) as daemon:
        name = os.fsdecode(b"/\x1b[2J\n\xe9")
        assert main.run(["scan", "-r", "--connect", daemon.address, name, "/b"]) == 2
    err = capfd.readouterr().err
    assert "in the middle of /\\x1b[2J\\n\\xe9" in err
    assert "\x1b" not in err


def test_a_directory_that_cannot_be_listed_here_is_an_error(
    scan: Scan, daemon: FakeDaemon, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = os.scandir

    def scandir(path: Any) -> Any:
        if os.fsencode(path).endswith(b"below"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return listing(path)

    monkeypatch.setattr("nsfwd.cli.options.path_inputs.os.scandir", scandir)
    code, out, _ = scan("-r", str(tree))
    assert code == 2
    assert f"{tree}/below: error permission: Permission denied\n" in out
    assert _asked(daemon, tree) == [".thumbs/c.jpg", "a.jpg", "link.jpg"]


@pytest.mark.parametrize("arguments", ["--send always", "--send auto", "--exclude x"])
def test_a_list_with_a_name_that_cannot_be(scan: Scan, tmp_path: Path, arguments: str) -> None:
    (tmp_path / "list").write_bytes(b"/a\0b\n")
    code, out, err = scan(*arguments.split(), "--files-from", str(tmp_path / "list"))
    assert (code in (0, 2), out.count("\n"), "Traceback" in err) == (True, 1, False)


def test_a_daemon_that_drains_is_asked_again_and_then_believed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[Request] = []

    def respond(request: Request) -> list[dict[str, Any]]:
        seen.append(request)
        after = 0.01 if len(seen) == 1 else 100
        return [failed(request["path"], "refused", "draining") | {"retry_after": after}]

    with FakeDaemon(tmp_path / "e.sock", respond) as daemon:
        assert main.run(["scan", "--connect", daemon.address, "/a"]) == 2
    assert capfd.readouterr().out == "/a: refused draining: it is draining\n"
    assert len(seen) == 2


def test_a_bundle_that_is_missing_is_no_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSFWD_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("NSFWD_CONFIG", "")
    assert main.run(["scan", "--local", "/a"]) == 78


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk_is_one_line_and_no_verdict(daemon: FakeDaemon) -> None:
    command = [sys.executable, "-m", "nsfwd.cli.main", "scan", "--connect", daemon.address, "/a"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (74, b"nsfwd: output: No space left on device\n")


def test_a_defect_is_never_taken_for_an_alarm(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsfwd.cli.scan.Summary.add", lambda *_: 1 / 0)
    code, _, err = scan("/a")
    assert code == 70
    assert "ZeroDivisionError" in err


def test_an_empty_path_is_no_name_of_the_working_directory(scan: Scan) -> None:
    code, out, err = scan("/a", "")
    assert (code, out) == (64, "")
    assert "empty" in err


@pytest.mark.parametrize("way", ["", "--send never", "--send always", "--files-from"])
def test_a_directory_of_directories_alone_is_not_passed_over_in_silence(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "top/in/0").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    (tmp_path / "list").write_text("top\n")
    named = ["--files-from", "list"] if way == "--files-from" else [*way.split(), "top"]
    code, out, err = scan(*named)
    assert (code, out) == (2, "") and f"nsfwd: {tmp_path}/top: contains only directories" in err and "add -r" in err
    assert scan("none")[0::2] == (0, "no files\n")
    (tmp_path / "list").write_text("")
    assert scan("--files-from", "list")[0::2] == (0, "no files\n")


def test_a_list_from_an_editor_has_neither_mark_nor_cr(scan: Scan, daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbf/a\r\n/b\r\n")
    assert scan("--files-from", str(tmp_path / "list"))[0] == 0
    assert [request["path"] for request in daemon.requests] == ["/a", "/b"]
    assert scan("-0", "--files-from", str(tmp_path / "list"))[0] == 0
    assert daemon.requests[-1]["path"] == f"{Path.cwd()}/\ufeff/a\r\n/b\r\n"


LATIN_1 = "en_US.ISO-8859-1"
"""Where it is not installed, Python takes it for the locale C."""

LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": LATIN_1},
    {"LC_ALL": LATIN_1, "PYTHONUTF8": "0"},
    {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=lambda locale: ",".join(locale.values()))
@pytest.mark.parametrize("name", ["caf\u00e9.jpg".encode(), b"caf\xe9.jpg", "\u65e5\u672c.jpg".encode()])
def test_no_locale_has_a_say_in_names(daemon: FakeDaemon, tmp_path: Path, locale: dict[str, str], name: bytes) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    Path(os.fsdecode(path)).write_bytes(b"x")
    command = [sys.executable, "-m", "nsfwd", "scan", "-q", "-l", "--connect", daemon.address, os.fsdecode(path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LC_", "LANG"))}
    done = subprocess.run(command, env=environment | locale, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, path + b"\n", b"")


@pytest.mark.parametrize("locale", LOCALES, ids=lambda locale: ",".join(locale.values()))
@pytest.mark.parametrize("name", ["caf\u00e9.jpg".encode(), b"caf\xe9.jpg"])
def test_the_library_ends_and_knows_its_paths_in_every_locale(
    daemon: FakeDaemon, tmp_path: Path, locale: dict[str, str], name: bytes
) -> None:
    path = os.fsencode(tmp_path) + b"/" + name
    Path(os.fsdecode(path)).write_bytes(b"x")
    code = (
        "import os, sys; from nsfwd.client import Client, Opened; client = Client(sys.argv[1], timeout=20);"
        "path = os.fsencode(sys.argv[2]); one = client.scan(path); name = os.fsdecode(path);"
        "many = list(client.scan_many([path, Opened(os.open(path, os.O_RDONLY), name)]));"
        "print([os.fsencode(reply.path) == path for reply in [one, *many]])"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LC_", "LANG"))}
    command = [sys.executable, "-c", code, daemon.address, os.fsdecode(path)]
    done = subprocess.run(command, env=environment | locale, capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (b"[True, True, True]\n", b"")
