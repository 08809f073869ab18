"""Files whose times fit no 64 bits: answered exactly, by a daemon that ends no decoder over them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.client import Client, Options
from tests import pictures
from tests.integration.harness import Daemon, ndjson, raw_connect

SECONDS = [-(10**12), -1, 0, 2**31, 10413792000, 2**34 - 1, 18446744074, 99999999999999, 2**62]
"""The year 2300 fits 64 bits without a sign; from the year 2554 on no file system but one without limits goes."""


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Path]:
    """A directory of a file system that keeps times of any size."""
    place = tmp_path / "endless"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "none", place], check=False).returncode:
        pytest.skip("only root can mount a file system that keeps such times")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_times_of_any_size(tmp_path: Path, endless: Path) -> None:
    content = pictures.encoded(pictures.photo(1), "PNG")
    for number, seconds in enumerate(SECONDS):
        (endless / f"{number}.png").write_bytes(content)
        subprocess.run(["touch", "-d", f"@{seconds}", endless / f"{number}.png"], check=True)
    (endless / "moving.gif").write_bytes(pictures.animation())
    subprocess.run(["touch", "-d", f"@{SECONDS[-1]}", endless / "moving.gif"], check=True)
    with Daemon(tmp_path / "daemon", root=endless, flags=["--cache", "on"]) as daemon:
        names = sorted(path.name for path in endless.iterdir())
        for _ in range(2):  # the second answers come out of the cache, where it believes such times
            asked = [{"id": name, "path": str(endless / name), "identity": True} for name in names]
            with raw_connect(daemon.tcp) as connection:
                lines = ndjson(connection, asked)
            found = {reply["id"]: reply["file"]["mtime_ns"] for reply in lines if reply["status"] == "ok"}
            assert found == {name: (endless / name).stat().st_mtime_ns for name in names}
        with Client(f"unix:{daemon.unix}") as client:
            for name in names:
                reply = client.scan(endless / name, options=Options(identity=True))
                assert reply.file is not None
                assert reply.file["mtime_ns"] == (endless / name).stat().st_mtime_ns
            assert client.stats()["decoders"]["restarts"] == 0
