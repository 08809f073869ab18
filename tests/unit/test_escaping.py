"""What strangers name a file can neither forge a line nor steer a terminal, and no two names are written alike."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nsfwd.escaping import escape, escape_clamd, escape_json, escape_wire, unescape, visible

_names = st.binary(max_size=12) | st.text(st.sampled_from("a\\x9bun\u009b\u202e\udcff\t\n\r/ü"), max_size=12).map(
    lambda text: text.encode("utf-8", "surrogateescape")
)
_STEERING = "\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2060\u2066\u2069\ufeff"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/srv/Ä b.jpg", "/srv/Ä b.jpg"),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        ("\x00\x1b[31m\x7f\x9b2J", "\\x00\\x1b[31m\\x7f\\u009b2J"),
        ("\u2028\u202egpj\u2069\u200e\u061c", "\\u2028\\u202egpj\\u2069\\u200e\\u061c"),
        (b"\xff.jpg", "\\xff.jpg"),
        ("\\xff.jpg", "\\\\xff.jpg"),
        (b"\x9b", "\\x9b"),
        ("\ud800", "\\ud800"),
        ("soft\u00adhyphen \u200d \U0001f600", "soft\u00adhyphen \u200d \U0001f600"),
    ],
)
def test_only_what_could_do_harm_is_escaped(name: str | bytes, shown: str) -> None:
    assert escape(name) == shown


@given(_names)
@example(b"\\")
@example(b"\\\\x41\xff\xc2\x9b")
def test_every_name_comes_back(name: bytes) -> None:
    wanted = name.decode("utf-8", "surrogateescape")
    assert unescape(escape(name)) == unescape(escape(wanted)) == unescape(escape_wire(name)) == wanted
    assert unescape(escape_clamd(name).decode("utf-8", "surrogateescape")) == wanted


@pytest.mark.parametrize("write", [escape, visible])
def test_no_control_and_no_surrogate_is_left(write: object) -> None:
    assert callable(write)
    shown = write("".join(map(chr, range(sys.maxunicode + 1))))
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(shown) & set(_STEERING)


def test_a_clamd_line_has_no_control_of_either_kind() -> None:
    shown = escape_clamd("".join(map(chr, range(0x2100))).encode("utf-8", "surrogatepass") + b"\x9b \xe9")
    assert b"\\x9b \xe9" in shown and b"\\u009b" in shown and b"\\u202e" in shown
    text = shown.decode("utf-8", "replace")
    assert not {unicodedata.category(character) for character in text} & {"Cc", "Zl", "Zp"}
    assert not set(text) & set(_STEERING)


def test_a_line_of_escaped_names_is_not_escaped_again() -> None:
    line = f"moved {escape(b'/a/' + bytes([0xFF]))}\x1b"
    assert visible(line) == "moved /a/\\xff\\x1b" and visible(visible(line)) == visible(line)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_document_keeps_its_values_and_has_no_control(indent: int | None) -> None:
    value = {"name": "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000)])), "list": ["\\u009b", "\x9b\u202e"]}
    shown = escape_json(json.dumps(value, ensure_ascii=False, indent=indent))
    assert json.loads(shown) == value
    assert not {unicodedata.category(character) for character in shown.replace("\n", "")} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(shown) & set(_STEERING)
