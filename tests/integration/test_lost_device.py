"""A daemon that loses its device, played by the echo engine, or that never had the one it was told to use."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsfwd.engines.echo import MARK, VARIABLE
from tests import pictures
from tests.integration.harness import Daemon, ask, wait_until

LOST = {VARIABLE: "lost"}


@pytest.fixture
def fatal(tmp_path: Path) -> dict[str, str]:
    """A request for the picture that loses the device."""
    (tmp_path / "marked.png").write_bytes(pictures.encoded(pictures.solid(MARK)))
    return {"path": str(tmp_path / "marked.png")}


def test_the_engine_is_started_again(tmp_path: Path, fatal: dict[str, str]) -> None:
    """The picture that loses the device does so twice: it is the author, and everybody else is scored."""
    (tmp_path / "sound.png").write_bytes(pictures.encoded(pictures.photo(1)))
    with Daemon(tmp_path / "daemon", environment=LOST) as daemon:
        assert ask(daemon.unix, fatal)["error"]["code"] == "engine_died"
        assert ask(daemon.unix, {"path": str(tmp_path / "sound.png")})["status"] == "ok"
        wait_until(lambda: ask(daemon.unix, {"op": "ready"}).get("ready") is True)
        assert ask(daemon.unix, {"op": "stats"})["engine"]["restarts"] == 2
    assert daemon.stderr.count("the GPU was lost") == 2


def test_a_gpu_that_is_demanded_is_never_a_cpu(tmp_path: Path) -> None:
    """Where no library sees one the daemon is never ready, and ends with the reason."""
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    daemon = Daemon(tmp_path / "daemon", engine="openvino", flags=["--device", "gpu"])
    daemon.start()
    try:
        assert daemon.wait_exit(60.0) == 1
    finally:
        daemon.kill()
    assert "is ready" not in daemon.stderr
    assert "gpu" in daemon.stderr.lower()
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
