r"""Escapes names and messages of strangers: a line stays one line, a terminal obeys none, no two names look the same.

    \\       a backslash
    \t \n \r  tabulator, line feed, carriage return; in the protocol \x09 \x0a \x0d
    \xNN     a byte: a control character of ASCII, or one that is not part of UTF-8
    \uNNNN   a character: controls of C1, line ends, marks that change the direction of writing, zero-width characters

``unescape`` gives the name back. Knows no room of the house, and costs nothing to import.
"""

from __future__ import annotations

import re

_SHORT = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}

_UNSAFE = (
    (0x00, 0x1F),
    (0x7F, 0x9F),
    (0x061C, 0x061C),  # direction marks: they show a line in another order than it is written
    (0x200E, 0x200F),
    (0x202A, 0x202E),
    (0x2066, 0x206F),
    (0x2028, 0x2029),  # line and paragraph separators
    (0x200B, 0x200B),  # without width; the joiners of Persian and of emoji are ordinary letters
    (0x2060, 0x2064),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0xD800, 0xDFFF),  # surrogates, half a character each; Python carries bytes that are not UTF-8 as some of them
)
"""First and last of each range."""

_BYTES = range(0xDC80, 0xDD00)
"""Surrogates by which Python carries the bytes 0x80 to 0xFF of a name that is not UTF-8."""

_ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|(.))", re.DOTALL)
_MEANT = {"t": "\t", "n": "\n", "r": "\r"}


class _EscapeTable:
    """Code point -> its text, for ``str.translate``.

    Args:
        short: write tabulator and line ends in two characters.
        backslash: escape it.
        keep: bytes that are not UTF-8 and stay as they are.
    """

    def __init__(self, *, short: bool = True, backslash: bool = True, keep: range = range(0)) -> None:
        self._known = {**(_SHORT if short else {}), **({0x5C: "\\\\"} if backslash else {})}
        self._known |= {0xDC00 + byte: chr(0xDC00 + byte) for byte in keep}

    def __getitem__(self, code: int) -> str:
        if code in self._known:
            return self._known[code]
        if not any(first <= code <= last for first, last in _UNSAFE):
            return chr(code)
        if code < 0x80 or code in _BYTES:
            return f"\\x{code & 0xFF:02x}"
        return f"\\u{code:04x}"


_NAME = _EscapeTable()
_WIRE = _EscapeTable(short=False)
_CLAMD = _EscapeTable(short=False, keep=range(0xA0, 0x100))
_LINE = _EscapeTable(backslash=False)
_JSON = {
    code: f"\\u{code:04x}" for first, last in _UNSAFE if 0x7F <= first != 0xD800 for code in range(first, last + 1)
}
"""Without the controls that JSON itself escapes, and without the line ends between its values."""


def escape(name: str | bytes) -> str:
    """Escape the unsafe characters of a name, and the backslash itself: ``unescape`` is the inverse."""
    return _escaped(name, _NAME)


def escape_wire(name: bytes) -> str:
    """Escape a name as ``escape`` does, in the form of the protocol's text replies."""
    return _escaped(name, _WIRE)


def escape_clamd(name: bytes) -> bytes:
    """Escape a name as ``escape_wire`` does, but keep bytes from 0xA0 on, as clamd does."""
    return _escaped(name, _CLAMD).encode("utf-8", "surrogateescape")


def visible(line: str) -> str:
    """Escape the unsafe characters of a line whose names are escaped already; the backslash stays."""
    return line if line.isprintable() else line.translate(_LINE)


def escape_json(document: str) -> str:
    """Escape the unsafe characters of a JSON document in JSON's own way: its values stay the same."""
    return document.translate(_JSON)


def unescape(text: str) -> str:
    """Return the name that an ``escape`` function escaped; bytes that are not UTF-8 as ``surrogateescape`` has them."""
    return _ESCAPED.sub(_meant, text)


def _escaped(name: str | bytes, table: _EscapeTable) -> str:
    text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    return text if text.isprintable() and "\\" not in text else text.translate(table)


def _meant(match: re.Match[str]) -> str:
    byte, character, other = match.groups()
    if byte is not None:
        code = int(byte, 16)
        return chr(code if code < 0x80 else 0xDC00 + code)
    return chr(int(character, 16)) if character is not None else _MEANT.get(other, other)
