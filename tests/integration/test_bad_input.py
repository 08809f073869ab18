"""Every bad input gets its own code, the session lives on, and no stack trace reaches the peer."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Daemon, Json, ask, ndjson, raw_connect, read_all, replies, spell

MIB = 1024 * 1024


def socket_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        # The name may be longer than an address allows: bind relative to its directory.
        here = os.open(path.parent, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def device_file(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make a device")


def holding(content: bytes) -> Callable[[Path], None]:
    """A maker of files with this content."""

    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


def absent(path: Path) -> None:
    """Make nothing."""


BAD_FILES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "missing": (absent, "error", "not_found"),
    "empty": (holding(b""), "error", "empty"),
    "truncated": (holding(pictures.truncated("JPEG")), "error", "corrupt"),
    "truncated-png": (holding(pictures.truncated("PNG")), "error", "corrupt"),
    "bomb": (holding(pictures.bomb()), "skipped", "too_many_pixels"),
    "tiny": (holding(pictures.encoded(pictures.solid((9, 9, 9), (3, 200)))), "skipped", "too_small"),
    "fifo": (os.mkfifo, "error", "fifo"),
    "socket": (socket_file, "error", "socket"),
    "device": (device_file, "error", "device"),
    "link-out": (lambda path: path.symlink_to("/etc/hostname"), "error", "forbidden"),
    "link-loop": (lambda path: path.symlink_to(path), "error", "bad_path"),
    **{name: (holding(content), "skipped", "not_an_image") for name, content in pictures.no_pictures().items()},
}


def check_alive(daemon: Daemon, gallery: Path) -> None:
    """The daemon still scores, and nothing it ever wrote was a stack trace."""
    assert ask(daemon.tcp, {"id": "alive", "path": str(gallery / "photo.jpg")})["status"] == "ok"
    assert "Traceback" not in daemon.stderr


def outcome(reply: Json) -> tuple[str, str]:
    """Status and code of a reply that must not look like a verdict."""
    assert not {"scores", "groups", "verdict", "verdicts", "label", "score"} & set(reply)
    assert "Traceback" not in json.dumps(reply)
    return reply["status"], reply["error"]["code"]


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name: str, daemon: Daemon, gallery: Path) -> None:
    make, status, code = BAD_FILES[name]
    folder = gallery / "bad"
    folder.mkdir(exist_ok=True)
    path = folder / name
    make(path)
    with raw_connect(daemon.tcp) as connection:
        found = ndjson(connection, [{"id": "bad", "path": str(path)}, {"id": "good", "path": f"{gallery}/photo.jpg"}])
    by_id = {reply["id"]: reply for reply in found}
    assert len(found) == len(by_id) == 2
    assert outcome(by_id["bad"]) == (status, code)
    assert by_id["good"]["status"] == "ok"
    with raw_connect(daemon.tcp) as connection:
        connection.sendall(f"{path}\n{gallery}/photo.jpg\n".encode())
        connection.shutdown(socket.SHUT_WR)
        text = read_all(connection).decode()
    assert f'"{path}": {{\n    "{status}": "{code}"\n  }}' in text
    assert text.count('"safe"') == 1 and text.count('"__time__"') == 2
    check_alive(daemon, gallery)


BAD_REQUESTS: dict[str, tuple[bytes, str]] = {
    "outside the roots": (spell({"id": "bad", "path": "/etc/hostname"}), "forbidden"),
    "outside the roots and missing": (spell({"id": "bad", "path": "/no/such/file"}), "forbidden"),
    "dots that lead outside": (b'{"id": "bad", "path": "GALLERY/../../etc/hostname"}\n', "forbidden"),
    "relative path": (spell({"id": "bad", "path": "photo.jpg"}), "relative_path"),
    "empty path": (spell({"id": "bad", "path": ""}), "bad_path"),
    "path with NUL": (spell({"id": "bad", "path": "/a\0b"}), "bad_path"),
    "path beyond PATH_MAX": (spell({"id": "bad", "path": "/a" * 3000}), "bad_path"),
    "unknown key": (spell({"id": "bad", "path": "/x", "pth": 1}), "unknown_key"),
    "wrong type": (spell({"id": "bad", "path": 7}), "bad_request"),
    "wrong type of a flag": (spell({"id": "bad", "path": "/x", "recursive": "yes"}), "bad_request"),
    "two kinds of image": (spell({"id": "bad", "path": "/x", "data": "AAAA"}), "bad_request"),
    "no image": (spell({"id": "bad"}), "bad_request"),
    "negative length": (spell({"id": "bad", "bytes": -1}), "bad_request"),
    "no base64": (spell({"id": "bad", "data": "!!!"}), "bad_request"),
    "unknown operation": (spell({"id": "bad", "op": "shutdown"}), "unknown_op"),
    "key not built yet": (spell({"id": "bad", "path": "/x", "boxes": True}), "unsupported"),
    "operation for admins": (spell({"id": "bad", "op": "reload"}), "not_permitted"),
    "nothing to cancel": (spell({"id": "bad", "op": "cancel", "target": "nobody"}), "no_target"),
    "no picture in data": (spell({"id": "bad", "data": base64.b64encode(b"x" * 999).decode()}), "not_an_image"),
    "no picture in bytes": (spell({"id": "bad", "bytes": 999}) + b"x" * 999, "not_an_image"),
    "over the limit of bytes": (spell({"id": "bad", "bytes": 65 * MIB}) + bytes(65 * MIB), "too_large"),
}

UNREADABLE: dict[str, tuple[bytes, str]] = {
    "invalid JSON": (b'{"id": "bad", "path": \n', "bad_json"),
    "two values on a line": (b'{"id": 1} {"id": 2}\n', "bad_json"),
    "nested without end": (b'{"id": ' + b"[" * 100_000 + b"\n", "bad_json"),
    # No 0xFF here: on this listener it would begin a telnet command.
    "bytes that are not UTF-8": (b'{"id": "bad", "path": "/\xc3("}\n', "bad_utf8"),
    "a line of 10 MB": (b'{"id": "bad", "path": "/' + b"a" * 10 * MIB + b'"}\n', "line_too_long"),
}


@pytest.mark.parametrize("which", BAD_REQUESTS)
def test_bad_request(which: str, daemon: Daemon, gallery: Path) -> None:
    line, code = BAD_REQUESTS[which]
    line = line.replace(b"GALLERY", os.fsencode(gallery))
    with raw_connect(daemon.tcp) as connection:
        found = ndjson(connection, [line, {"id": "good", "path": f"{gallery}/photo.jpg"}])
    by_id = {reply["id"]: reply for reply in found}
    assert len(found) == len(by_id) == 2
    assert outcome(by_id["bad"])[1] == code
    assert by_id["good"]["status"] == "ok"
    check_alive(daemon, gallery)


@pytest.mark.parametrize("which", UNREADABLE)
def test_line_that_cannot_be_read(which: str, daemon: Daemon, gallery: Path) -> None:
    line, code = UNREADABLE[which]
    with raw_connect(daemon.tcp) as connection:
        found = ndjson(connection, [line, {"id": "good", "path": f"{gallery}/photo.jpg"}])
    assert len(found) == 2
    (bad,) = (reply for reply in found if reply.get("id") != "good")
    assert outcome(bad) == ("error", code)
    (good,) = (reply for reply in found if reply.get("id") == "good")
    assert good["status"] == "ok"
    check_alive(daemon, gallery)


def test_text_line_of_10_mb(daemon: Daemon, gallery: Path) -> None:
    with raw_connect(daemon.tcp) as connection:
        connection.sendall(b"/" + b"a" * 10 * MIB + f"\n{gallery}/photo.jpg\n".encode())
        connection.shutdown(socket.SHUT_WR)
        text = read_all(connection)
    assert b'"error": "line_too_long"' in text
    assert text.count(b'"safe"') == 1
    assert len(text) < 10_000
    check_alive(daemon, gallery)


@pytest.mark.parametrize("line", [b"\xff\xfa\x00 \xff\xf0", b"photo.jpg", b"/\xc3\x28.jpg", b"/a\x00b", b"/\x1b[2J"])
def test_odd_text_line(line: bytes, daemon: Daemon, gallery: Path) -> None:
    with raw_connect(daemon.tcp) as connection:
        connection.sendall(line + f"\n{gallery}/photo.jpg\n".encode())
        connection.shutdown(socket.SHUT_WR)
        text = read_all(connection)
    assert text.count(b'"safe"') == 1
    assert b"\x1b" not in text and b"\0" not in text and b"Traceback" not in text
    check_alive(daemon, gallery)


def test_short_body(daemon: Daemon, gallery: Path) -> None:
    with raw_connect(daemon.tcp) as connection:
        (reply,) = ndjson(connection, [spell({"id": "bad", "bytes": 1000}) + b"x" * 10])
    assert outcome(reply) == ("error", "short_body")
    check_alive(daemon, gallery)


def test_disconnect_in_the_body(daemon: Daemon, gallery: Path) -> None:
    for _ in range(20):
        with raw_connect(daemon.tcp) as connection:
            connection.sendall(spell({"id": "bad", "bytes": 10 * MIB}) + bytes(100_000))
    check_alive(daemon, gallery)


def test_http_is_answered_once_and_closed(daemon: Daemon, gallery: Path) -> None:
    with raw_connect(daemon.tcp) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        output = read_all(connection)
    assert output.startswith(b"HTTP/1.") or [outcome(reply) for reply in replies(output)] == [("error", "http")]
    assert output.count(b"\n\nWelcome!") <= 1 and b"> Scanning" not in output
    check_alive(daemon, gallery)


@pytest.fixture
def unprivileged(tmp_path: Path, gallery: Path) -> Iterator[Daemon]:
    """A daemon that file permissions bind, even when root runs the tests."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv can read everything")
        prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
            pytest.skip("this root may not give up capabilities")
    with Daemon(tmp_path / "daemon", root=gallery, prefix=prefix) as running:
        yield running


def test_unreadable_file(unprivileged: Daemon, gallery: Path) -> None:
    path = gallery / "secret.jpg"
    path.write_bytes(pictures.encoded(pictures.photo(5), "JPEG"))
    path.chmod(0)
    assert outcome(ask(unprivileged.tcp, {"path": str(path)})) == ("error", "permission")
    check_alive(unprivileged, gallery)
