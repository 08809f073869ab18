"""A daemon that loses its device, played by the echo engine: the end with a reason, or the CPU and a note."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsfwd.engines.echo import MARK, VARIABLE
from tests import pictures
from tests.integration.harness import Daemon, ask, raw_connect, spell, wait_until

LOST = {VARIABLE: "lost"}


@pytest.fixture
def fatal(tmp_path: Path) -> dict[str, str]:
    """A request for the picture that loses the device."""
    (tmp_path / "marked.png").write_bytes(pictures.encoded(pictures.solid(MARK)))
    return {"path": str(tmp_path / "marked.png")}


def test_it_ends_and_says_what_to_set(tmp_path: Path, fatal: dict[str, str]) -> None:
    daemon = Daemon(tmp_path / "daemon", environment=LOST)
    daemon.start()
    try:
        daemon.wait_ready()
        with raw_connect(daemon.unix) as connection:
            connection.sendall(spell(fatal))
            assert daemon.wait_exit() == 1
    finally:
        daemon.kill()
    assert "the GPU was lost" in daemon.stderr
    assert "set on_device_loss = cpu" in daemon.stderr
    assert "Traceback" not in daemon.stderr


def test_it_goes_on_upon_the_cpu_when_told_to(tmp_path: Path, fatal: dict[str, str]) -> None:
    (tmp_path / "sound.png").write_bytes(pictures.encoded(pictures.photo(1)))
    flags = ("--on-device-loss", "cpu")
    with Daemon(tmp_path / "daemon", environment=LOST, flags=flags) as daemon:
        assert ask(daemon.unix, fatal)["error"]["code"] == "engine_died"  # its author, once it is alone
        wait_until(lambda: ask(daemon.unix, {"op": "ready"}).get("ready") is True)
        assert ask(daemon.unix, {"path": str(tmp_path / "sound.png")})["status"] == "ok"
        engine = ask(daemon.unix, {"op": "stats"})["engine"]
        assert "the GPU was lost" in engine["note"]
        assert "running on the CPU" in engine["note"]
