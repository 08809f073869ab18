"""JSON in and out, by orjson where it is installed and by the standard library where it is not.

Both read and refuse the same texts: strict UTF-8, no NaN or Infinity, no lone surrogates, no bottomless nesting. This
module knows no request and no reply.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nsfwd.errors import CodedError

Loads = Callable[[bytes], Any]
Dumps = Callable[[object], bytes]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _stdlib_loads(data: bytes) -> Any:
    value = json.loads(data.decode(), parse_constant=_no_constant)
    if b"\\u" in data:
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text: UnicodeEncodeError
    return value


def _stdlib_dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _stdlib_dumps_indented(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2).encode()


_loads: Loads = _stdlib_loads
dumps: Dumps = _stdlib_dumps
dumps_indented: Dumps = _stdlib_dumps_indented

try:
    import orjson
except ImportError:  # a client installed without dependencies
    pass
else:

    def _orjson_dumps(value: object) -> bytes:
        try:
            return orjson.dumps(value)
        except orjson.JSONEncodeError:  # an integer of more than 64 bits, such as the time of a file
            return _stdlib_dumps(value)

    def _orjson_dumps_indented(value: object) -> bytes:
        try:
            return orjson.dumps(value, option=orjson.OPT_INDENT_2)
        except orjson.JSONEncodeError:
            return _stdlib_dumps_indented(value)

    _loads, dumps, dumps_indented = orjson.loads, _orjson_dumps, _orjson_dumps_indented


def reread(data: bytes) -> Any:
    """Read a text that ``loads`` has accepted, with all integers exact: orjson makes floats of those beyond 64 bits."""
    return _stdlib_loads(data)


def loads(data: bytes) -> Any:
    """Read one JSON text.

    Raises:
        CodedError: ``bad_utf8`` when the bytes are not UTF-8, ``bad_json`` when they are no JSON. The sender's fault;
            the same bytes fail again.
    """
    try:
        return _loads(data)
    except (ValueError, RecursionError):
        code = "bad_json" if _is_text(data) else "bad_utf8"
    # Not in the handler: the parser's error has the whole text, and would be kept as the context of this one.
    raise CodedError(code)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
