"""``nsfwd scan`` when things go wrong underneath it: a daemon that is restarted, files that vanish or change."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Daemon, wait_until

SCAN = [sys.executable, "-m", "nsfwd.cli.main", "scan"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred pictures, in two directories."""
    directory = tmp_path_factory.mktemp("many")
    (directory / "below").mkdir()
    for number, source in enumerate(pictures.write_photos(directory, 10) * 60):
        shutil.copy(source, directory / ("below" if number % 2 else ".") / f"copy-{number}.jpg")
    return directory


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_restart_in_the_middle_loses_and_doubles_nothing(many: Path, tmp_path: Path, sign: int) -> None:
    first = Daemon(tmp_path / "daemon", root=many)
    first.start()
    try:
        first.wait_ready()
        # patient: on a slow machine the next daemon may not be there within ten seconds
        command = [*SCAN, "--wait", "-r", "--format", "ndjson", "--connect", f"unix:{first.unix}", str(many)]
        with (tmp_path / "out").open("wb") as out:
            scan = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)
        wait_until(lambda: (tmp_path / "out").stat().st_size > 0)
        first.stop() if sign == signal.SIGTERM else first.kill()
    finally:
        first.kill()
    with Daemon(tmp_path / "daemon", root=many):
        _, said = scan.communicate(timeout=60)
    replies = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert (scan.returncode in (0, 1), {reply["status"] for reply in replies}) == (True, {"ok"}), said
    assert Counter(reply["path"] for reply in replies) == Counter(str(path) for path in many.rglob("*.jpg"))


@pytest.fixture(scope="module")
def connect(tmp_path_factory: pytest.TempPathFactory, many: Path) -> Iterator[list[str]]:
    with Daemon(tmp_path_factory.mktemp("daemon"), root=many) as daemon:
        yield ["--connect", f"unix:{daemon.unix}"]


def test_files_that_vanish_or_change_while_the_scan_runs(connect: list[str], many: Path, tmp_path: Path) -> None:
    """They are named before they are gone: what is left of each is an error, and no verdict."""
    going = many / "going"
    going.mkdir()
    photo = pictures.encoded(pictures.photo(1), "JPEG")
    names = [going / f"{number}.jpg" for number in range(4)]
    for name in names:
        name.write_bytes(photo)
    process = subprocess.Popen(
        [*SCAN, *connect, "--format", "ndjson", "--files-from", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    names[0].unlink()
    names[1].write_bytes(photo[: len(photo) // 2])
    names[2].unlink()
    names[2].mkdir()
    process.stdin.write(b"".join(bytes(name) + b"\n" for name in names))
    process.stdin.close()
    replies = {reply["path"]: reply for reply in map(json.loads, process.stdout.read().splitlines())}
    shutil.rmtree(going)
    assert process.wait(60) == 2
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as said:
        assert b"Traceback" not in said.read()
    codes = {Path(path).name: reply.get("error", {}).get("code", "ok") for path, reply in replies.items()}
    assert codes == {"0.jpg": "not_found", "1.jpg": "corrupt", "3.jpg": "ok"}


def test_a_daemon_that_drains_and_does_not_come_back(many: Path, tmp_path: Path) -> None:
    with Daemon(tmp_path / "daemon", root=many) as daemon:
        pass
    done = subprocess.run([*SCAN, "--connect", f"unix:{daemon.unix}", str(many)], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (69, b"")
    assert done.stderr.startswith(b"nsfwd: no daemon answered; tried unix:")
    assert done.stderr.count(b"\n") == 1
