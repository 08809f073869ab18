"""Stopping has an order: nothing that was admitted stays unanswered, and the daemon always ends."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nsfwd.protocol.limits import WINDOW
from tests import pictures
from tests.integration.harness import Daemon, Json, ask, raw_connect, read_all, replies, spell, wait_until


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.jpg"
    path.write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    return path


def children(daemon: Daemon, module: str) -> list[int]:
    """Process ids of the children that run ``module``."""
    return [pid for pid, command in daemon.processes().items() if module in command and pid != daemon.pid]


@contextmanager
def frozen_engine(daemon: Daemon) -> Iterator[None]:
    """Work in flight that never ends: the engine stands still."""
    engines = children(daemon, "nsfwd.engines.engine_process")
    assert engines
    for pid in engines:
        os.kill(pid, signal.SIGSTOP)
    yield


def start_scans(daemon: Daemon, photo: Path, count: int) -> socket.socket:
    connection = raw_connect(daemon.unix)
    connection.sendall(b"".join(spell({"id": number, "path": str(photo)}) for number in range(count)))
    wait_until(lambda: ask(daemon.unix, {"op": "stats"})["in_flight"] >= count)
    return connection


def codes(found: list[Json]) -> set[str]:
    return {reply["error"]["code"] if "error" in reply else reply["status"] for reply in found}


def test_a_stop_under_load_answers_everything_once(tmp_path: Path, photo: Path) -> None:
    with Daemon(tmp_path) as daemon:
        with raw_connect(daemon.unix) as connection:
            connection.sendall(b"".join(spell({"id": number, "path": str(photo)}) for number in range(1000)))
            first = connection.recv(1 << 16)
            os.kill(daemon.pid, signal.SIGTERM)
            found = replies(first + read_all(connection))
        assert daemon.wait_exit() == 0
    assert sorted(reply["id"] for reply in found) == list(range(1000))
    assert codes(found) <= {"ok", "draining"}


def test_new_work_is_refused_while_old_work_is_waited_for(tmp_path: Path, photo: Path) -> None:
    with Daemon(tmp_path, flags=["--drain-timeout", "60"]) as daemon:
        with frozen_engine(daemon), start_scans(daemon, photo, 3) as old, raw_connect(daemon.unix) as other:
            other.sendall(spell({"op": "ping"}))
            assert b"ping" in other.recv(1000)
            os.kill(daemon.pid, signal.SIGTERM)
            wait_until(lambda: not Path(str(daemon.unix)).exists())
            with pytest.raises(OSError):
                raw_connect(daemon.tcp)
            other.sendall(spell({"id": "new", "path": str(photo)}))
            refused = json.loads(other.recv(4000))
            assert (refused["status"], refused["error"]["code"]) == ("refused", "draining")
            assert refused["retry_after"] > 0
            for pid in children(daemon, "nsfwd.engines.engine_process"):
                os.kill(pid, signal.SIGCONT)
            assert codes(replies(read_all(old))) == {"ok"}
        assert daemon.wait_exit() == 0


def test_a_second_signal_ends_the_wait_with_replies(tmp_path: Path, photo: Path) -> None:
    with Daemon(tmp_path, flags=["--drain-timeout", "600"]) as daemon:
        with frozen_engine(daemon), start_scans(daemon, photo, 5) as connection:
            os.kill(daemon.pid, signal.SIGTERM)
            wait_until(lambda: not Path(str(daemon.unix)).exists())
            os.kill(daemon.pid, signal.SIGINT)
            found = replies(read_all(connection))
        assert sorted(reply["id"] for reply in found) == list(range(5))
        assert codes(found) == {"draining"}
        assert daemon.wait_exit() == 0


def test_the_drain_timeout_ends_the_wait_with_replies(tmp_path: Path, photo: Path) -> None:
    with Daemon(tmp_path, flags=["--drain-timeout", "0.2"]) as daemon:
        with frozen_engine(daemon), start_scans(daemon, photo, WINDOW) as connection:
            connection.sendall(b"".join(spell({"id": number, "path": str(photo)}) for number in range(WINDOW, 1000)))
            os.kill(daemon.pid, signal.SIGTERM)
            found = replies(read_all(connection))
        assert sorted(reply["id"] for reply in found) == list(range(1000)), "also those that the window kept waiting"
        assert codes(found) == {"draining"}
        assert daemon.wait_exit() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_it_is_ready(tmp_path: Path, number: signal.Signals) -> None:
    daemon = Daemon(tmp_path)
    daemon.start()
    wait_until(lambda: Path(str(daemon.unix)).exists())
    daemon.stop(number)


def holds_back(pid: int, number: signal.Signals) -> bool:
    """Whether the process holds this signal back, and so has begun and has no loop yet."""
    fields = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return bool(int(fields["SigBlk"], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_at_the_very_start_is_orderly(tmp_path: Path, number: signal.Signals) -> None:
    daemon = Daemon(tmp_path)
    daemon.start()
    wait_until(lambda: holds_back(daemon.pid, number), pause=0.0)
    daemon.stop(number)
    assert "stopped" in daemon.stderr


def test_a_stop_in_a_reload_answers_whoever_asked_for_it(tmp_path: Path, photo: Path) -> None:
    with Daemon(tmp_path) as daemon:
        with raw_connect(daemon.unix) as connection:
            connection.sendall(spell({"id": "reload", "op": "reload"}))
            connection.sendall(b"".join(spell({"id": number, "path": str(photo)}) for number in range(100)))
            wait_until(lambda: len(children(daemon, "nsfwd.engines.engine_process")) == 2, pause=0.0)
            os.kill(daemon.pid, signal.SIGTERM)
            found = replies(read_all(connection))
        assert daemon.wait_exit() == 0
    assert {reply["id"] for reply in found} == {"reload", *range(100)}
    assert codes(found) <= {"ok", "draining"}


def test_a_stop_under_overload_answers_everything_once(tmp_path: Path, photo: Path) -> None:
    flags = ["--queue", "8", "--drain-timeout", "1"]
    with Daemon(tmp_path, flags=flags) as daemon:
        connections = [raw_connect(daemon.unix) for _ in range(8)]
        with frozen_engine(daemon):
            for connection in connections:
                connection.sendall(b"".join(spell({"id": number, "path": str(photo)}) for number in range(200)))
            wait_until(lambda: ask(daemon.unix, {"op": "stats"})["refused"]["busy"] > 0)
            os.kill(daemon.pid, signal.SIGTERM)
            for connection in connections:
                with connection:
                    found = replies(read_all(connection))
                assert sorted(reply["id"] for reply in found) == list(range(200))
                assert codes(found) <= {"ok", "busy", "draining"}
        assert daemon.wait_exit() == 0


def test_requests_before_it_is_ready_wait(tmp_path: Path, photo: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.start()
    wait_until(lambda: Path(str(daemon.unix)).exists())
    assert ask(daemon.unix, {"id": 1, "path": str(photo)})["status"] == "ok"
    daemon.stop()


def test_a_killed_server_leaves_no_process_behind(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.start()
    try:
        daemon.wait_ready()
        assert len(daemon.processes()) > 2
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait_exit()
        wait_until(lambda: not daemon.processes())
    finally:
        daemon.kill()
