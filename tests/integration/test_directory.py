"""Directories stream: the server's memory does not grow with them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Daemon, Json, ask, ndjson, raw_connect, read_all, spell

FILES = 10_000
MIB = 1024 * 1024
GROWTH = 50 * MIB


@pytest.fixture(scope="module")
def crowd(gallery: Path) -> Path:
    """A directory of ten thousand small pictures, all links to a few real ones, with long names."""
    directory = gallery / "crowd"
    directory.mkdir()
    originals = gallery / "originals"
    originals.mkdir()
    for seed in range(10):
        (originals / str(seed)).write_bytes(pictures.encoded(pictures.photo(seed, (64, 48)), "JPEG"))
    for number in range(FILES):
        os.link(originals / str(number % 10), directory / f"{number:05}-{'n' * 60}.jpg")
    return directory


def resident(pid: int) -> int:
    """Bytes of memory a process has resident, at their highest since it began."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_ten_thousand_images_as_lines(daemon: Daemon, crowd: Path) -> None:
    before = resident(daemon.pid)
    with raw_connect(daemon.unix, 120.0) as connection:
        connection.sendall(spell({"id": 1, "path": str(crowd)}))
        connection.shutdown(1)
        lines = [json.loads(line) for line in read_all(connection).splitlines()]
    assert len(lines) == FILES + 1
    done = lines[-1]
    assert (done["done"], done["files"], done["ok"], done["errors"]) == (True, FILES, FILES, 0)
    assert {line["path"] for line in lines[:-1]} == {str(path) for path in crowd.iterdir()}
    assert resident(daemon.pid) - before < GROWTH


def test_ten_thousand_images_in_a_text_session(daemon: Daemon, crowd: Path) -> None:
    before = resident(daemon.pid)
    with raw_connect(daemon.tcp, 120.0) as connection:
        connection.sendall(f"{crowd}\n".encode())
        connection.shutdown(1)
        output = read_all(connection).decode()
    block = json.loads(output[output.index("{") : output.rindex("}") + 1])
    assert len(block) == FILES + 1
    assert block["__time__"] > 0
    assert resident(daemon.pid) - before < GROWTH


def test_a_stopped_lister_is_replaced(tmp_path: Path) -> None:
    """Nobody's request waits for as long as the lister may be silent, and the first one that does is not refused."""
    (tmp_path / "in").mkdir()
    pictures.write_photos(tmp_path / "in", 1)
    with Daemon(tmp_path / "daemon", root=tmp_path, flags=["--decode-timeout", "1"]) as daemon:
        request: Json = {"id": 1, "path": str(tmp_path / "in")}
        (lister,) = [pid for pid, command in daemon.processes().items() if "imaging.lister" in command]
        os.kill(lister, signal.SIGSTOP)
        answers = [ask(daemon.unix, {**request, "deadline": 0.1})["error"]["code"] for _ in range(2)]
        assert answers == ["deadline"] * 2
        with raw_connect(daemon.unix) as connection:
            assert [reply["status"] for reply in ndjson(connection, [request])] == ["ok", "done"]
        assert lister not in daemon.processes()
