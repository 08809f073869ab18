"""Names and messages of strangers, spelled so that one line stays one line and a terminal obeys none of them.

For logs and for what the command line shows. Knows no room of the house, and costs nothing to import.
"""

from __future__ import annotations

_SHORT = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}

_UNSAFE = (
    (0x00, 0x1F),
    (0x7F, 0x9F),
    (0x2028, 0x2029),  # line and paragraph separators
    (0x202A, 0x202E),  # overrides of the writing direction: they show a line in another order than it is written
    (0x2066, 0x2069),
    (0xD800, 0xDFFF),  # surrogates, half a character each; Python carries bytes that are not UTF-8 as some of them
)
"""First and last of each range."""


class _Spelling:
    """Code point -> how it is spelled, as ``str.translate`` asks for it."""

    def __getitem__(self, code: int) -> str:
        if code in _SHORT:
            return _SHORT[code]
        if not any(first <= code <= last for first, last in _UNSAFE):
            return chr(code)
        byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
        return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{byte:04x}"


_SPELLING = _Spelling()


def escape(text: str) -> str:
    """Spell control characters, direction overrides and lone surrogates visibly, so that one event stays one line."""
    return text if text.isprintable() else text.translate(_SPELLING)
