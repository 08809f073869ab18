"""The log keeps one event on one line, whatever a stranger names a file."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

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
