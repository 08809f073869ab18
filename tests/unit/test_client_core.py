"""The client's half of the protocol, without a socket."""

import json
from pathlib import Path
from typing import Any

import pytest

from nsfwd.client.addresses import Address, candidates, parse
from nsfwd.client.core import ClientCore
from nsfwd.client.inbox import Inbox
from nsfwd.client.results import to_reply
from nsfwd.client.scan_inputs import Options
from nsfwd.errors import AddressError, CodedError, ConnectionLost, NsfwdError
from tests.unit.fakedaemon import scored


def _sent(core: ClientCore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in b"".join(core.data_to_send()).splitlines()]


def _line(number: int, **keys: Any) -> bytes:
    return json.dumps({"id": number, **keys}).encode() + b"\n"


def test_a_path_becomes_one_line_and_its_reply_ends_it() -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_path(inbox, "/a.jpg", Options())
    assert _sent(core) == [{"id": 1, "path": "/a.jpg"}]
    core.receive_data(_line(1, **scored("/a.jpg")))
    assert inbox.pending == core.in_flight == 0
    reply = inbox.only_reply()
    assert (reply.path, reply.verdict, reply.alarm, reply.scores["nsfw"]["neutral"]) == ("/a.jpg", "safe", False, 0.93)


def test_replies_are_matched_by_id_whatever_their_order_and_their_cuts() -> None:
    core = ClientCore()
    inboxes = [Inbox() for _ in range(3)]
    for number, inbox in enumerate(inboxes):
        core.scan_path(inbox, f"/{number}", Options())
    stream = b"".join(_line(number + 1, **scored(f"/{number}")) for number in (2, 0, 1))
    for index in range(len(stream)):
        core.receive_data(stream[index : index + 1])
    assert [inbox.only_reply().path for inbox in inboxes] == ["/0", "/1", "/2"]


@pytest.mark.parametrize("path", ["/caf\u00e9//", "/cafe\u0301", "caf\u00e9", "/elsewhere", "/caf\u00e9s"])
def test_a_reply_ends_its_request_however_its_path_is_written(path: str) -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_path(inbox, "/caf\u00e9//", Options())
    core.receive_data(_line(1, **scored(path)))
    assert not inbox.pending and inbox.only_reply().scored


@pytest.mark.parametrize("directory", ["/", "/in", "/in/", "/in//"])
def test_a_directory_goes_on_until_it_is_done(directory: str) -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_path(inbox, directory, Options())
    for name in ("a.jpg", "b/c.jpg"):
        core.receive_data(_line(1, **scored(f"{directory.rstrip('/')}/{name}")))
        assert inbox.pending
    ended = {"status": "done", "done": True, "files": 2, "ok": 2, "errors": 0, "skipped": 0, "verdicts": {}}
    core.receive_data(_line(1, path=directory, **ended))
    assert not inbox.pending and len(inbox.replies) == 2


def test_greeting_prompts_and_blank_lines_are_passed_over() -> None:
    core, inbox = ClientCore(), Inbox()
    core.operation(inbox, "ping")
    core.receive_data(b"\n\nWelcome! Enter image path to scan\n# Path: \n" + _line(1, op="ping", status="ok", x=1))
    assert inbox.only_answer() == {"x": 1}


def test_options_become_keys_only_where_they_are_set() -> None:
    core = ClientCore()
    core.scan_path(Inbox(), "/a", Options(lane="background", deadline=2.5, identity=True), recursive=True)
    core.scan_path(Inbox(), "/b", Options())
    assert _sent(core) == [
        {"id": 1, "recursive": True, "path": "/a", "lane": "background", "deadline": 2.5, "identity": True},
        {"id": 2, "path": "/b"},
    ]


def test_a_name_that_is_no_utf8_goes_as_bytes_and_comes_back_as_it_was() -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_path(inbox, b"/\xe9.jpg", Options())
    assert _sent(core) == [{"id": 1, "path_bytes": "L+kuanBn"}]
    core.receive_data(_line(1, **scored("/\ufffd.jpg"), path_bytes="L+kuanBn"))
    assert inbox.only_reply().path == "/\udce9.jpg"


def test_image_bytes_follow_their_line() -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_bytes(inbox, b"\x89PNG", Options())
    core.scan_bytes(inbox, b"", Options())
    assert b"".join(core.data_to_send()) == b'{"id":1,"bytes":4}\n\x89PNG{"id":2,"bytes":0}\n'
    core.receive_data(_line(1, status="ok", verdict="safe") + _line(2, status="error", error={"code": "empty"}))
    assert [reply.code for reply in inbox.replies] == ["", "empty"]


def test_a_path_that_is_a_directory_ends_with_its_done_line() -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_path(inbox, "/in", Options())
    core.receive_data(_line(1, **scored("/in/a")) + _line(1, path="/in/b", status="error", error={"code": "corrupt"}))
    assert inbox.pending == 1
    core.receive_data(_line(1, path="/in", status="done", done=True, files=2, ok=1, errors=1))
    assert inbox.pending == 0
    assert inbox.done is not None
    assert (inbox.done.files, inbox.done.errors, len(inbox.replies)) == (2, 1, 2)
    with pytest.raises(NsfwdError, match="/in is a directory"):
        inbox.only_reply()


def test_a_series_over_one_file_waits_for_done() -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_path(inbox, "/a", Options(), recursive=True)
    core.receive_data(_line(1, **scored("/a")))
    assert inbox.pending == 1
    core.receive_data(_line(1, path="/a", status="done", done=True, files=1))
    assert (inbox.pending, len(inbox.replies)) == (0, 1)


@pytest.mark.parametrize("path", [{}, {"path": "/in"}])
def test_a_series_turned_down_as_a_whole_has_ended(path: dict[str, str]) -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_path(inbox, "/in", Options(), recursive=True)
    core.receive_data(_line(1, **path, status="error", error={"code": "unsupported"}))
    core.receive_data(_line(1, path="/in", status="done", done=True))
    assert (inbox.pending, [reply.code for reply in inbox.replies]) == (0, ["unsupported"])


def test_a_directory_cut_short_says_so_in_its_last_reply() -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_path(inbox, "/in", Options(), recursive=True)
    error = {"code": "too_many_entries", "message": "too many", "retry": False}
    core.receive_data(_line(1, path="/in", status="done", done=True, files=0, error=error))
    (reply,) = inbox.replies
    assert (reply.path, reply.status, reply.code, reply.scored) == ("/in", "error", "too_many_entries", False)


def test_what_a_caller_left_behind_is_cancelled_and_dropped() -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_path(inbox, "/in", Options(), recursive=True)
    core.receive_data(_line(1, **scored("/in/a")))
    core.data_to_send()
    core.abandon(inbox)
    assert _sent(core) == [{"id": 2, "op": "cancel", "target": 1}]
    core.receive_data(_line(1, **scored("/in/b")) + _line(2, op="cancel", status="ok"))
    core.receive_data(_line(1, path="/in", status="done", done=True))
    assert (len(inbox.replies), core.in_flight) == (0, 0)


def test_the_window_is_full_at_64() -> None:
    core = ClientCore()
    for _ in range(64):
        assert not core.full
        core.scan_path(Inbox(), "/a", Options())
    assert core.full


def test_replies_to_nobody_do_no_harm_and_a_complaint_is_kept() -> None:
    core = ClientCore()
    core.receive_data(_line(99, status="ok") + b'{"id": [1], "status": "ok"}\n{"id": true}\n')
    core.receive_data(b'{"id":null,"status":"refused","error":{"code":"busy","message":"too many connections"}}\n')
    assert core.complaint == "too many connections"


@pytest.mark.parametrize("data", [b"{not json}\n", b'{"id": "\xff"}\n', b"x" * (17 * 1024 * 1024)])
def test_a_peer_that_is_no_nsfwd(data: bytes) -> None:
    with pytest.raises(ConnectionLost, match="not nsfwd"):
        ClientCore().receive_data(data)


def test_an_operation_turned_down_raises_its_code() -> None:
    core, inbox = ClientCore(), Inbox()
    core.operation(inbox, "reload")
    core.receive_data(_line(1, op="reload", status="error", error={"code": "not_permitted", "message": "no"}))
    with pytest.raises(CodedError) as caught:
        inbox.only_answer()
    assert caught.value.code == "not_permitted"


def test_an_error_never_has_a_verdict() -> None:
    reply = to_reply({"path": "/a", "status": "error", "verdict": "safe", "alarm": True, "error": {"code": "corrupt"}})
    assert (reply.scored, reply.verdict, reply.alarm, reply.code) == (False, "", False, "corrupt")
    with pytest.raises(CodedError, match="corrupt"):
        reply.raise_for_status()


def test_a_request_turned_down_without_its_path_keeps_it() -> None:
    core, inbox = ClientCore(), Inbox()
    core.scan_path(inbox, "relative", Options())
    core.receive_data(_line(1, status="error", error={"code": "relative_path"}))
    assert inbox.only_reply().path == "relative"


def test_a_code_of_a_newer_daemon_is_an_error_all_the_same() -> None:
    reply = to_reply({"status": "error", "error": {"code": "eclipse", "message": "dark"}})
    with pytest.raises(CodedError, match="eclipse: dark"):
        reply.raise_for_status()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp:127.0.0.1:1235", Address("127.0.0.1", 1235)),
        ("localhost:99", Address("localhost", 99)),
        (":99", Address("127.0.0.1", 99)),
        ("tcp:[::1]:1235", Address("::1", 1235)),
        ("unix:/run/x.sock", Address(path="/run/x.sock")),
        ("unix:x.sock", Address(path="x.sock")),
        (".run/nsfwd.sock", Address(path=".run/nsfwd.sock")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize("text", ["", "unix:", "tcp:host", "host:port", "host:70000"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError, match="invalid address"):
        parse(text)


def test_whoever_names_a_daemon_gets_no_other() -> None:
    environ = {"NSFWD_CONNECT": "unix:/b"}
    assert candidates("unix:/a", environ) == [Address(path="/a")]
    assert candidates(None, environ) == [Address(path="/b")]


def test_the_usual_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = candidates(None, {"XDG_RUNTIME_DIR": "/run/user/7"})
    assert [str(place) for place in places] == [
        "unix:/run/nsfwd/nsfwd.sock",
        "unix:/run/user/7/nsfwd.sock",
        "tcp:127.0.0.1:1235",
    ]
    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "nsfwd.sock").touch()
    assert str(candidates(None, {})[1]) == "unix:.run/nsfwd.sock"
