"""What strangers name a file can neither forge a line nor steer a terminal."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from nsfwd.escaping import escape


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/srv/Ä b.jpg", "/srv/Ä b.jpg"),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        ("\x00\x1b[31m\x7f\x9b2J", "\\x00\\x1b[31m\\x7f\\x9b2J"),
        ("\u2028\u202egpj\u2069", "\\u2028\\u202egpj\\u2069"),
        (b"\xff.jpg".decode("utf-8", "surrogateescape"), "\\xff.jpg"),
        ("\ud800", "\\ud800"),
        ("soft\u00adhyphen \u200d \U0001f600", "soft\u00adhyphen \u200d \U0001f600"),
    ],
)
def test_only_what_could_do_harm_is_spelled_out(name: str, shown: str) -> None:
    assert escape(name) == shown


def test_no_control_and_no_surrogate_is_left() -> None:
    shown = escape("".join(map(chr, range(sys.maxunicode + 1))))
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert "\u202e" not in shown
