"""Sockets of the real daemon: inherited ones, limits, half-closed clients, and what the server must not load."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.integration.harness import Address, Daemon, ask, raw_connect, read_all, run_client, spell, wait_until

TICKS = os.sysconf("SC_CLK_TCK")

ACTIVATE = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES=sys.argv[2])
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""What a service manager does before it starts the daemon."""


def test_an_inherited_socket_is_served_in_the_style_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "inherited"
    prefix = [sys.executable, "-c", ACTIVATE, str(path), "nsfwd-oneshot"]
    with Daemon(tmp_path / "d", prefix=prefix) as daemon:
        with raw_connect(path) as connection:
            connection.sendall(b"/nowhere\n")
            assert json.loads(read_all(connection))["/nowhere"] == {"error": "not_found"}
        assert f"unix:{path} (style oneshot" in daemon.stderr
    assert path.exists(), "the service manager removes its sockets itself"


def accepted(address: Address) -> socket.socket:
    """A connection that the daemon has taken: those closed a moment ago may still count against its limit."""
    found: list[socket.socket] = []

    def attempt() -> bool:
        connection = raw_connect(address)
        with contextlib.suppress(OSError):
            connection.sendall(spell({"op": "ping"}))
            if b'"op":"ping"' in connection.recv(1000):
                found.append(connection)
                return True
        connection.close()
        return False

    wait_until(attempt)
    return found[0]


def test_connections_over_the_limit_are_told_so(tmp_path: Path) -> None:
    with Daemon(tmp_path, flags=["--max-connections", "2"]) as daemon:
        with accepted(daemon.tcp), accepted(daemon.tcp), raw_connect(daemon.tcp) as third:
            assert json.loads(read_all(third))["error"]["code"] == "busy"
            assert ask(daemon.unix, {"op": "ping"})["status"] == "ok", "an admin has a place of its own"
        wait_until(lambda: ask(daemon.unix, {"op": "stats"}).get("server", {}).get("connections_refused_total", 0) >= 1)


def test_a_half_closed_client_that_waits_costs_no_time(daemon: Daemon, gallery: Path) -> None:
    [engine] = [pid for pid, command in daemon.processes().items() if "nsfwd.engines.engine_process" in command]
    os.kill(engine, signal.SIGSTOP)
    try:
        with raw_connect(daemon.tcp) as connection:
            connection.sendall(spell({"id": 1, "path": str(gallery / "photo.jpg")}))
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.2)
            before = cpu_seconds(daemon.pid)
            time.sleep(1.0)
            spent = cpu_seconds(daemon.pid) - before
            os.kill(engine, signal.SIGCONT)
            assert json.loads(read_all(connection))["status"] == "ok"
    finally:
        os.kill(engine, signal.SIGCONT)
    assert spent < 0.1


def test_idle_connections_are_closed(tmp_path: Path) -> None:
    with Daemon(tmp_path, flags=["--idle-timeout", "0.3"]) as daemon, raw_connect(daemon.unix) as connection:
        assert connection.recv(100) == b""


@pytest.mark.parametrize("library", ["numpy", "PIL", "tensorflow", "openvino"])
def test_the_server_process_holds_no_pixels_and_no_framework(daemon: Daemon, library: str) -> None:
    assert f"/{library}/" not in Path(f"/proc/{daemon.pid}/maps").read_text()
    run_client([sys.executable, "-c", f"import nsfwd.server.daemon, sys; sys.exit({library!r} in sys.modules)"])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
