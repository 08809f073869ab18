"""What the service manager is told."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from nsfwd.server.watchdog import Watchdog, watchdog_seconds
from nsfwd.systemd import Notifier
from tests.unit import manual


def test_states_arrive_and_the_variable_is_not_passed_on(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "n")}
        notifier = Notifier(environment)
        assert environment == {}
        notifier.ready("serving")
        notifier.stopping()
        assert manager.recv(100) == b"READY=1\nSTATUS=serving"
        assert manager.recv(100).startswith(b"STOPPING=1\n")


def test_no_manager_or_one_that_is_gone_never_hurts(tmp_path: Path) -> None:
    Notifier({}).ready("serving")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("serving")


def test_a_reload_is_dated_by_the_clock_that_systemd_reads(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n")})
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading()
        fields = dict(line.split("=") for line in manager.recv(100).decode().splitlines())
        assert fields["RELOADING"] == "1"
        assert before <= int(fields["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.extend_timeout(1.5)
        assert manager.recv(100) == b"EXTEND_TIMEOUT_USEC=1500000"


def test_a_status_is_not_repeated(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n")})
        for status in ("loading", "loading", "serving"):
            notifier.status(status)
        notifier.alive()
        assert [manager.recv(100) for _ in range(3)] == [b"STATUS=loading", b"STATUS=serving", b"WATCHDOG=1"]


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_manager_says_how_often_it_wants_to_hear(environment: dict[str, str], seconds: float) -> None:
    assert watchdog_seconds(environment) == seconds
    assert environment == {}


def test_silence_when_a_stage_with_work_stands_still() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        state: dict[str, tuple[int, float] | None] = {"engine": None}
        watchdog = Watchdog(loop, 0.0, Notifier({}), lambda: state)
        assert watchdog.standstill() == []
        state["engine"] = (7, 30.0)
        assert watchdog.standstill() == []
        await loop.advance(29)
        assert watchdog.standstill() == []
        await loop.advance(2)
        assert watchdog.standstill() == ["engine"]
        state["engine"] = (8, 30.0)
        assert watchdog.standstill() == []
        await loop.advance(40)
        state["engine"] = None
        assert watchdog.standstill() == [], "idle"

    manual.run(scenario)
