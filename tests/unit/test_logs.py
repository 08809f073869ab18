"""The log keeps one event on one line, whatever a stranger names a file."""

from __future__ import annotations

import io
import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd import logs


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger("nsfwd")
    before = root.handlers, root.propagate, root.level, logs.paths.style
    yield
    root.handlers, root.propagate, root.level, logs.paths.style = before


def line_of(message: str, *arguments: object, level: str = "info") -> str:
    stream = io.StringIO()
    logs.setup("info", "full", stream)
    logging.getLogger("nsfwd.server").log(logs.LEVELS[level], message, *arguments)
    return stream.getvalue()


def test_one_event_is_one_line_with_time_level_and_room() -> None:
    stamp, level, room, text = line_of("listening on %s", "tcp:127.0.0.1:1235").rstrip("\n").split(" ", 3)
    assert stamp.endswith("Z") and "T" in stamp
    assert (level, room, text) == ("info", "server:", "listening on tcp:127.0.0.1:1235")


@pytest.mark.parametrize("evil", ["a\nb", "a\rb", "\x1b[31mred", "\x9b2J", "\u202egpj", "\u2028", "\udcff"])
def test_control_characters_are_escaped(evil: str) -> None:
    line = line_of("scanned %s", evil)
    assert line.count("\n") == 1
    assert all(character not in line[:-1] for character in evil if not character.isprintable())


def test_a_traceback_stays_on_its_line() -> None:
    stream = io.StringIO()
    logs.setup("info", "full", stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("nsfwd.pipeline").exception("a defect")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: broken" in stream.getvalue()


def test_events_below_the_level_are_silent() -> None:
    assert line_of("nothing", level="debug") == ""


def test_paths_are_shown_as_the_style_says() -> None:
    full, hashed, hidden = (logs.PathFilter(style) for style in logs.PathStyle)
    path = b"/data/\xff\n.jpg"
    assert full.show(path) == "/data/\\xff\\n.jpg"
    assert hashed.show(path) == hashed.show(path) != hashed.show(b"/data/other.jpg")
    assert "data" not in hashed.show(path)
    assert "data" not in hidden.show(path)
    assert full.show(None) == "(bytes)"


def test_digests_cannot_be_compared_across_processes() -> None:
    assert logs.PathFilter(logs.PathStyle.HASHED).show(b"/a") != logs.PathFilter(logs.PathStyle.HASHED).show(b"/a")


def fields_of(datagram: bytes) -> dict[str, str]:
    fields = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        (length,) = struct.unpack_from("<Q", rest)
        fields[name.decode()] = rest[8 : 8 + length].decode()
        assert rest[8 + length : 9 + length] == b"\n"
        datagram = rest[9 + length :]
    return fields


def record(message: str, *arguments: object, created: float = 0.0, level: int = logging.WARNING) -> logging.LogRecord:
    made = logging.LogRecord("nsfwd.server", level, "/x/lifecycle.py", 7, message, arguments, None, "run")
    made.created = created
    return made


def test_the_journal_gets_fields_that_no_name_of_a_file_can_forge(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        handler = logs.JournalHandler(logging.NullHandler(), str(tmp_path / "journal"))
        handler.emit(record("scanned %s", "a\nPRIORITY=0"))
        fields = fields_of(journal.recv(1 << 16))
    assert fields["MESSAGE"] == "scanned a\\nPRIORITY=0"
    assert (fields["PRIORITY"], fields["NSFWD_ROOM"], fields["CODE_FUNC"], fields["CODE_LINE"]) == (
        "4",
        "server",
        "run",
        "7",
    )


def test_without_a_journal_events_go_where_they_went_before(tmp_path: Path) -> None:
    stream = io.StringIO()
    handler = logs.JournalHandler(logging.StreamHandler(stream), str(tmp_path / "none"))
    for _ in range(2):
        handler.handle(record("still here"))
    told, *events = stream.getvalue().splitlines()
    assert told == "cannot write to the journal (No such file or directory): events go to standard error"
    assert events == ["still here"] * 2


def test_an_event_that_repeats_is_counted_instead_of_shown() -> None:
    coalescer = logs.Coalescer()
    shown = [coalescer.filter(record("peer %d is wrong", number, created=number / 100)) for number in range(100)]
    assert shown == [True] * logs.BURST + [False] * (100 - logs.BURST)
    assert coalescer.filter(record("something else", created=1.0))
    assert coalescer.filter(record("peer %d is wrong", 1, created=1.0, level=logging.DEBUG))
    later = record("peer %d is wrong", 5, created=logs.WINDOW + 1)
    assert coalescer.filter(later)
    assert later.getMessage() == f"peer 5 is wrong ({100 - logs.BURST} earlier events like this were suppressed)"
    again = record("peer %d is wrong", 6, created=2 * logs.WINDOW + 2)
    assert coalescer.filter(again)
    assert again.getMessage() == "peer 6 is wrong"


def test_any_number_of_peers_takes_bounded_memory_and_log_and_is_forgotten() -> None:
    coalescer = logs.Coalescer()

    def shown(peer: int, created: float) -> bool:
        event = record("%d is denied", peer, created=created)
        vars(event).update(logs.fields(f"peer {peer}", burst=1))
        return coalescer.filter(event)

    assert [shown(7, 0.0) for _ in range(100)].count(True) == 1
    assert sum(shown(peer, 1.0) for peer in range(100_000)) <= logs.KINDS + 1
    assert len(coalescer._kinds) <= logs.KINDS + 1
    assert shown(200_000, 2.0 + logs.WINDOW), "a newcomer is shown once the others are forgotten"
    assert len(coalescer._kinds) < logs.KINDS
