from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nsfwd.protocol.limits import JSON_LINE, TEXT_LINE
from nsfwd.protocol.lines import SHOWN_OF_TOO_LONG, Line, LineReader

IAC, WILL, WONT, DO, DONT, SB, SE, IP, NOP = (bytes([code]) for code in (255, 251, 252, 253, 254, 250, 240, 244, 241))
TIMING_MARK = b"\x06"


def read(data: bytes, *, telnet: bool = True, ended: bool = True) -> tuple[list[bytes], bytes]:
    reader = LineReader(telnet=telnet)
    reader.receive(data)
    lines = []
    while (line := reader.next_line(ended=ended)) is not None:
        lines.append(line.data)
    return lines, reader.telnet.take_answers()


def test_options_are_declined_and_leave_the_line() -> None:
    assert read(b"/a" + IAC + DO + b"\x01" + b"b\n" + IAC + WILL + b"\x1f/c\n") == (
        [b"/ab", b"/c"],
        IAC + WONT + b"\x01" + IAC + DONT + b"\x1f",
    )


def test_refusals_are_not_answered() -> None:
    assert read(IAC + WONT + b"\x01" + IAC + DONT + b"\x03/a\n") == ([b"/a"], b"")


def test_ctrl_c_drops_the_unfinished_line_and_its_timing_mark_is_answered() -> None:
    assert read(b"/wrong" + IAC + IP + IAC + DO + TIMING_MARK + b"/right\r\n") == (
        [b"/right"],
        IAC + WONT + TIMING_MARK,
    )


def test_ctrl_c_also_drops_a_line_that_is_too_long() -> None:
    assert read(b"x" * (TEXT_LINE + 10) + IAC + IP + b"/right\n") == ([b"/right"], b"")


def test_doubled_iac_is_one_byte_of_the_name() -> None:
    assert read(b"/a" + IAC + IAC + b".jpg\n") == ([b"/a\xff.jpg"], b"")


def test_a_line_feed_inside_a_command_ends_no_line() -> None:
    assert read(b"/a" + IAC + DO + b"\n" + b"b\n") == ([b"/ab"], IAC + WONT + b"\n")


def test_subnegotiation_and_plain_commands_vanish() -> None:
    assert read(b"/a" + IAC + SB + b"\x18\x01\n\xff\xffx" + IAC + SE + IAC + NOP + b"b\n") == ([b"/ab"], b"")


def test_without_telnet_every_byte_is_text() -> None:
    assert read(b"/\xff\xfd\x01\n", telnet=False) == ([b"/\xff\xfd\x01"], b"")


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_any_split_reads_the_same(data: bytes, cuts: list[int]) -> None:
    reader = LineReader(telnet=True)
    lines = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        reader.receive(data[start:stop])
        while (line := reader.next_line(ended=False)) is not None:
            lines.append(line.data)
    while (line := reader.next_line(ended=True)) is not None:
        lines.append(line.data)
    assert (lines, reader.telnet.take_answers()) == read(data)


def test_only_the_line_end_is_stripped() -> None:
    assert read(b" /a \r\n/b\r\r\n\r\n\n/c\r")[0] == [b" /a ", b"/b\r", b"", b"", b"/c\r"]


def test_limits_count_the_line_without_its_end() -> None:
    for opening, limit in ((b"/", TEXT_LINE), (b"{", JSON_LINE)):
        for end in (b"\n", b"\r\n"):
            fits, longer = opening + b"x" * (limit - 1), opening + b"x" * limit
            reader = LineReader(telnet=True)
            reader.receive(fits + end + longer + end + b"/next\n")
            assert reader.next_line() == Line(fits)
            assert reader.next_line() == Line(longer[:SHOWN_OF_TOO_LONG], too_long=True)
            assert reader.next_line() == Line(b"/next")


def test_a_line_over_the_limit_takes_no_memory() -> None:
    reader = LineReader(telnet=True)
    for _ in range(160):
        reader.receive(b"x" * 65536)
        assert reader.next_line() is None
        assert len(reader._raw) + len(reader._line) <= 2 * TEXT_LINE
    reader.receive(b"\n/a\n")
    assert reader.next_line() == Line(b"x" * SHOWN_OF_TOO_LONG, too_long=True)
    assert reader.next_line() == Line(b"/a")
