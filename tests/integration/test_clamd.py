"""Debian's own clamdscan against a listener of the clamd style."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.client import Client
from tests import pictures
from tests.integration.harness import Daemon, ask, free_port, needs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mail")
    pictures.write_photos(directory, 3)
    for number, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]):
        pictures.solid(colour).save(directory / f"solid-{number}.png")
    (directory / "cut.jpg").write_bytes(pictures.truncated())
    (directory / "notes.txt").write_text("no picture " * 100)
    return directory


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[dict[str, Path]]:
    """clamd.conf files for clamdscan: one names the Unix socket, the other the TCP port; and the daemon's plain one."""
    directory = tmp_path_factory.mktemp("clamd")
    port, socket = free_port(), directory / "clamd.sock"
    listen = [f"unix:{socket},style=clamd", f"tcp:127.0.0.1:{port},style=clamd"]
    with Daemon(directory, root=folder, listen=listen) as daemon:
        assert isinstance(daemon.unix, Path)
        files = {"unix": directory / "unix.conf", "tcp": directory / "tcp.conf", "plain": daemon.unix}
        files["unix"].write_text(f"LocalSocket {socket}\n")
        files["tcp"].write_text(f"TCPSocket {port}\nTCPAddr 127.0.0.1\n")
        files["socket"] = socket
        yield files


def _expected(plain: Path, folder: Path) -> dict[str, str]:
    """What the daemon itself says of each file, in clamd's words."""
    said = {}
    with Client(f"unix:{plain}") as client:
        for reply in client.scan_dir(folder):
            found = f"NSFW.{reply.verdict} FOUND" if reply.alarm else "OK"
            said[reply.path] = found if reply.scored else f"{reply.code} ERROR"
    return said


WAYS = {
    "its path over a Unix socket": ("unix", []),
    "its path over TCP": ("tcp", []),
    "all at once": ("unix", ["--multiscan"]),
    "its bytes over a Unix socket": ("unix", ["--stream"]),
    "its bytes over TCP": ("tcp", ["--stream"]),
    "its bytes all at once": ("tcp", ["--stream", "--multiscan"]),
    "its descriptor": ("unix", ["--fdpass"]),
    "its descriptor all at once": ("unix", ["--fdpass", "--multiscan"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_clamdscan(way: str, configuration: dict[str, Path], folder: Path) -> None:
    which, flags = WAYS[way]
    expected = _expected(configuration["plain"], folder)
    assert {"OK", "corrupt ERROR", "not_an_image ERROR"} < set(expected.values())
    assert "NSFW.sensitive FOUND" in expected.values()
    files = sorted(expected)
    done = subprocess.run(
        [needs("clamdscan"), "-c", str(configuration[which]), *flags, *files],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = dict(re.findall(r"^(/.*): (.*)$", done.stdout, re.M))
    assert said == expected, done.stdout + done.stderr
    found = sum(answer.endswith("FOUND") for answer in expected.values())
    assert f"Infected files: {found}\n" in done.stdout
    assert done.returncode in (1, 2)


def test_clamdscan_on_a_directory(configuration: dict[str, Path], folder: Path) -> None:
    done = subprocess.run(
        [needs("clamdscan"), "-c", str(configuration["unix"]), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = dict(re.findall(r"^(/.*): (.*)$", done.stdout, re.M))
    expected = _expected(configuration["plain"], folder)
    assert said == {path: answer for path, answer in expected.items() if answer != "OK"}, done.stdout + done.stderr


def test_clamdscan_asks_for_a_version_and_for_a_sign_of_life(configuration: dict[str, Path]) -> None:
    command = [needs("clamdscan"), "-c", str(configuration["tcp"])]
    assert subprocess.run([*command, "--version"], capture_output=True, check=True).stdout.startswith(b"nsfwd ")
    assert subprocess.run([*command, "--ping", "1"], capture_output=True, check=True).returncode == 0


def test_json_works_on_a_clamd_listener_too(configuration: dict[str, Path]) -> None:
    assert ask(configuration["socket"], {"id": 1, "op": "ping"}) == {"id": 1, "op": "ping", "status": "ok"}
