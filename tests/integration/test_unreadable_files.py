"""``nsfwd scan`` and a daemon that has no right to open what its caller may read: and files of another user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Daemon, needs

OWNER = 54321
"""Somebody who is neither root nor the daemon's user; it need not be in any list of users."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that only their owner may read, one of them in a directory that only the owner may list."""
    directory = tmp_path_factory.mktemp("private")
    (directory / "closed").mkdir()
    files = {"a.jpg": pictures.encoded(pictures.photo(1), "JPEG"), "cut.jpg": pictures.truncated()}
    files |= {"closed/b.png": pictures.encoded(pictures.photo(2), "PNG")}
    for name, data in files.items():
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o600)
        os.chown(directory / name, OWNER, OWNER)
    os.chown(directory / "closed", OWNER, OWNER)
    (directory / "closed").chmod(0o700)
    return directory


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Daemon]:
    """Without root's right to read everything: to it these files are another user's."""
    setpriv = needs("setpriv")
    prefix = [setpriv, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    with Daemon(tmp_path_factory.mktemp("daemon"), root=folder, prefix=prefix) as running:
        yield running


def _scan(address: str, *arguments: str | Path) -> tuple[int, dict[str, dict[str, str]]]:
    command = [sys.executable, "-m", "nsfwd.cli.main", "scan", "--format", "ndjson", "--connect", address]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, timeout=60, check=False)
    assert b"Traceback" not in done.stderr
    assert done.stdout.count(b"\n") == len({json.loads(line)["path"] for line in done.stdout.splitlines()})
    return done.returncode, {reply["path"]: reply for reply in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("over", ["unix", "tcp"])
def test_what_only_the_caller_may_read_is_scanned(daemon: Daemon, folder: Path, over: str) -> None:
    address = f"unix:{daemon.unix}" if over == "unix" else f"tcp:127.0.0.1:{daemon.port}"
    picture = folder / "a.jpg"
    assert _scan(address, "--send", "never", picture)[1][str(picture)]["error"]["code"] == "permission"  # type: ignore[index]
    code, replies = _scan(address, "-r", folder, "--deadline", "20")
    assert code in (1, 2)
    said = {str(Path(path).relative_to(folder)): reply["status"] for path, reply in replies.items()}
    assert said == {"a.jpg": "ok", "cut.jpg": "error", "closed/b.png": "ok"}
    assert replies[str(picture)]["scores"] == _scan(address, "--send", "bytes", picture)[1][str(picture)]["scores"]
