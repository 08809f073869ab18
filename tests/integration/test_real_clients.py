"""The clients that people really have, against the real daemon: telnet, nc (both), ncat, socat, jq, php."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Conversation, Daemon, Json, needs, replies, run_client

GREETING = b"\n\nWelcome! Enter image path to scan\n# Path: "
PROMPT = b"# Path: "


def frame(path: Path | str, output: bytes) -> Json:
    """The JSON of the text reply for ``path`` at the beginning of ``output``, which must be framed byte for byte."""
    spelled = str(path).encode()
    found = re.match(
        b"> Scanning: %s\n> Result for : %s\n\n(.*?\n})\n\n# Path: " % (re.escape(spelled), re.escape(spelled)),
        output,
        re.DOTALL,
    )
    assert found, output
    content = found.group(1)
    decoded: Json = json.loads(content)
    assert content == json.dumps(decoded, indent=2, ensure_ascii=False).encode(), "indented by two"
    return decoded


def check_scored(reply: Json, path: Path) -> None:
    """The reply must hold the two groups of the policy for ``path``, and the time."""
    assert list(reply) == [str(path), "__time__"]
    groups = reply[str(path)]
    assert list(groups) == ["safe", "sensitive"]
    assert groups["safe"] + groups["sensitive"] == pytest.approx(1, abs=1e-3)
    assert 0 < reply["__time__"] < 30


@pytest.fixture(scope="module")
def photo(gallery: Path) -> Path:
    return gallery / "photo.jpg"


def test_telnet_session(daemon: Daemon, photo: Path) -> None:
    with Conversation([needs("telnet"), "127.0.0.1", str(daemon.port)]) as telnet:
        telnet.expect(re.escape(GREETING))
        telnet.type(f"{photo}\n".encode())
        check_scored(frame(photo, telnet.expect(b".*?\n\n# Path: ").group()), photo)
        telnet.type(b"/nowhere/at/all.jpg\n")
        refused = frame("/nowhere/at/all.jpg", telnet.expect(b".*?\n\n# Path: ").group())
        assert refused["/nowhere/at/all.jpg"] == {"error": "forbidden"}
        telnet.type(b"QUIT\n")
        telnet.ended()


def test_telnet_at_a_terminal_survives_ctrl_c(daemon: Daemon, photo: Path) -> None:
    with Conversation([needs("telnet"), "127.0.0.1", str(daemon.port)], tty=True) as telnet:
        telnet.expect(PROMPT)
        telnet.type(b"/half/of/a/li")
        telnet.type(b"\x03")
        telnet.type(f"{photo}\n".encode())
        found = telnet.expect(b'"__time__": [0-9.e-]+\r*\n}')
        assert b"/half/of/a/li" not in found.group().partition(b"> Scanning: ")[2]
        telnet.expect(PROMPT)


def text_clients(port: int) -> list[list[str]]:
    """Command lines that send stdin, end their half of the connection, and print until the daemon closes."""
    return [
        ["nc.openbsd", "-N", "127.0.0.1", str(port)],
        ["ncat", "127.0.0.1", str(port)],
        ["socat", "-t30", "-", f"TCP:127.0.0.1:{port}"],
    ]


HALF_CLOSING = pytest.mark.parametrize("which", range(3), ids=["nc.openbsd", "ncat", "socat"])


def command(which: int, daemon: Daemon) -> Sequence[str]:
    """The text client number ``which``, found on this machine."""
    program, *rest = text_clients(daemon.port)[which]
    return [needs(program), *rest]


@HALF_CLOSING
def test_a_piped_path_gets_the_transcript(which: int, daemon: Daemon, photo: Path) -> None:
    output = run_client(command(which, daemon), f"{photo}\n".encode())
    assert output.startswith(GREETING)
    rest = output.removeprefix(GREETING)
    check_scored(frame(photo, rest), photo)
    assert rest.count(PROMPT) == 1


@HALF_CLOSING
def test_a_last_line_without_its_end_and_crlf_lines_are_requests(which: int, daemon: Daemon, photo: Path) -> None:
    output = run_client(command(which, daemon), f"{photo}\r\n{photo}".encode())
    assert output.count(b"> Scanning: %s\n" % str(photo).encode()) == 2
    assert output.count(b'"__time__"') == 2


@HALF_CLOSING
def test_json_gets_neither_greeting_nor_prompt(which: int, daemon: Daemon, photo: Path) -> None:
    request = json.dumps({"id": 1, "path": str(photo)}).encode() + b"\n"
    output = run_client(command(which, daemon), request)
    assert output.endswith(b"}\n") and len(output.splitlines()) == 1
    (reply,) = replies(output)
    assert (reply["id"], reply["path"], reply["status"]) == (1, str(photo), "ok")
    checked = subprocess.run([needs("jq"), "-e", '.status == "ok"'], input=output, capture_output=True, check=False)
    assert checked.returncode == 0, checked


@HALF_CLOSING
def test_a_half_closed_client_gets_every_reply(which: int, daemon: Daemon, photo: Path) -> None:
    requests = b"".join(json.dumps({"id": number, "path": str(photo)}).encode() + b"\n" for number in range(200))
    output = run_client(command(which, daemon), requests)
    assert sorted(reply["id"] for reply in replies(output)) == list(range(200))


def test_traditional_netcat_that_never_closes_its_half(daemon: Daemon, photo: Path) -> None:
    client = [needs("nc.traditional"), "127.0.0.1", str(daemon.port)]
    output = run_client(client, f"{photo}\nquit\n".encode())
    assert output.startswith(GREETING)
    check_scored(frame(photo, output.removeprefix(GREETING)), photo)


def test_socat_over_the_unix_socket_speaks_plainly(daemon: Daemon, photo: Path) -> None:
    client = [needs("socat"), "-t30", "-", f"UNIX-CONNECT:{daemon.unix}"]
    asked_in_json = json.dumps({"path": str(photo)}).encode()
    plain, spelled, pong = (
        replies(run_client(client, line + b"\n"))[0] for line in (str(photo).encode(), asked_in_json, b"ping")
    )
    for reply in (plain, spelled):
        assert reply.pop("time")["total"] > 0
    assert plain == spelled
    assert plain["status"] == "ok"
    assert (pong["op"], pong["status"]) == ("ping", "ok")


def test_socat_with_crlf_both_ways(daemon: Daemon, photo: Path) -> None:
    output = run_client([needs("socat"), "-t30", "-", f"TCP:127.0.0.1:{daemon.port},crnl"], f"{photo}\n".encode())
    assert output.count(b'"__time__"') == 1


OLD_CLIENT = """
$connection = fsockopen("127.0.0.1", (int) $argv[1], $number, $message, 10);
stream_set_timeout($connection, 20);
fwrite($connection, $argv[2]);
$reply = stream_get_contents($connection);
$decoded = json_decode($reply, true);
if ($decoded === null) { fwrite(STDERR, "no JSON: " . $reply); exit(1); }
echo json_encode([$reply, $decoded[$argv[2]]["safe"] + $decoded[$argv[2]]["sensitive"], $decoded["__time__"] > 0]);
"""


def test_an_old_php_client_that_sends_no_line_end(daemon: Daemon, oneshot_port: int, photo: Path) -> None:
    output = run_client([needs("php"), "-r", OLD_CLIENT, "--", str(oneshot_port), str(photo)])
    raw, total, timed = json.loads(output)
    assert raw.count("\n") <= 1 and raw.startswith('{"')
    assert total == pytest.approx(1, abs=1e-3)
    assert timed


def test_oneshot_answers_one_request_and_closes(daemon: Daemon, oneshot_port: int, photo: Path) -> None:
    client = [needs("nc.traditional"), "127.0.0.1", str(oneshot_port)]
    output = run_client(client, f"{photo}\n{photo}\n".encode())
    assert output.count(b'"__time__"') == 1


def test_a_directory_over_netcat(daemon: Daemon, gallery: Path) -> None:
    folder = gallery / "folder"
    folder.mkdir()
    paths = pictures.write_photos(folder, 20)
    (folder / "notes.txt").write_text("no picture " * 100)
    (folder / "broken.jpg").write_bytes(pictures.truncated())
    (folder / ".hidden.jpg").write_bytes(pictures.encoded(pictures.photo(99), "JPEG"))
    (folder / "below").mkdir()
    pictures.write_photos(folder / "below", 1)
    output = run_client([needs("nc.openbsd"), "-N", "127.0.0.1", str(daemon.port)], f"{folder}/\n".encode())
    reply = frame(f"{folder}/", output.removeprefix(GREETING))
    assert reply.pop("__time__") > 0
    assert reply.pop(f"{folder}/notes.txt") == {"skipped": "not_an_image"}
    assert reply.pop(f"{folder}/broken.jpg") == {"error": "corrupt"}
    assert set(reply) == {*map(str, paths), f"{folder}/.hidden.jpg"}
