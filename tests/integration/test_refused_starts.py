"""A daemon that cannot serve says so in one clear line and leaves with a status that is not zero."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.echo_bundle import echo_bundle
from tests.integration.harness import Daemon, needs, session_processes


def refused(daemon: Daemon) -> str:
    """The one line on stderr of a daemon that must refuse to serve; the line on what it loads may come before it."""
    daemon.start()
    try:
        status = daemon.wait_exit(60)
    finally:
        daemon.kill()
    assert 0 < status < 128
    assert session_processes(daemon.pid) == {}
    assert daemon.stdout == ""
    lines = [line for line in daemon.stderr.splitlines() if " info server: loading " not in line]
    assert len(lines) == 1, daemon.stderr
    return lines[0]


def test_a_busy_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refused(Daemon(tmp_path, listen=[f"tcp:127.0.0.1:{port}"]))
    assert str(port) in line and "in use" in line


def test_a_socket_that_another_daemon_serves(tmp_path: Path) -> None:
    with Daemon(tmp_path / "first") as first:
        line = refused(Daemon(tmp_path / "second", listen=[f"unix:{first.unix}"]))
        first.wait_ready()
    assert str(first.unix) in line


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(daemon.unix))
    with daemon:
        pass


def test_a_missing_bundle(tmp_path: Path) -> None:
    echo_bundle(tmp_path / "models")
    line = refused(Daemon(tmp_path, model="nothing-of-this-name", models_dir=tmp_path / "models"))
    assert "nothing-of-this-name" in line


def test_a_bundle_of_the_catalogue_that_was_not_pulled(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    line = refused(Daemon(tmp_path, model="nsfw-mobilenet-v2-140", models_dir=tmp_path / "models"))
    assert "nsfwd models pull nsfw-mobilenet-v2-140" in line


@pytest.mark.parametrize("engine", ["openvino", "keras"])
def test_altered_weights(engine: str, tmp_path: Path) -> None:
    directory = echo_bundle(tmp_path / "models")
    (directory / "model.keras").write_bytes(b"other weights")
    line = refused(Daemon(tmp_path, engine=engine, models_dir=tmp_path / "models"))
    assert "digest" in line


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--max-bytes", "plenty"], "max-bytes"),
        (["--drain-timeout", "-1"], "drain-timeout"),
        (["--no-such-setting", "1"], "no-such-setting"),
        (["--listen", "carrier-pigeon:1"], "carrier-pigeon"),
        (["--listen", "tcp:0.0.0.0:0"], "root"),
    ],
)
def test_a_bad_setting(flags: list[str], word: str, tmp_path: Path) -> None:
    assert word in refused(Daemon(tmp_path, flags=flags)).replace("_", "-")


@pytest.mark.parametrize("files", [24, 256])
def test_too_few_files(files: int, tmp_path: Path) -> None:
    line = refused(Daemon(tmp_path, prefix=[needs("prlimit"), f"--nofile={files}:{files}"]))
    assert f"may open {files} files" in line and "LimitNOFILE=" in line


def test_an_unknown_name_in_the_environment_and_in_the_file(tmp_path: Path) -> None:
    assert "NSFWD_MAX_BITES" in refused(Daemon(tmp_path / "a", environment={"NSFWD_MAX_BITES": "1"}))
    config = tmp_path / "nsfwd.toml"
    config.write_text("max_bites = 1\n")
    assert "max_bites" in refused(Daemon(tmp_path / "b", flags=["--config", str(config)]))
