"""The clients that are meant to be copied (docs/clients): against a live, a stopped, a stalled and a busy daemon."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import pictures
from tests.integration.harness import REPOSITORY, Daemon, needs
from tests.unit.fakedaemon import FakeDaemon, Request, answer, failed, scored

CLIENTS = REPOSITORY / "docs" / "clients"
SENSITIVE = "hold sensitive"


class Copied:
    """One of the clients, run as its own example is."""

    def __init__(self, name: str) -> None:
        programs = {"Nsfwd.php": ("php",), "nsfwd.mjs": ("node",), "nsfwd.sh": ("bash", "nc.openbsd", "jq")}
        found = [needs(program) for program in programs[name]]
        self._command = [found[0], str(CLIENTS / name)]
        self.takes_bytes = name != "nsfwd.mjs"  # node knows its arguments as UTF-8 alone

    def wrong(self, *arguments: str) -> int:
        """Return the exit code of a wrong call."""
        return subprocess.run([*self._command, *arguments], capture_output=True, timeout=60, check=False).returncode

    def __call__(
        self, address: str, file: Path | str, *, way: str = "path", deadline: int = 10, publish: tuple[str, ...] = ()
    ) -> str:
        arguments: list[str | bytes] = [address, str(deadline), way, os.fsencode(file), *publish]
        command: list[str | bytes] = [*self._command, *arguments]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        said = done.stdout.decode().strip()
        assert done.stderr == b"", done
        expected = 0 if said.startswith("publish ") else 1 if said in (SENSITIVE, "hold review", "hold safe") else 2
        assert done.returncode == expected, done
        return said


@pytest.fixture(scope="module", params=["Nsfwd.php", "nsfwd.mjs", "nsfwd.sh"])
def client(request: pytest.FixtureRequest) -> Copied:
    return Copied(request.param)


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, daemon: Daemon) -> str:
    return f"tcp:127.0.0.1:{daemon.port}" if request.param == "tcp" else f"unix:{daemon.unix}"


@pytest.fixture(scope="module")
def files(gallery: Path) -> dict[str, Path]:
    """What it should come to -> a file. The echo engine's verdicts are known."""
    found = {"photo": gallery / "photo.jpg", "corrupt": gallery / "cut.jpg", "not_an_image": gallery / "notes.txt"}
    found["corrupt"].write_bytes(pictures.truncated())
    found["not_an_image"].write_text("no picture " * 100)
    found["odd"] = gallery / "\u00e9 'o\"dd\n.jpg"
    found["bytes"] = Path(os.fsdecode(os.fsencode(gallery) + b"/\xe9.jpg"))
    for name in ("odd", "bytes"):
        found[name].write_bytes(found["photo"].read_bytes())
    return found


def test_a_live_daemon(client: Copied, address: str, files: dict[str, Path], gallery: Path) -> None:
    verdict = client(address, files["photo"])
    assert verdict.startswith("publish ") or verdict == SENSITIVE
    assert client(address, files["photo"], way="bytes") == verdict
    assert client(address, files["odd"]) == verdict
    if client.takes_bytes:
        assert client(address, files["bytes"]) == verdict
    for way in ("path", "bytes"):
        assert client(address, files["corrupt"], way=way) == "hold corrupt"
        assert client(address, files["not_an_image"], way=way) == "hold not_an_image"
    assert client(address, "/nowhere/at/all.jpg") == "hold forbidden"
    assert client(address, gallery / "none.jpg") == "hold not_found"
    assert client(address, gallery) == "hold is_directory"


def test_no_failure_of_a_call_looks_like_an_alarm(client: Copied, address: str, gallery: Path) -> None:
    assert client(address, gallery / "none.jpg", way="bytes") in ("hold empty", "hold unreadable")
    assert client.wrong() == client.wrong(address) == 64


def test_a_stopped_daemon(client: Copied, tmp_path: Path, files: dict[str, Path]) -> None:
    for way in ("path", "bytes"):
        assert client(f"unix:{tmp_path}/none.sock", files["photo"], way=way) == "hold unreachable"


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[str]:
    """A socket that accepts connections and never says a word."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "stalled.sock"))
        listener.listen()
        yield f"unix:{tmp_path}/stalled.sock"


def test_a_stalled_daemon(client: Copied, stalled: str, files: dict[str, Path], tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(4_000_000))
    with ThreadPoolExecutor() as pool:
        ways = pool.map(
            lambda case: client(stalled, case[0], way=case[1], deadline=1), [(files["photo"], "path"), (large, "bytes")]
        )
        assert set(ways) == {"hold silent"}


def test_a_peer_that_is_no_nsfwd(client: Copied, tmp_path: Path, files: dict[str, Path]) -> None:
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor() as pool:
        listener.bind(str(tmp_path / "other.sock"))
        listener.listen()
        asked = pool.submit(client, f"unix:{tmp_path}/other.sock", files["photo"])
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"hello\n{this is no JSON}\n")
        assert asked.result() == "hold unreachable"


def test_every_tier_but_the_lowest_is_held_unless_it_is_named(client: Copied, tmp_path: Path) -> None:
    def said(verdict: str, *publish: str, alarm: bool = False) -> str:
        reply = scored("") | {"verdict": verdict, "alarm": alarm}
        with FakeDaemon(tmp_path / "t.sock", lambda _: [reply]) as daemon:
            found = client(daemon.address, tmp_path / "a.jpg", way="bytes", publish=publish)
        (tmp_path / "t.sock").unlink()
        return found

    (tmp_path / "a.jpg").write_bytes(b"abc")
    assert said("review") == "hold review"
    assert said("safe") == "publish safe"
    assert said("safe", alarm=True) == "hold safe"
    assert said("review", "safe", "review") == "publish review"
    assert said("safe", "review") == "hold safe"
    assert said("sensitive", "safe", "review", alarm=True) == SENSITIVE


def test_verdicts_refusals_and_errors(client: Copied, tmp_path: Path) -> None:
    """What is refused is asked again when the daemon said; the deadline goes along."""
    seen: list[Request] = []

    def respond(request: Request) -> list[dict[str, Any]]:
        seen.append(request)
        busy = failed("", "refused", "busy") | {"retry_after": 0.01}
        return [busy] if len(seen) == 1 else answer({"path": "/alarm"})

    (tmp_path / "a.jpg").write_bytes(b"abc")
    with FakeDaemon(tmp_path / "d.sock", respond) as daemon:
        assert client(daemon.address, tmp_path / "a.jpg", way="bytes") == SENSITIVE
        assert daemon.bodies == [b"abc", b"abc"]
    assert all(0 < request["deadline"] <= 10 for request in seen)
    always = failed("", "refused", "draining") | {"retry_after": 100}
    with FakeDaemon(tmp_path / "e.sock", lambda _: [always]) as daemon:
        assert client(daemon.address, tmp_path / "a.jpg", way="bytes") == "hold draining"
    late = failed("", "error", "deadline")
    with FakeDaemon(tmp_path / "g.sock", lambda _: [late]) as daemon:
        assert client(daemon.address, tmp_path / "a.jpg", way="bytes") == "hold deadline"
    decided = scored("") | {"verdict": "safe", "override": {"verdict": "safe", "by": "eva", "reason": 'a "statue"'}}
    with FakeDaemon(tmp_path / "h.sock", lambda _: [decided | {"later": [1, None]}]) as daemon:
        assert client(daemon.address, tmp_path / "a.jpg", way="bytes") == "publish safe"
    with FakeDaemon(tmp_path / "f.sock", lambda _: None) as daemon:
        assert client(daemon.address, tmp_path / "a.jpg") == "hold unreachable"
