from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwd.errors import CodedError, Status
from nsfwd.escaping import escape_wire
from nsfwd.protocol import jsonio, replies, wire
from nsfwd.protocol.messages import Dialect, Image, Lane, Operation, Outcome, Scan, Tally
from nsfwd.protocol.text import Block
from tests.unit.conversation import IDENTITY, TIME, outcome


def parse(**message: Any) -> wire.Parsed:
    return wire.parse(json.dumps(message).encode())


def code(line: bytes) -> str:
    error = wire.parse(line).error
    assert error is not None
    return error.code


def test_one_path() -> None:
    parsed = parse(id=7, path="/data/ä.jpg")
    path = "/data/ä.jpg".encode()
    assert (parsed.error, parsed.ask) == (None, Scan(7, Dialect.NDJSON, (Image(path),)))
    assert parsed.path == path


@pytest.mark.parametrize("id", [7, True, 2**53, "x", "x" * 200, None, [], 1.5])
@pytest.mark.parametrize("path", ["/data/ä.jpg", "", "a", "/a\0b", "/" + "x" * 5000, 5, None, {}])
def test_the_plainest_request_is_read_like_any_other(id: Any, path: Any) -> None:
    plain, other = parse(id=id, path=path), parse(id=id, path=path, identity=False)
    assert repr(plain) == repr(other)


def test_every_key_of_a_scan() -> None:
    parsed = parse(id="x", path="/d", recursive=True, lane="background", deadline=2, identity=True)
    images = (Image(b"/d"),)
    assert parsed.ask == Scan("x", Dialect.NDJSON, images, True, True, Lane.BACKGROUND, 2.0, True)


def test_several_paths_are_a_series() -> None:
    asked = parse(paths=["/a", "/b", "/c"]).ask
    assert isinstance(asked, Scan) and asked.many
    assert [*asked.images] == [Image(b"/a"), Image(b"/b"), Image(b"/c")]
    assert len(asked.images) == 3


def test_a_path_of_bytes() -> None:
    assert parse(path_bytes=base64.b64encode(b"/\xff\n").decode()).ask == Scan(
        None, Dialect.NDJSON, (Image(b"/\xff\n"),)
    )


def test_images_as_bytes() -> None:
    assert parse(data="aGVsbG8=").data == b"hello"
    assert parse(bytes=5).body == 5
    assert parse(bytes=5).ask == parse(data="aGVsbG8=").ask == Scan(None, Dialect.NDJSON, (Image(None, None),))


def test_operations() -> None:
    assert parse(op="ping", id=1).ask == Operation(1, Dialect.NDJSON, "ping")
    assert parse(op="cancel", id=8, target="7").ask == Operation(8, Dialect.NDJSON, "cancel", "7")


BAD_REQUESTS: list[dict[str, Any]] = [
    {},
    {"id": 1},
    {"path": "/a", "paths": ["/b"]},
    {"path": "/a", "op": "ping"},
    {"path": 1},
    {"path": None},
    {"paths": []},
    {"paths": "/a"},
    {"paths": ["/a", 1]},
    {"path_bytes": "***"},
    {"path_bytes": "/w"},
    {"data": "not base64!"},
    {"data": "ä"},
    {"bytes": -1},
    {"bytes": True},
    {"bytes": 1.0},
    {"bytes": 1, "recursive": True},
    {"path": "/a", "recursive": 1},
    {"path": "/a", "lane": "fast"},
    {"path": "/a", "lane": ["normal"]},
    {"path": "/a", "deadline": 0},
    {"path": "/a", "deadline": -1},
    {"path": "/a", "deadline": True},
    {"path": "/a", "deadline": "1"},
    {"path": "/a", "deadline": 86401},
    {"path": "/a", "identity": "yes"},
    {"path": "/a", "id": True},
    {"path": "/a", "id": None},
    {"path": "/a", "id": 1.5},
    {"path": "/a", "id": 2**53},
    {"path": "/a", "id": "ä" * 65},
    {"path": "/a", "target": 1},
    {"op": 1},
    {"op": ["ping"]},
    {"op": "ping", "target": 1},
    {"op": "cancel"},
    {"op": "cancel", "target": None},
]


@pytest.mark.parametrize("message", BAD_REQUESTS, ids=json.dumps)
def test_bad_requests(message: dict[str, Any]) -> None:
    assert code(json.dumps(message).encode()) == "bad_request"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "bad_json"),
        (b"{}}", "bad_json"),
        (b'{"deadline": NaN}', "bad_json"),
        (b'{"path": "/\\ud800"}', "bad_json"),
        (b"{" + b'"a":[' * 100_000, "bad_json"),
        (b'{"path": "/\xff"}', "bad_utf8"),
        (b'{"path": "/a", "colour": 1}', "unknown_key"),
        (b'{"path": "/a", "\\u001b": 1}', "unknown_key"),
        (b'{"path": "a"}', "relative_path"),
        (b'{"paths": ["/a", "b"]}', "relative_path"),
        (b'{"path": ""}', "bad_path"),
        (b'{"path": "/\\u0000"}', "bad_path"),
        (b'{"path": "/' + b"a" * 4095 + b'"}', "bad_path"),
        (b'{"op": "shutdown"}', "unknown_op"),
        (b'{"fd": false}', "bad_request"),
        (b'{"fd": true, "path": "/a"}', "bad_request"),
        (b'{"fd": true, "name": ""}', "bad_request"),
        (b'{"fd": true, "recursive": true}', "bad_request"),
        (b'{"path": "/a", "models": ["x"]}', "unsupported"),
        (b'{"path": "/a", "frames": "all"}', "bad_request"),
        (b'{"path": "/a", "frames": 0}', "bad_request"),
        (b'{"path": "/a", "frames": 1001}', "bad_request"),
        (b'{"path": "/a", "frames": true}', "bad_request"),
        (b'{"path": "/a", "boxes": true}', "unsupported"),
        (b'{"path": "/a", "name": "x"}', "bad_request"),
    ],
)
@pytest.mark.parametrize("library", ["orjson", "json"])
def test_other_errors(line: bytes, expected: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "json":
        monkeypatch.setattr(jsonio, "_loads", jsonio._stdlib_loads)
    assert code(line) == expected


def test_the_longest_path_and_ids_pass() -> None:
    assert parse(path="/" + "a" * 4094).error is None
    for request in (2**53 - 1, -(2**53) + 1, "ä" * 64, ""):
        assert parse(path="/a", id=request).id == request


def test_a_bad_line_still_tells_of_its_body_id_and_operation() -> None:
    parsed = parse(id=7, bytes=12, colour=1)
    assert (parsed.id, parsed.body) == (7, 12)
    assert parse(id=[], bytes=12).body == 12
    assert parse(id=7, op="shutdown").op == "shutdown"


def test_a_bad_line_names_its_path_unless_it_asked_for_a_series() -> None:
    assert parse(path="a/b").path == b"a/b"
    assert parse(path="a/b", recursive=True).path is None
    assert parse(path="a" * 5000).path is None


def test_spelled_outcome() -> None:
    line = replies.outcome_line(7, outcome(b"/data/in/a.jpg"))
    assert line.endswith(b"}\n")
    reply = json.loads(line)
    assert " ".join(reply) == (
        "id path status verdict alarm label score scores groups verdicts because model policy time"
    )
    assert list(reply["scores"]["nsfw"]) == ["drawings", "hentai", "neutral", "porn", "sexy"]
    assert list(reply["time"]) == ["queue", "decode", "wait", "infer", "total"]
    assert reply["because"] == {"model": "nsfw", "group": "sensitive", "score": 0.06, "threshold": 0.5}


def test_identity_is_spelled_when_there_is_one() -> None:
    reply = json.loads(replies.outcome_line("x", outcome(b"/a", identity=True)))
    assert reply["file"]["sha256"] == IDENTITY.sha256
    assert list(reply["file"]) == ["dev", "ino", "size", "mtime_ns", "ctime_ns", "sha256"]


@pytest.mark.parametrize("answer", ["corrupt", "too_large", "busy"])
def test_an_error_cannot_look_like_a_verdict(answer: str) -> None:
    reply = json.loads(replies.outcome_line(None, outcome(b"/a", answer)))
    assert reply["status"] != "ok"
    assert not reply.keys() & {"scores", "groups", "verdict", "verdicts", "label", "score", "alarm", "id"}
    assert list(reply["error"]) == ["code", "message", "retry"]
    assert ("retry_after" in reply) == (answer == "busy")


def test_names_that_are_not_utf8() -> None:
    reply = json.loads(replies.outcome_line(1, outcome(b"/b\xe9.jpg")))
    assert (reply["path"], base64.b64decode(reply["path_bytes"])) == ("/b\\xe9.jpg", b"/b\xe9.jpg")


def test_bytes_have_no_path() -> None:
    assert "path" not in json.loads(replies.outcome_line(1, outcome(None)))


def test_spelled_done() -> None:
    tally = Tally()
    for answer in ("safe", "sensitive", "safe", "corrupt", "too_large", "busy"):
        tally.add(outcome(b"/a", answer))
    reply = json.loads(replies.done_line(7, b"/d/", tally, 1.5))
    verdicts, time = reply.pop("verdicts"), reply.pop("time")
    assert reply == {
        "id": 7, "path": "/d/", "status": "done", "done": True,
        "files": 6, "ok": 3, "errors": 1, "skipped": 1, "refused": 1,
    }  # fmt: skip
    assert (verdicts, time["total"]) == ({"safe": 2, "sensitive": 1}, 1.5)


def test_a_series_cut_short_does_not_look_complete() -> None:
    reply = json.loads(replies.done_line(7, b"/d/", Tally(), 1.5, CodedError("deadline")))
    assert (reply["status"], reply["done"], reply["error"]["code"]) == ("error", True, "deadline")


def test_shown_escapes_what_could_steer_a_terminal() -> None:
    assert escape_wire(b"/a\x1b[2J\n\x7f\xff\xc3\xa4") == "/a\\x1b[2J\\x0a\\x7f\\xffä"
    assert escape_wire("\x9b\u202e\u2028".encode()) == "\\u009b\\u202e\\u2028"


def test_no_file_of_a_text_reply_hides_another() -> None:
    names = [b"/d/\xff/a", b"/d/\\xff/a", b"/d/\\\xff/a", b"/d/\xc2\x9b/a", b"/d/\x9b/a", b"/d/\\u009b/a"]
    for compact in (False, True):
        block = Block(b"/d", labels=False, compact=compact, colour=False)
        text = b"".join(block.entry(Outcome.failed(name, CodedError("corrupt"), TIME)) for name in names)
        text += block.close(0.0)
        assert len(json.loads(text[text.index(b"{") :])) == len(names) + 1


@pytest.mark.parametrize(
    "value", [{"a": [1, 0.5, "ä", None, True]}, {"a": {"b": {}}}, {"a": 'x\n"\\'}, {"a": [2**64, -(2**80)]}]
)
def test_both_libraries_write_the_same(value: object) -> None:
    assert jsonio.dumps(value) == jsonio._stdlib_dumps(value)
    assert jsonio.dumps_indented(value) == jsonio._stdlib_dumps_indented(value)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*wire.KEYS, "other"]), json_values, max_size=5))
def test_no_object_raises_and_each_has_one_answer(message: dict[str, Any]) -> None:
    parsed = wire.parse(json.dumps(message).encode("utf-8", "surrogatepass"))
    assert (parsed.ask is None) != (parsed.error is None)


@given(st.binary(max_size=60))
def test_no_bytes_raise(line: bytes) -> None:
    wire.parse(b"{" + line)


@given(st.binary(min_size=1, max_size=40))
def test_any_name_can_be_spelled(name: bytes) -> None:
    reply = json.loads(replies.outcome_line(None, Outcome(name, Status.ERROR, replace(TIME), code="corrupt")))
    given_back = base64.b64decode(reply["path_bytes"]) if "path_bytes" in reply else reply["path"].encode()
    assert given_back == name
