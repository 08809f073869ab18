"""clamd's protocol as a conversation."""

from __future__ import annotations

import pytest

from nsfwd.errors import CODES, CodedError
from nsfwd.protocol.clamd import ClamdSession
from nsfwd.protocol.events import BodyData, BodyEnd, BodyStart, Handled, Rejected, ScanRequest
from nsfwd.protocol.messages import Style
from tests.unit.conversation import MAX_BYTES, Conversation, outcome


def talk(data: bytes, *, end: bool = False) -> bytes:
    """What one connection is answered; however its bytes are cut it is the same."""
    whole, cut = Conversation.of(Style.CLAMD), Conversation.of(Style.CLAMD)
    whole.say(data)
    for index in range(len(data)):
        cut.say(data[index : index + 1])
    for each in (whole, cut):
        if end:
            each.end()
    said = whole.take()
    assert cut.take() == said
    assert whole.session.finished == cut.session.finished
    return said


def stream(*chunks: bytes) -> bytes:
    return b"".join(len(chunk).to_bytes(4, "big") + chunk for chunk in (*chunks, b""))


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        (b"PING\n", b"PONG\n"),
        (b"nPING\n", b"PONG\n"),
        (b"zPING\0", b"PONG\0"),
        (b"zSCAN /data/photo.jpg\0", b"/data/photo.jpg: OK\0"),
        (b"SCAN /data/photo.jpg\r\n", b"/data/photo.jpg: OK\n"),
        (b"nSCAN /data/in/more/d.jpg\n", b"/data/in/more/d.jpg: NSFW.sensitive FOUND\n"),
        (b"nSCAN /data/in/c.txt\n", b"/data/in/c.txt: not_an_image ERROR\n"),
        (b"nSCAN /data/busy.jpg\n", b"/data/busy.jpg: busy ERROR\n"),
        (b"nSCAN /data/nothing.jpg\n", b"/data/nothing.jpg: not_found ERROR\n"),
        (b"zSCAN /data/a\nb\x1b.jpg\0", b"/data/a\\x0ab\\x1b.jpg: not_found ERROR\0"),
        (b"nSCAN /data/\xc2\x9b\xe2\x80\xae\\.jpg\n", b"/data/\\u009b\\u202e\\\\.jpg: not_found ERROR\n"),
        (b"nSCAN /data/b\xe9b\xe9.jpg\n", b"/data/b\xe9b\xe9.jpg: OK\n"),
        (b"nSCAN \n", b": bad_path ERROR\n"),
        (b"nSHUTDOWN\n", b"UNKNOWN COMMAND\n"),
        (b"GET / HTTP/1.1\n", b"UNKNOWN COMMAND\n"),
        (b"\n", b"UNKNOWN COMMAND\n"),
        (b"zINSTREAM\0" + stream(b"abc", b"def"), b"stream: OK\0"),
        (b"nINSTREAM\n" + stream(), b"stream: empty ERROR\n"),
        (b"zINSTREAM\0" + stream(b"x" * 999, b"yz"), b"INSTREAM size limit exceeded. ERROR\0"),
        (b"zINSTREAM\0\xff\xff\xff\xff", b"INSTREAM size limit exceeded. ERROR\0"),
    ],
)
def test_one_command_a_connection(said: bytes, answered: bytes) -> None:
    assert talk(said) == answered
    assert talk(said + b"nPING\n") == answered


def test_an_unfinished_command_and_a_stream_cut_short() -> None:
    assert talk(b"nSCAN /data/photo.jpg", end=True) == b"/data/photo.jpg: OK\n"
    for cut in (b"\0", b"\0\0\0\x05ab", b"\0\0\0\x02ab"):
        assert talk(b"zINSTREAM\0" + cut, end=True) == b"stream: short_body ERROR\0"
    assert talk(b"", end=True) == b""


def test_a_line_without_end_is_not_kept() -> None:
    answer = Conversation.of(Style.CLAMD)
    answer.say(b"x" * 70_000)
    assert (answer.take(), answer.session.finished) == (b"UNKNOWN COMMAND\n", True)


def test_a_session_of_many_commands() -> None:
    said = b"zIDSESSION\0zPING\0zINSTREAM\0" + stream(b"abc") + b"zSCAN /data/in/more/d.jpg\0zNONSENSE\0"
    assert talk(said) == (
        b"1: PONG\x002: stream: OK\x003: /data/in/more/d.jpg: NSFW.sensitive FOUND\x004: UNKNOWN COMMAND\0"
    )
    assert talk(said + b"zEND\0zPING\0") == talk(said)


def test_a_directory() -> None:
    """OK only when there was neither a find nor an error; a scan that was cut short says so."""
    assert talk(b"nCONTSCAN /data/slow/\n") == b"/data/slow/: deadline ERROR\n"
    clean = ClamdSession(max_bytes=MAX_BYTES)
    clean.receive_data(b"nCONTSCAN /data/clean/\n")
    event = clean.next_event()
    assert isinstance(event, ScanRequest)
    assert event.scan.recursive
    clean.become_many(event.turn)
    clean.entry(event.turn, outcome(b"/data/clean/a", "safe"))
    assert clean.data_to_send() == b""
    clean.done(event.turn, 1.0)
    assert clean.data_to_send() == b"/data/clean/: OK\n"
    assert clean.finished
    with pytest.raises(ValueError, match="has ended"):
        clean.done(event.turn, 1.0)


def test_scan_tells_the_first_find_and_contscan_all() -> None:
    for command, finds in ((b"SCAN", 1), (b"CONTSCAN", 2), (b"MULTISCAN", 2), (b"ALLMATCHSCAN", 2)):
        session = ClamdSession(max_bytes=MAX_BYTES)
        session.receive_data(b"n" + command + b" /d\n")
        event = session.next_event()
        assert isinstance(event, ScanRequest)
        session.become_many(event.turn)
        for name in (b"/d/a", b"/d/b"):
            session.entry(event.turn, outcome(name, "sensitive"))
        session.done(event.turn, 1.0)
        assert session.data_to_send().count(b" FOUND\n") == finds


def test_no_code_is_ever_ok() -> None:
    for code in CODES:
        session = ClamdSession(max_bytes=MAX_BYTES)
        session.receive_data(b"nSCAN /d\n")
        event = session.next_event()
        assert isinstance(event, ScanRequest)
        session.entry(event.turn, outcome(b"/d", code))
        assert session.data_to_send() == b"/d: %s ERROR\n" % code.encode()


def test_a_stream_is_given_on_as_it_comes() -> None:
    session = ClamdSession(max_bytes=MAX_BYTES)
    session.receive_data(b"zINSTREAM\0" + stream(b"abc"))
    kinds = []
    while (event := session.next_event()) is not None:
        kinds.append(type(event))
    assert kinds == [BodyStart, BodyData, BodyEnd, ScanRequest]


def test_a_descriptor_belongs_to_the_byte_behind_its_command() -> None:
    session = ClamdSession(max_bytes=MAX_BYTES)
    session.receive_data(b"zIDSESSION\0zFILDES\0")
    assert [session.next_event() for _ in range(3)] == [Handled(), Handled(), None]
    session.receive_data(b"\0zPING\0")
    event = session.next_event()
    assert isinstance(event, ScanRequest)
    assert event.turn.passed
    assert [session.next_event() for _ in range(2)] == [Handled(), None]
    session.entry(event.turn, outcome(None, "sensitive"))
    assert session.data_to_send() == b"2: PONG\x001: fd: NSFW.sensitive FOUND\0"


@pytest.mark.parametrize("begun", [b"zINSTREAM\0\0\0\0\x05ab", b"zFILDES\0"])
def test_a_drain_answers_what_was_begun(begun: bytes) -> None:
    session = ClamdSession(max_bytes=MAX_BYTES)
    session.receive_data(begun)
    while session.next_event() is not None:
        pass
    session.close()
    event = session.next_event()
    assert isinstance(event, Rejected)
    assert isinstance(event.error, CodedError)
    assert session.data_to_send().endswith(b": draining ERROR\0")
    assert session.finished


def test_what_is_answered_at_once_is_answered_one_at_a_time() -> None:
    """Else one read of commands that nobody has to be asked about would hold up all other connections."""
    session = ClamdSession(max_bytes=MAX_BYTES)
    session.receive_data(b"zIDSESSION\0" + b"zPING\0" * 100)
    assert session.next_event() == Handled()
    assert session.next_event() == Handled()
    assert session.data_to_send() == b"1: PONG\0"


def test_chunks_of_one_byte_are_taken_many_at_a_time() -> None:
    session = ClamdSession(max_bytes=1 << 20)
    session.receive_data(b"zINSTREAM\0" + b"\0\0\0\1x" * 10_000 + b"\0\0\0\0")
    events = list(iter(session.next_event, None))
    pieces = [event.data for event in events if isinstance(event, BodyData)]
    assert b"".join(pieces) == b"x" * 10_000
    assert len(pieces) < 50
    assert isinstance(events[-2], BodyEnd) and isinstance(events[-1], ScanRequest)
