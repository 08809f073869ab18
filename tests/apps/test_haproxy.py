"""A daemon behind HAProxy: its health check works, and every request is answered through the proxy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pictures
from tests.apps.programs import program
from tests.integration.harness import Daemon, ask, free_port, wait_until

CONFIGURATION = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m

frontend images
    bind 127.0.0.1:{port}
    default_backend daemons

backend daemons
    option tcp-check
    tcp-check connect
    tcp-check send '{{"op":"ready"}}'\\n
    tcp-check expect string '"ready":true'
    server stopped 127.0.0.1:{stopped} check inter 200ms
    server running 127.0.0.1:{running} check inter 200ms
"""


@pytest.fixture
def proxy(tmp_path: Path, daemon: Daemon) -> Iterator[int]:
    """The port of a proxy in front of one daemon that runs and one that does not."""
    assert isinstance(daemon.tcp, tuple)
    port = free_port()
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(CONFIGURATION.format(port=port, stopped=free_port(), running=daemon.tcp[1]))
    with subprocess.Popen([program("haproxy"), "-db", "-f", configuration]) as process:
        try:
            yield port
        finally:
            process.terminate()


def test_every_request_is_answered_by_the_daemon_that_is_ready(daemon: Daemon, proxy: int, gallery: Path) -> None:
    def answered() -> bool:
        try:
            return ask(("127.0.0.1", proxy), {"op": "ready"}).get("ready") is True
        except (OSError, EOFError):  # not listening yet, or the daemon that is stopped was not yet found to be
            return False

    wait_until(answered)
    for number in range(50):
        path = gallery / f"{number}.jpg"
        path.write_bytes(pictures.encoded(pictures.photo(number), "JPEG"))
        assert ask(("127.0.0.1", proxy), {"path": str(path)})["status"] == "ok"
