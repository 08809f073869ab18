from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwd.errors import CodedError
from nsfwd.protocol.events import BodyData, BodyEnd, BodyStart, Handled, OperationRequest, Quit, Rejected, ScanRequest
from nsfwd.protocol.limits import JSON_LINE, TEXT_LINE
from nsfwd.protocol.messages import Dialect, Style
from nsfwd.protocol.session import Session
from tests.unit.conversation import MAX_BYTES, Conversation, outcome

GREETING = b"\n\nWelcome! Enter image path to scan\n# Path: "
PROMPT = b"# Path: "


LINES = (Style.SESSION, Style.PLAIN, Style.ONESHOT)
"""The styles of lines; clamd's has a session of its own."""


def session(style: Style = Style.SESSION, **options: Any) -> Session:
    return Session(style=style, max_bytes=MAX_BYTES, **options)


def pull(session: Session, data: bytes = b"", *, end: bool = False) -> list[Any]:
    session.receive_data(data)
    if end:
        session.receive_eof()
    events = []
    while (event := session.next_event()) is not None:
        if not isinstance(event, Handled):
            events.append(event)
    return events


def replies(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines() if line.startswith(b"{")]


def codes(data: bytes) -> list[str]:
    return [reply["error"]["code"] for reply in replies(data)]


def talk(style: Style, data: bytes, *, end: bool = True) -> bytes:
    conversation = Conversation.of(style)
    conversation.say(data)
    if end:
        conversation.end()
        assert conversation.session.finished
    return conversation.take()


# Greeting and prompts


def test_the_greeting_waits_for_silence() -> None:
    held = session()
    assert held.silence_wanted
    assert held.data_to_send() == b""
    held.receive_silence()
    assert held.data_to_send() == GREETING
    assert not held.silence_wanted


def test_json_gets_neither_greeting_nor_prompt() -> None:
    out = talk(Style.SESSION, b'{"id":1,"path":"/data/photo.jpg"}\n\n{"id":2,"op":"ping"}\n')
    assert [reply["id"] for reply in replies(out)] == [1, 2]
    assert out.startswith(b"{") and PROMPT not in out


def test_one_brace_ends_the_wait() -> None:
    held = session()
    pull(held, b"{")
    assert not held.silence_wanted


def test_prompts_begin_with_the_first_text_line() -> None:
    out = talk(Style.SESSION, b'{"id":1,"op":"ping"}\n/data/photo.jpg\n')
    assert b"Welcome" not in out
    assert out.endswith(b"}\n\n# Path: ")


def test_json_behind_a_prompt_begins_its_own_line_once() -> None:
    out = talk(Style.SESSION, b'\n{"id":1,"op":"ping"}\n{"id":2,"op":"ping"}\n')
    assert out == GREETING + PROMPT + b'\n{"id":1,"op":"ping","status":"ok"}\n{"id":2,"op":"ping","status":"ok"}\n'


def test_nothing_said_is_nothing_answered() -> None:
    for style in LINES:
        assert talk(style, b"") == b""


def test_colours_are_off_until_asked_for() -> None:
    assert b"\x1b[" not in talk(Style.SESSION, b"/data/photo.jpg\n")
    assert b"\x1b[" in talk(Style.SESSION, b"Colour\n/data/photo.jpg\n")
    painted = Conversation.of(Style.SESSION, colour=True)
    painted.silence()
    assert b"\x1b[" in painted.take()


def test_labels_and_groups_choose_the_scores() -> None:
    out = talk(Style.SESSION, b"LABELS\n/data/photo.jpg\n groups \n/data/photo.jpg\n")
    _, labelled, grouped = out.split(b"> Result for ")
    assert b'"drawings"' in labelled and b'"safe"' not in labelled
    assert b'"safe"' in grouped and b'"drawings"' not in grouped


# Order


def test_text_replies_keep_the_order_of_requests() -> None:
    talk = session()
    first, second = pull(talk, b"/a\n/b\n")
    talk.entry(second.turn, outcome(b"/b"))
    before = talk.data_to_send()
    assert b"/b" not in before
    assert talk.held > 0
    talk.entry(first.turn, outcome(b"/a"))
    after = talk.data_to_send()
    assert after.index(b'"/a"') < after.index(b"> Scanning: /b\n") < after.index(b'"/b"')
    assert talk.held == 0


def test_commands_wait_for_the_paths_before_them() -> None:
    talk = session()
    scan, operation = pull(talk, b"/a\nping\n\n")
    talk.operation(operation.turn, {})
    assert b"ping" not in talk.data_to_send()
    talk.entry(scan.turn, outcome(b"/a"))
    assert talk.data_to_send().endswith(b'# Path: {\n  "op": "ping",\n  "status": "ok"\n}\n\n# Path: # Path: ')


def test_json_replies_come_as_they_finish() -> None:
    talk = session()
    first, second = pull(talk, b'{"id":1,"path":"/a"}\n{"id":2,"path":"/b"}\n')
    assert talk.flows(first.turn) and talk.flows(second.turn)
    talk.entry(second.turn, outcome(b"/b"))
    talk.entry(first.turn, outcome(b"/a"))
    assert [reply["id"] for reply in replies(talk.data_to_send())] == [2, 1]


def test_json_waits_for_the_end_of_a_text_block() -> None:
    talk = session()
    text, ndjson = pull(talk, b'/d/\n{"id":1,"path":"/b"}\n')
    talk.become_many(text.turn)
    talk.entry(text.turn, outcome(b"/d/a"))
    talk.data_to_send()
    assert talk.flows(text.turn) and not talk.flows(ndjson.turn)
    talk.entry(ndjson.turn, outcome(b"/b"))
    assert talk.data_to_send() == b""
    talk.done(text.turn, 1.0)
    out = talk.data_to_send()
    assert out.startswith(b',\n  "__time__": 1.0\n}\n\n# Path: \n{"id":1,')


def test_directories_stream() -> None:
    talk = session()
    (event,) = pull(talk, b"/d/\n")
    assert talk.data_to_send() == GREETING + b"> Scanning: /d/\n"
    talk.become_many(event.turn)
    talk.entry(event.turn, outcome(b"/d/a", "too_large"))
    start = talk.data_to_send()
    talk.entry(event.turn, outcome(b"/d/\x1b", "corrupt"))
    middle = talk.data_to_send()
    talk.done(event.turn, 0.5, error=CodedError("deadline"))
    rest = talk.data_to_send()
    block = (start + middle + rest).removeprefix(b"> Result for : /d/\n\n").removesuffix(b"\n\n" + PROMPT)
    assert (
        start
        and middle
        and json.loads(block)
        == {
            "/d/a": {"skipped": "too_large"},
            "/d/\\x1b": {"error": "corrupt"},
            "error": "deadline",
            "__time__": 0.5,
        }
    )


def test_an_empty_directory_is_valid_json() -> None:
    talk = session()
    (event,) = pull(talk, b"/d\n")
    talk.become_many(event.turn)
    talk.done(event.turn, 0.5)
    assert talk.data_to_send().endswith(b'> Result for : /d\n\n{\n  "__time__": 0.5\n}\n\n# Path: ')


def test_memory_of_a_streamed_directory_is_flat() -> None:
    for line in (b"/d/\n", b'{"path":"/d/"}\n'):
        talk = session()
        (event,) = pull(talk, line)
        talk.become_many(event.turn)
        for number in range(2000):
            talk.entry(event.turn, outcome(b"/d/%d" % number))
            assert len(talk.data_to_send()) < 2000
            assert talk.held == 0
        assert event.turn.tally.files == 2000


# Exactly once


def test_a_turn_ends_once() -> None:
    talk = session()
    scan, series, operation = pull(talk, b'{"path":"/a"}\n{"path":"/d","recursive":true}\n{"op":"ping"}\n')
    talk.entry(scan.turn, outcome(b"/a"))
    talk.done(series.turn, 1.0)
    talk.operation(operation.turn, {})
    assert talk.in_flight == 0
    for turn in (scan.turn, series.turn, operation.turn):
        with pytest.raises(ValueError, match="has ended"):
            talk.entry(turn, outcome(b"/a"))
        with pytest.raises(ValueError, match="has ended"):
            talk.fail(turn, CodedError("busy"), 0.0)
        with pytest.raises(ValueError, match="has ended"):
            talk.become_many(turn)


def test_the_wrong_end_is_refused() -> None:
    talk = session()
    scan, operation = pull(talk, b'{"path":"/a"}\n{"op":"ping"}\n')
    with pytest.raises(ValueError, match="not a series"):
        talk.done(scan.turn, 1.0)
    with pytest.raises(ValueError, match="not an operation"):
        talk.operation(scan.turn, {})
    assert talk.in_flight == 2
    assert operation.turn.op == "ping"


def test_a_failed_series_ends_with_its_done_line() -> None:
    talk = session()
    (event,) = pull(talk, b'{"id":3,"path":"/d","recursive":true}\n')
    talk.fail(event.turn, CodedError("busy", retry_after=0.5), 0.25)
    (reply,) = replies(talk.data_to_send())
    assert (reply["status"], reply["done"], reply["files"], reply["retry_after"]) == ("refused", True, 0, 0.5)


# Bodies


def test_bytes_are_streamed_and_never_filtered() -> None:
    body = b"\xff\xf4\n{\xff\xfd\x06"
    for style in LINES:
        talk = session(style)
        events = pull(talk, b'{"id":1,"bytes":%d}\n' % len(body) + body)
        assert [type(event) for event in events] == [BodyStart, BodyData, BodyEnd, ScanRequest]
        assert events[1].data == body
        assert len({event.turn for event in events}) == 1
        assert events[3].scan.images[0].path is None
        assert talk.data_to_send() == b""


def test_base64_comes_as_a_body_too() -> None:
    events = pull(session(), b'{"data":"aGVsbG8="}\n{"data":""}\n')
    assert [type(event) for event in events] == [
        *(BodyStart, BodyData, BodyEnd, ScanRequest),
        *(BodyStart, BodyEnd, ScanRequest),
    ]
    assert (events[0].size, events[1].data) == (5, b"hello")


def test_bytes_over_the_limit_are_dropped_then_answered() -> None:
    talk = session()
    assert pull(talk, b'{"id":1,"bytes":1001}\n' + b"\n" * 1000) == []
    assert talk.data_to_send() == b""
    (event, following) = pull(talk, b'x{"id":2,"path":"/a"}\n')
    assert isinstance(event, Rejected) and isinstance(following, ScanRequest)
    assert replies(talk.data_to_send())[0]["status"] == "skipped"


def test_a_bad_line_with_bytes_stays_in_step() -> None:
    out = talk(Style.PLAIN, b'{"id":1,"bytes":14,"x":1}\n{"id":9,"x":1\n{"id":2,"op":"ping"}\n')
    assert [(reply["id"], reply["status"]) for reply in replies(out)] == [(1, "error"), (2, "ok")]


def test_an_end_inside_the_body() -> None:
    talk = session()
    events = pull(talk, b'{"id":1,"bytes":10}\nhello', end=True)
    assert [type(event) for event in events] == [BodyStart, BodyData, Rejected]
    assert events[2].turn is events[0].turn
    assert codes(talk.data_to_send()) == ["short_body"]
    assert talk.finished


def test_closing_inside_the_body_answers_it() -> None:
    talk = session()
    pull(talk, b'{"id":1,"bytes":10}\nhello')
    talk.close()
    (event,) = pull(talk, b"more")
    assert event.error.code == "draining"
    assert codes(talk.data_to_send()) == ["draining"]
    assert talk.finished


# The end


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("line", [b"/data/photo.jpg", b'{"path":"/data/photo.jpg"}'])
@pytest.mark.parametrize("style", LINES)
def test_an_unfinished_last_line_is_a_request(style: Style, line: bytes, end: bytes) -> None:
    assert b"/data/photo.jpg" in talk(style, line + end)


def test_a_half_closed_peer_gets_every_reply() -> None:
    talk = session()
    first, second = pull(talk, b'{"id":1,"path":"/a"}\n{"id":2,"path":"/b"}', end=True)
    assert not talk.finished
    talk.entry(second.turn, outcome(b"/b"))
    assert not talk.finished
    talk.entry(first.turn, outcome(b"/a"))
    assert talk.finished
    assert len(replies(talk.data_to_send())) == 2


def test_quit_answers_what_was_asked_and_hears_no_more() -> None:
    talk = session()
    scan, quit = pull(talk, b"/a\nQuit\n/b\n")
    assert isinstance(quit, Quit) and not talk.finished
    assert pull(talk, b"/c\n") == []
    talk.entry(scan.turn, outcome(b"/a"))
    assert talk.finished


def test_closing_reads_no_further_request() -> None:
    talk = session()
    talk.receive_data(b'{"path":"/a"}\n{"path":"/b"}\n')
    event = talk.next_event()
    assert isinstance(event, ScanRequest)
    talk.close()
    assert talk.next_event() is None and not talk.finished
    talk.entry(event.turn, outcome(b"/a"))
    assert talk.finished


# Styles


def test_plain_text_is_a_path() -> None:
    for line in (b"/data/photo.jpg", b"/nothing", b"relative", b"/" + b"a" * 5000):
        as_text = talk(Style.PLAIN, line + b"\n")
        as_json = talk(Style.PLAIN, json.dumps({"path": line.decode()}).encode() + b"\n")
        assert replies(as_text)[0]["status"] == replies(as_json)[0]["status"]
        assert as_text == as_json or len(line) > 4096
    assert talk(Style.PLAIN, b"ping\n") == talk(Style.PLAIN, b'{"op":"ping"}\n')
    assert talk(Style.PLAIN, b"\n\r\n") == b""


def test_plain_text_takes_every_byte() -> None:
    (reply,) = replies(talk(Style.PLAIN, b"/data/b\xe9b\xe9.jpg\n/data/\xff\xfb\x01.jpg\n"))[:1]
    assert (reply["path"], reply["status"]) == ("/data/b\\xe9b\\xe9.jpg", "ok")


def test_words_of_the_text_session_in_plain() -> None:
    out = replies(talk(Style.PLAIN, b"help\nlabels\nquit\n/data/photo.jpg\n"))
    assert [(reply["op"], reply["status"]) for reply in out] == [("help", "ok"), ("labels", "error"), ("quit", "ok")]


@pytest.mark.parametrize("line", [b"/data/photo.jpg", b'{"path":"/data/photo.jpg"}', b"ping", b"help", b"", b"x"])
def test_oneshot_answers_one_request_on_one_line_and_closes(line: bytes) -> None:
    conversation = Conversation.of(Style.ONESHOT)
    conversation.say(line + b"\n/data/photo.jpg\nquit\n")
    out = conversation.take()
    assert conversation.session.finished
    assert out.count(b"\n") == 1 and isinstance(json.loads(out), dict)


def test_oneshot_ends_a_request_at_silence() -> None:
    conversation = Conversation.of(Style.ONESHOT)
    assert not conversation.session.silence_wanted
    conversation.say(b"/data/ph")
    conversation.say(b"oto.jpg")
    conversation.silence()
    assert json.loads(conversation.take()) == {"/data/photo.jpg": {"safe": 0.94, "sensitive": 0.06}, "__time__": 0.0131}
    assert conversation.session.finished


def test_oneshot_takes_a_body() -> None:
    conversation = Conversation.of(Style.ONESHOT)
    conversation.say(b'{"bytes":5}\nhel')
    assert not conversation.session.silence_wanted
    conversation.say(b"lo more")
    assert replies(conversation.take())[0]["status"] == "ok"
    assert conversation.session.finished


# Bad input


LONG_URL = b"/" + b"a" * 66_000
BODY = b"/data/in/a.jpg\nping\n" + b'{"path": "/data/in/b.jpg"}\n'
"""What a page makes a browser send: were any line of it executed, files would be scanned for the page."""


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1", b"POST /scan HTTP/1.0", b"OPTIONS * HTTP/2", b"PRI * HTTP/2.0", b"post / http/1.1",
        b"POST " + LONG_URL + b" HTTP/1.1", b"get " + LONG_URL, b"M-SEARCH * HTTP/1.1", b" GET / HTTP/1.1", b"GET /",
        b"DESCRIBE rtsp://x/ RTSP/1.0", b"X" * 70_000 + b" / HTTP/1.1", b"PROXY TCP4 10.0.0.1 10.0.0.2 5 6",
        b"X-Frob / HTTP/1.1", b"GET\t/\tHTTP/1.1", b"Host: localhost", b"content-length:5", b"X-Anything: 1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x80\x2e\x01\x03\x01\x00\x15", b"\x00\x03\x00\x10!\x12\xa4B",
    ],
    ids=lambda line: repr(line[:24]),
)  # fmt: skip
@pytest.mark.parametrize("before", [b"", b"\r\n", b"\n \n\r\n"])
@pytest.mark.parametrize("style", [Style.SESSION, Style.PLAIN])
def test_another_protocol_is_answered_once_and_nothing_of_it_is_executed(
    style: Style, before: bytes, line: bytes
) -> None:
    talk = session(style)
    *blank, event = pull(talk, before + line + b"\r\nHost: x\r\n\r\n" + BODY)
    assert [event.error.code for event in blank] == before.count(b" ") * ["relative_path"]
    assert isinstance(event, Rejected) and event.error.code == "http"
    head, body = talk.data_to_send()[-220:].split(b"HTTP/1.1 400 ")[1].split(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert talk.finished
    assert pull(talk, BODY) == []


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST " + LONG_URL, b"Host: x", b"\x16\x03\x01"])
def test_a_oneshot_listener_answers_another_protocol_too(line: bytes) -> None:
    talk = session(Style.ONESHOT)
    (event,) = pull(talk, line + b"\r\n\r\n" + BODY)
    assert isinstance(event, Rejected) and event.error.code == "http"
    assert talk.data_to_send().startswith(b"HTTP/1.1 400 ")
    assert talk.finished


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"post " + LONG_URL, b"host:x", b"Accept: */*", b"a b RTSP/1.0"])
@pytest.mark.parametrize("before", [b"what is this\n", b"ping\n", b"/data/in/a.jpg\n", b'{"op": "ping"}\n'])
def test_http_in_a_later_line_is_refused_like_a_path_and_ends_the_session(before: bytes, line: bytes) -> None:
    conversation = Conversation.of(Style.PLAIN)
    conversation.say(before + line + b"\r\n" + BODY)
    first, second = replies(conversation.take())
    assert first != second
    assert second["error"]["code"] == "http"
    assert conversation.session.finished
    assert b'"error": "http"' in talk(Style.SESSION, before + line + b"\r\n" + BODY, end=False)


@pytest.mark.parametrize(
    "line",
    [
        b"photo.jpg", b"scan /data/a.jpg", b"C:\\photos\\a.jpg", b"file:///data/a.jpg", b"https://example.org/a.jpg",
        b"my photo.jpg", b"\x1b[A", b"get", b"G\xc3\xa9T / x", b"/GET / HTTP/1.1", b" /data/in/a.jpg",
    ],
)  # fmt: skip
def test_a_slip_of_a_person_does_not_end_the_session(line: bytes) -> None:
    told = talk(Style.PLAIN, line + b"\nping\n")
    assert replies(told)[-1]["op"] == "ping"


@pytest.mark.parametrize("opening", [b"/", b"{"])
def test_a_line_of_10_mb_gets_one_reply_and_the_session_lives(opening: bytes) -> None:
    conversation = Conversation.of(Style.PLAIN)
    conversation.say(opening)
    for _ in range(160):
        conversation.say(b"x" * 65536)
    conversation.say(b"\nping\n")
    first, second = replies(conversation.take())
    assert first["error"]["code"] == "line_too_long"
    assert second["op"] == "ping"


def test_operations_need_permission() -> None:
    events = pull(session(operations=frozenset({"ping"})), b'{"op":"ping"}\n{"op":"stats"}\n{"op":"reload"}\n')
    assert [getattr(event, "error", None) and event.error.code for event in events] == [
        None,
        "not_permitted",
        "not_permitted",
    ]
    (event,) = pull(session(operations=frozenset({"reload"})), b'{"op":"reload"}\n')
    assert isinstance(event, OperationRequest) and event.operation.dialect is Dialect.NDJSON


# Cost


def test_cost_grows_with_bytes_and_not_faster() -> None:
    """Ten times the bytes in one line, in pieces, may cost at most some thirty times as much."""

    def seconds(size: int) -> float:
        best = 1e9
        for _ in range(3):
            talk = session()
            begun = time.perf_counter()
            for _ in range(size // 4096):
                talk.receive_data(b"{" * 4096)
                talk.next_event()
            best = min(best, time.perf_counter() - begun)
        return best

    assert seconds(JSON_LINE - 4096) < 30 * seconds(JSON_LINE // 10)


def test_nothing_is_parsed_ahead() -> None:
    talk = session()
    talk.receive_data(b'{"path":"/a"}\n' * 1000)
    for expected in range(1, 1001):
        event = talk.next_event()
        assert isinstance(event, ScanRequest)
        assert talk.in_flight == expected
    assert talk.next_event() is None


@pytest.mark.parametrize("line", [b"help", b"labels", b""])
def test_what_is_answered_at_once_is_answered_one_at_a_time(line: bytes) -> None:
    """Else one read of such lines would make megabytes of replies and hold up all other connections."""
    talk = session()
    talk.receive_data((line + b"\n") * 100)
    talk.next_event()
    left = talk.unread
    assert left == 99 * (len(line) + 1)


# Any bytes, any cuts

PIECES = [
    b"/data/photo.jpg\n", b"/data/in/\r\n", b"\n", b"ping\n", b"colour\n", b"labels\n", b"foo\n", b"/nothing",
    b'{"id":1,"path":"/data/in/a.jpg"}\n', b'{"id":2,"bytes":5}\n', b"hello", b'{"data":"aGVsbG8="}\n', b'{"x":1}\n',
    b'{"id":3,"bytes":1001}\n', b"y" * 1001, b'{"paths":["/a","/b"]}\n', b'{"op":"cancel","target":1}\n',
    b"\xff\xfd\x06", b"\xff\xf4", b"\xff\xff", b"\xff", b"GET / HTTP/1.1\r\n", b"quit\n", b"{", b"z" * (TEXT_LINE + 2),
]  # fmt: skip


@given(st.sampled_from(Style), st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=8), st.data())
def test_any_split_gives_the_same_events_and_output(style: Style, pieces: list[bytes], choice: st.DataObject) -> None:
    data = b"".join(pieces)
    whole, cut = Conversation.of(style), Conversation.of(style)
    whole.say(data)
    whole.end()
    cuts = sorted(choice.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        cut.say(data[start:stop])
    cut.end()
    assert whole.session.finished and cut.session.finished

    def without_answers(sent: bytes) -> bytes:  # answers to telnet go out as soon as asked, also between replies
        return sent.replace(b"\xff\xfc\x06", b"") if style is not Style.PLAIN else sent

    assert without_answers(cut.take()) == without_answers(whole.take())
    assert _kinds(cut) == _kinds(whole)


def _kinds(talk: Conversation) -> list[Any]:
    kinds: list[Any] = []
    body = b""
    for event in talk.events:
        if isinstance(event, BodyData):
            body += event.data
        else:
            turn = getattr(event, "turn", None)
            kinds.append((type(event), turn and (turn.number, turn.id, turn.path, turn.op), body))
            body = b""
    return kinds
