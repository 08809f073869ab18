"""The table of peers on the real daemon: other users on the Unix socket, other addresses over TCP, and a reload."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Daemon, Json, ask, raw_connect, spell, wait_until

NOBODY, STAFF = 65534, 4242

KEYS = ("connections", "in_flight", "requests", "limited", "denied")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")

CLIENT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(sys.stdin.buffer.read())
sock.shutdown(socket.SHUT_WR)
while data := sock.recv(65536):
    sys.stdout.buffer.write(data)
"""


@pytest.fixture(scope="module")
def pictures_of() -> Iterator[Path]:
    """A root that every user may read, with ``mail`` and ``other`` in it. Not below pytest's, which are closed."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        for part in ("mail", "other"):
            (top / part).mkdir()
            (top / part / "photo.jpg").write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
        (top / "mail" / "link.jpg").symlink_to(top / "other" / "photo.jpg")
        yield top


class Site:
    """A daemon whose table of peers stands in a file."""

    def __init__(self, directory: Path, root: Path) -> None:
        self.root = root
        self.file = directory / "nsfwd.toml"
        self.write(
            f'[[peers]]\nname = "staff"\ngid = {STAFF}\nrate = 0.001\n'
            f'[[peers]]\nname = "mail"\nuid = "nobody"\nroots = ["{root}/mail"]\nlane = "background"\n'
            '[[peers]]\nname = "near"\naddress = "127.0.0.2"\nrate = 0.001\nconnections = 2\n'
            '[[peers]]\nname = "far"\naddress = "127.0.0.0/29"\nconnections = 0\n'
        )
        self.daemon = Daemon(
            directory, flags=["--config", str(self.file)], root=root, listen=[f"unix:{root}/sock,mode=0666"]
        )

    def write(self, text: str) -> None:
        self.file.write_text(text, "utf-8")

    def as_nobody(self, *requests: Json, groups: str = "--clear-groups") -> list[Json]:
        """Ask as another user; the replies."""
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", groups]
        given = b"".join(map(spell, requests))
        command = [*become, "/usr/bin/env", "python3", "-c", CLIENT, f"{self.root}/sock"]
        done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=60, cwd="/")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def connect(self, source: str) -> socket.socket:
        """Connect over TCP from this address."""
        assert isinstance(self.daemon.tcp, tuple)
        return socket.create_connection(self.daemon.tcp, 30, source_address=(source, 0))

    def peers(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = ask(self.daemon.unix, {"op": "stats"})["peers"]
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, pictures_of: Path) -> Iterator[Site]:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    site = Site(tmp_path_factory.mktemp("site"), pictures_of)
    with site.daemon:
        yield site


def outcome(reply: Json) -> str:
    return str(reply["error"]["code"] if "error" in reply else reply["status"])


def test_a_peer_with_roots_sees_nothing_beside_them(site: Site) -> None:
    root = site.root
    wanted = {
        f"{root}/mail/photo.jpg": "ok",
        f"{root}/mail/link.jpg": "forbidden",
        f"{root}/other/photo.jpg": "forbidden",
        f"{root}/other/none.jpg": "forbidden",
        f"{root}/other/": "forbidden",
        f"{root}": "forbidden",
        "/etc/passwd": "forbidden",
    }
    for path, code in wanted.items():
        assert outcome(site.as_nobody({"path": path})[-1]) == code, path
    tree = site.as_nobody({"path": f"{root}/mail", "recursive": True})
    codes = {Path(reply["path"]).name: outcome(reply) for reply in tree}
    assert codes == {"photo.jpg": "ok", "link.jpg": "forbidden", "mail": "done"}
    assert [outcome(reply) for reply in site.as_nobody({"path": str(root), "recursive": True})] == ["forbidden", "done"]
    assert outcome(ask(site.daemon.unix, {"path": f"{root}/other/photo.jpg"})) == "ok"


def test_a_supplementary_group_counts_and_the_first_row_wins(site: Site) -> None:
    path = f"{site.root}/other/photo.jpg"
    replies = site.as_nobody({"path": path}, {"path": path}, groups=f"--groups=1,{STAFF}")
    assert sorted(outcome(reply) for reply in replies) == ["busy", "ok"]
    wait_until(lambda: site.peers()["staff"] == dict(zip(KEYS, (0, 0, 2, 1, 0), strict=True)))


def test_an_address_has_its_rate_and_its_number_of_connections(site: Site) -> None:
    photo = str(site.root / "mail" / "photo.jpg")
    with site.connect("127.0.0.2") as first, site.connect("127.0.0.2") as second:
        replies = []
        for number, connection in enumerate((first, second)):
            connection.sendall(spell({"id": number, "path": photo}))
            replies.append(json.loads(connection.makefile().readline()))
        assert [outcome(reply) for reply in replies] == ["ok", "busy"]
        assert replies[1]["retry_after"] > 0
        with site.connect("127.0.0.2") as third:
            assert outcome(json.loads(third.makefile().readline())) == "busy"
    wait_until(lambda: site.peers()["near"] == dict(zip(KEYS, (0, 0, 2, 1, 1), strict=True)))


def test_an_address_that_may_not_ask_is_told_so(site: Site) -> None:
    with site.connect("127.0.0.3") as connection:
        assert outcome(json.loads(connection.makefile().readline())) == "not_permitted"
    assert "127.0.0.3" in site.daemon.stderr
    assert "peers far: the operator does not let this peer ask" in site.daemon.stderr


def test_a_reload_applies_to_who_is_connected_and_who_connects(site: Site) -> None:
    before = site.file.read_text("utf-8")
    photo = str(site.root / "other" / "photo.jpg")
    command = [sys.executable, "-m", "nsfwd.cli.main", "reload", "--connect", f"unix:{site.daemon.unix}"]
    with site.connect("127.0.0.9") as connection:
        lines = connection.makefile()
        connection.sendall(spell({"path": photo}))
        assert outcome(json.loads(lines.readline())) == "ok"
        site.write(f'[[peers]]\nname = "all"\naddress = "127.0.0.0/8"\nroots = ["{site.root}/mail"]\n')
        subprocess.run(command, check=True, capture_output=True)
        connection.sendall(spell({"path": photo}))
        assert outcome(json.loads(lines.readline())) == "forbidden"
    with site.connect("127.0.0.3") as connection:
        connection.sendall(spell({"op": "ping"}))
        assert outcome(json.loads(connection.makefile().readline())) == "ok"
    assert outcome(site.as_nobody({"path": photo})[-1]) == "ok"
    site.write('[[peers]]\nname = "x"\nuid = "no-such-user"\n')
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "row 1 (x): unknown user 'no-such-user'" in refused.stderr
    assert outcome(site.as_nobody({"path": photo})[-1]) == "ok"
    site.write(before)
    subprocess.run(command, check=True, capture_output=True)
    assert outcome(site.as_nobody({"path": photo})[-1]) == "forbidden"
    with raw_connect(site.daemon.unix) as connection:
        connection.sendall(spell({"path": photo}))
        assert outcome(json.loads(connection.makefile().readline())) == "ok"
