"""The command line as a whole: help, one-line errors, exit codes, settings, and what each verb loads."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nsfwd import config as settings
from nsfwd.cli import main
from nsfwd.cli.options import exit_codes
from tests.unit.fakedaemon import FakeDaemon


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("NSFWD_CONNECT", "NSFWD_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("nsfwd.config.settings_sources.SYSTEM_FILE", tmp_path / "none.toml")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "d.sock") as daemon:
        yield daemon


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([verb, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Example: nsfwd " + verb in text or "nsfwd " + verb in text.partition("Example:")[2]
    assert main.VERBS[verb][1].rstrip(".") in text


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in main.VERBS)
    assert main.run([]) == 64
    assert "Verbs:" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nsfwd ")


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("frobnicate", 64, "unknown verb 'frobnicate' (see nsfwd --help)"),
        ("scan", 64, "give a PATH, or a list with --files-from (see nsfwd scan --help)"),
        ("scan -0 /x", 64, "-0 needs --files-from"),
        ("scan --nonsense /x", 64, "--nonsense"),
        ("scan --files-from none.txt", 64, "none.txt"),
        ("scan --deadline 0 /x", 64, "deadline"),
        (
            "scan --connect unix:none.sock /x",
            69,
            "no daemon answered; tried unix:none.sock (No such file or directory)",
        ),
        ("ping --connect unix:none.sock", 69, "no daemon answered"),
        ("ready --connect nonsense", 64, "invalid address 'nonsense'; write tcp:HOST:PORT or unix:/path"),
        ("scan --connect tcp:host:port /x", 64, "invalid address 'tcp:host:port'"),
        ("scan --wait --connect host /x", 64, "invalid address 'host'"),
        ("sacn /x", 64, "unknown verb 'sacn'; did you mean scan? (see nsfwd --help)"),
        ("index lits", 64, "unknown verb 'lits'; did you mean list? (see nsfwd index --help)"),
        ("scan -l --format csv /x", 64, "-l and --format exclude each other"),
        ("serve --queue 0", 78, "--queue: invalid value '0': expected int >= 1"),
        ("serve --config none.toml", 78, "none.toml: cannot be read"),
        ("config check --listen tcp:nowhere", 1, "tcp:nowhere"),
        ("config check --models-dir .", 1, "nsfw-mobilenet-v2-140"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_code(
    line: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(line.split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nsfwd: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_wrong_variable_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NSFWD_QUEU", "3")
    assert main.run(["config", "show"]) == 78
    assert 'did you mean "NSFWD_QUEUE"' in capsys.readouterr().err


def test_config_show_is_toml_that_gives_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text('deadline = 5\n[policy.nsfw.groups]\n"se x" = ["porn", "sexy"]\n')
    monkeypatch.setenv("NSFWD_ROOTS", "/srv '/my pictures'")
    flags = ["--config", "a.toml", "--max-bytes", "1MiB", "--listen", "unix:/run/é.sock,mode=0600", "--root", "here"]
    assert main.run(["config", "show", "--explain", *flags]) == 0
    text = capsys.readouterr().out
    shown = tomllib.loads(text)
    assert list(shown) == list(settings.TABLE)
    assert shown["policy"] == {"nsfw": {"groups": {"se x": ["porn", "sexy"]}}}
    assert shown["roots"] == [f"{tmp_path}/here"]
    assert "max_bytes = 1048576  # --max-bytes" in text
    assert "deadline = 5.0  # a.toml, key deadline" in text
    assert "queue = 16384  # default" in text
    (tmp_path / "b.toml").write_text(text)
    assert main.run(["config", "show", "--config", "b.toml"]) == 0
    monkeypatch.delenv("NSFWD_ROOTS")
    assert tomllib.loads(capsys.readouterr().out) | {"roots": 0} == shown | {"roots": 0}


def test_serve_gives_its_settings_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[settings.Settings] = []

    def run(given: settings.Settings, reread: Callable[[], settings.Settings]) -> int:
        seen.extend((given, reread()))
        return 3

    monkeypatch.setattr("nsfwd.server.daemon.run", run)
    flags = [
        "--model",
        "a=x",
        "--model",
        "b",
        "--engine",
        "echo",
        "--queue",
        "3",
        "--queue",
        "4",
        "--idle-timeout",
        "1h",
    ]
    assert main.run(["serve", *flags]) == 3
    assert (seen[0].models, seen[0].engine, seen[0].queue, seen[0].idle_timeout) == (("a=x", "b"), "echo", 4, 3600.0)
    assert not seen[0].is_given("roots")
    assert seen[1] == seen[0], "what a reload reads"


def test_questions(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["ping", "--connect", daemon.address]) == 0
    assert capsys.readouterr().out.startswith(f"{daemon.address} answered in ")
    assert main.run(["ready", "--connect", daemon.address]) == 0
    assert capsys.readouterr().out == "ready\n"
    assert main.run(["stats", "--connect", daemon.address]) == 0
    assert '\n  "requests_total": 3' in capsys.readouterr().out


def test_the_poison_list_is_shown_and_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers: dict[str, dict[str, Any]] = {
        "poison": {"op": "poison", "status": "ok", "poison": [{"sha256": "ab", "signal": "SIGSEGV"}]},
        "clear_poison": {"op": "clear_poison", "status": "ok", "cleared": 1},
    }
    with FakeDaemon(tmp_path / "e.sock", lambda request: [answers[request["op"]]]) as daemon:
        assert main.run(["stats", "--poison", "--connect", daemon.address]) == 0
        assert '"SIGSEGV"' in capsys.readouterr().out
        assert main.run(["stats", "--poison", "--clear", "--connect", daemon.address]) == 0
        assert capsys.readouterr().out == "forgot 1 files\n"
    assert main.run(["stats", "--clear"]) == 64


def test_not_ready_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"op": "ready", "status": "ok", "ready": False, "why": "warming"}
    with FakeDaemon(tmp_path / "e.sock", lambda _: [state]) as daemon:
        assert main.run(["ready", "--connect", daemon.address]) == 1
    assert capsys.readouterr().out == "not ready: warming\n"


def test_ready_says_what_is_amiss_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"op": "ready", "status": "ok", "ready": True, "why": "overrides: lost"}
    with FakeDaemon(tmp_path / "e.sock", lambda _: [state]) as daemon:
        assert main.run(["ready", "--connect", daemon.address]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("ready\n", "nsfwd: overrides: lost\n")


def test_an_operation_turned_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = {"op": "stats", "status": "error", "error": {"code": "not_permitted", "message": "no"}}
    with FakeDaemon(tmp_path / "e.sock", lambda _: [refusal]) as daemon:
        assert main.run(["stats", "--connect", daemon.address]) == 1
    said = capsys.readouterr().err
    assert said.startswith("nsfwd: not_permitted: no; ask over the Unix socket as root or the daemon's user")


@pytest.mark.parametrize("verb", ["ping", "scan /a", "sweep .", "bench ."])
def test_an_address_that_is_empty_is_no_usual_place(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*verb.split(), "--connect", ""]) == exit_codes.USAGE
    assert "'--connect': the address is empty" in capsys.readouterr().err


def test_ctrl_c_while_the_program_is_loaded_is_no_traceback() -> None:
    code = """
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == "nsfwd.cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from nsfwd.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (exit_codes.INTERRUPTED, "")


def test_what_a_terminal_has_no_letters_for_is_escaped() -> None:
    command = [sys.executable, "-m", "nsfwd", "config", "show", "--root", "/\u2603\udcff"]
    latin = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, env=latin, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert 'roots = ["/\\u2603\\udcff"]' in done.stdout


@pytest.mark.parametrize("verb", ["config", "models", "override", "index"])
def test_a_list_of_verbs_has_whole_sentences(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: nsfwd {verb} [OPTIONS] VERB ...")
    assert "..." not in out.partition("Verbs:")[2]


@pytest.mark.parametrize(
    "line", ["--help", "scan --format json -q /a --connect", "stats --connect", "config show", "completion bash"]
)
def test_results_that_nobody_gets_are_no_success(line: str, daemon: FakeDaemon) -> None:
    command = [sys.executable, "-m", "nsfwd", *line.split(), *([daemon.address] if line.endswith("--connect") else [])]
    reader, writer = os.pipe()
    os.close(reader)
    endings = {
        '"$@" >&-': (exit_codes.IO, "nsfwd: standard output is closed\n"),
        '"$@" >/dev/full': (exit_codes.IO, "nsfwd: output: No space left on device\n"),
        '"$@" >/dev/full 2>/dev/full': (exit_codes.IO, ""),
        '"$@"': (exit_codes.BROKEN_PIPE, ""),
    }
    for script, ending in endings.items():
        said = subprocess.run(
            ["sh", "-c", f"exec {script}", "sh", *command], stdout=writer, stderr=subprocess.PIPE, check=False
        )
        assert (said.returncode, said.stderr.decode()) == ending, script
    os.close(writer)


@pytest.mark.parametrize(
    ("line", "code"),
    [("--version", 0), ("no-such-verb", exit_codes.USAGE), ("ping --connect unix:/nowhere", exit_codes.UNAVAILABLE)],
)
@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&-"])
def test_the_exit_code_is_the_same_where_stderr_takes_nothing(line: str, code: int, closed: str) -> None:
    command = f"{shlex.join([sys.executable, '-m', 'nsfwd', *line.split()])} {closed}"
    assert subprocess.run(["sh", "-c", command], stdout=subprocess.DEVNULL, check=False).returncode == code


def test_a_completion_that_nobody_reads_is_one_exit_code() -> None:
    asked = {"_NSFWD_COMPLETE": "bash_complete", "COMP_WORDS": "nsfwd ", "COMP_CWORD": "1"}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nsfwd"], env=os.environ | asked, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (exit_codes.IO, b"")


@pytest.mark.parametrize(
    "line",
    [
        "sweep / --rate",
        "sweep / --hook-rate",
        "sweep / --max-share",
        "bench / --seconds",
        "bench / --rate",
        "top --interval",
    ],
)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_is_one(line: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*line.split(), value]) == exit_codes.USAGE
    assert value in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["sweep", "watch"])
def test_a_job_whose_directory_is_missing_is_named(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "nightly.toml"
    job.write_text(f'directories = ["{tmp_path}", "{tmp_path}/gone"]\n')
    assert main.run([verb, "--job", str(job)]) == exit_codes.CONFIG
    assert f"{job}, key directories: {tmp_path}/gone: no such directory" in capsys.readouterr().err


@pytest.mark.parametrize("refused", ["memfd_create", "socketpair", "epoll", "pipe"])
def test_a_call_that_the_kernel_refuses_is_named_and_is_not_the_outputs(
    refused: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource
    import select
    import socket

    calls: dict[str, Callable[[], object]] = {
        "memfd_create": lambda: os.memfd_create("x"),
        "socketpair": lambda: socket.socketpair(),
        "epoll": lambda: select.epoll(),
        "pipe": lambda: os.pipe(),
    }

    def command(*_: object) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            calls[refused]()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    monkeypatch.setattr(main.cli, "invoke", command)
    assert main.run(["ping"]) == 74
    assert capsys.readouterr().err == f"nsfwd: {refused}: Too many open files\n"
