"""What a service manager hears of the real daemon, from start to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration.harness import PATIENCE, Daemon, ask, raw_connect, read_all, wait_until


class Manager:
    """Listens where sd_notify(3) speaks."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE)
        self.heard: list[str] = []

    def wait(self, word: str) -> str:
        """The next message with this word in it."""
        while True:
            message = self.socket.recv(4096).decode()
            self.heard.append(message)
            if word in message:
                return message


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    with contextlib.closing(manager.socket):
        yield manager


def daemon(tmp_path: Path, watchdog: float, *, flags: Sequence[str] = ()) -> Daemon:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(int(watchdog * 1e6))}
    return Daemon(tmp_path / "d", flags=flags, environment=environment)


def test_from_start_to_stop(tmp_path: Path, manager: Manager) -> None:
    with daemon(tmp_path, 4.0, flags=["--metrics", f"unix:{tmp_path}/metrics"]) as served:
        manager.wait("STATUS=the engine is loading")
        manager.wait("EXTEND_TIMEOUT_USEC=")
        ready = manager.wait("READY=1")
        assert "STATUS=echo@" in ready and "on cpu" in ready and "images/s" in ready
        manager.wait("WATCHDOG=1")
        with raw_connect(tmp_path / "metrics") as scrape:
            scrape.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert b"\nnsfwd_ready 1.0\n" in read_all(scrape)
        ask(served.unix, {"op": "reload"})
        assert "MONOTONIC_USEC=" in manager.wait("RELOADING=1")
        manager.wait("READY=1")
        os.kill(served.pid, signal.SIGTERM)
        assert manager.wait("STOPPING=1")
    said = "\n".join(manager.heard)
    assert said.index("the engine is loading") < said.index("READY=1")


def test_a_daemon_that_hangs_leaves_its_stacks_and_may_come_back(tmp_path: Path, manager: Manager) -> None:
    """The loop hangs when it reads the settings anew: they became a FIFO that nobody writes to."""
    settings = tmp_path / "nsfwd.toml"
    settings.touch()
    with daemon(tmp_path, 2.0, flags=["--config", str(settings)]) as served:
        manager.wait("READY=1")
        settings.unlink()
        os.mkfifo(settings)
        os.kill(served.pid, signal.SIGHUP)
        manager.wait("RELOADING=1")
        wait_until(lambda: "most recent call first" in served.stderr)
        assert "in _from_file" in served.stderr
        settings.open("w").close()
        manager.wait("READY=1")
        manager.wait("WATCHDOG=1")
