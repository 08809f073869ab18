"""NDJSON, as it comes in: one line into one request.

The request keys are a table (``KEYS``) that the documents and tests read. Nothing here raises for what a peer sends: a
bad line becomes a ``Parsed`` with its error. Knows no order and no state; ``session`` does. What is answered is spelled
by ``results``.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nsfwd.errors import CodedError
from nsfwd.escaping import escape_wire
from nsfwd.protocol.jsonio import loads
from nsfwd.protocol.limits import ID_BYTES, MAX_DEADLINE, MAX_FRAMES_ASKED, MAX_INTEGER_ID, PATH_BYTES
from nsfwd.protocol.messages import Dialect, Image, Lane, Operation, Paths, RequestId, Scan

OPERATIONS: dict[str, str] = {
    "ping": "the daemon is running",
    "ready": "whether the models are loaded and their goldens agree",
    "version": "protocol, limits, operations open to this peer, models",
    "models": "the models that score and their policies",
    "stats": "counters since the start",
    "poison": "the files that crashed decoders and are not decoded again for a while",
    "clear_poison": "forget these files",
    "cancel": "drop an earlier request of this connection",
    "reload": "reload settings and bundles",
}

OPEN_OPERATIONS = frozenset(OPERATIONS) - {"reload", "clear_poison"}
"""Operations open to every peer."""

Check = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One row of the table of request keys. ``check`` returns the value as the program wants it; None: not built."""

    kind: str
    check: Check | None
    meaning: str


def _bad(message: str) -> CodedError:
    return CodedError("bad_request", message)


def _check_id(value: Any) -> RequestId:
    if type(value) is int:
        if -MAX_INTEGER_ID <= value <= MAX_INTEGER_ID:
            return value
    elif type(value) is str and len(value) <= ID_BYTES and len(value.encode()) <= ID_BYTES:
        return value
    raise _bad(f"an id must be a string of at most {ID_BYTES} bytes or an integer of at most 53 bits")


def check_path(path: bytes) -> bytes:
    """Return ``path`` if it may name a file.

    Raises:
        CodedError: ``bad_path`` or ``relative_path``; the sender's fault, a retry does not help.
    """
    if not path or len(path) >= PATH_BYTES or b"\0" in path:
        raise CodedError("bad_path")
    if path[:1] != b"/":
        raise CodedError("relative_path")
    return path


def _check_text_path(value: Any) -> bytes:
    if type(value) is not str:
        raise _bad("path must be a string")
    return check_path(value.encode())


def _check_paths(value: Any) -> list[bytes]:
    if type(value) is not list or not value or not all(type(path) is str for path in value):
        raise _bad("paths must be an array of at least one string")
    return [check_path(path.encode()) for path in value]


def _base64(name: str) -> Check:
    def check(value: Any) -> bytes:
        try:
            if type(value) is str:
                return binascii.a2b_base64(value.encode("ascii"), strict_mode=True)
        except ValueError:
            pass
        raise _bad(f"{name} must be a string of base64")

    return check


_decode_path = _base64("path_bytes")


def _check_path_bytes(value: Any) -> bytes:
    path: bytes = _decode_path(value)
    return check_path(path)


def _check_size(value: Any) -> int:
    if type(value) is int and value >= 0:
        return value
    raise _bad("bytes must be an integer of 0 or more")


def _flag(name: str) -> Check:
    def check(value: Any) -> bool:
        if type(value) is bool:
            return value
        raise _bad(f"{name} must be true or false")

    return check


def _check_lane(value: Any) -> Lane:
    try:
        return Lane(value)
    except ValueError:
        raise _bad("lane must be interactive, normal or background") from None


def _check_deadline(value: Any) -> float:
    if type(value) in (int, float) and 0 < value <= MAX_DEADLINE and math.isfinite(value):
        return float(value)
    raise _bad(f"deadline must be a number of seconds above 0 and at most {MAX_DEADLINE:.0f}")


def _check_frames(value: Any) -> int:
    if type(value) is int and 1 <= value <= MAX_FRAMES_ASKED:
        return value
    raise _bad(f"frames must be an integer from 1 to {MAX_FRAMES_ASKED}")


def _check_fd(value: Any) -> bool:
    if value is True:
        return True
    raise _bad("fd must be true")


def _check_name(value: Any) -> bytes:
    if type(value) is str and value and "\0" not in value:
        name = value.encode()
        if len(name) < PATH_BYTES:
            return name
    raise _bad(f"name must be a string of 1 to {PATH_BYTES - 1} bytes")


def _check_op(value: Any) -> str:
    if type(value) is not str:
        raise _bad("op must be a string")
    if value not in OPERATIONS:
        raise CodedError("unknown_op")
    return value


KEYS: dict[str, Key] = {
    "id": Key("string or integer", _check_id, "returned verbatim in every reply"),
    "path": Key("string", _check_text_path, "an absolute path of the server: a file or a directory"),
    "paths": Key("array of strings", _check_paths, "several paths; the reply is a series"),
    "path_bytes": Key("base64", _check_path_bytes, "a path that is not UTF-8"),
    "data": Key("base64", _base64("data"), "the encoded image itself"),
    "bytes": Key("integer", _check_size, "this many raw bytes, the encoded image, follow the line's LF"),
    "recursive": Key("boolean", _flag("recursive"), "walk below directories; the reply is a series"),
    "lane": Key("string", _check_lane, "interactive, normal or background; a request may lower its lane, not raise it"),
    "deadline": Key("number", _check_deadline, "seconds allowed for the whole request"),
    "identity": Key("boolean", _flag("identity"), "add the identity of the opened file to the reply"),
    "op": Key("string", _check_op, "an operation instead of a scan"),
    "target": Key("string or integer", _check_id, "the id of the request to cancel"),
    "fd": Key("boolean", _check_fd, "true: take the next descriptor passed over the Unix socket"),
    "name": Key("string", _check_name, "a name for an image that came without a path, returned as its path"),
    "models": Key("array of strings", None, "score with these models only"),
    "frames": Key(
        "integer",
        _check_frames,
        "largest number of frames to score of an animation, spread evenly over the time they are shown",
    ),
    "boxes": Key("boolean", None, "add the places of the findings in the picture"),
}
"""Every request key. One with no check answers ``unsupported``; one not here answers ``unknown_key``."""

_SOURCES = frozenset({"path", "paths", "path_bytes", "data", "bytes", "fd"})
_OPERATION_KEYS = frozenset({"id", "op", "target"})
_PLAIN = {"id", "path"}


@dataclass(slots=True)
class Parsed:
    """What one JSON line came to: a request (``ask``) or an error, and how much raw body follows either.

    Attributes:
        body: raw bytes that follow the line, whether the request is good or bad; None when none were announced.
        data: the image that came inside the line.
        passed: a descriptor belongs to the request, whether it is good or bad.
        path: what an error reply may show as the path, when that cannot be taken for an image of a series.
    """

    ask: Scan | Operation | None = None
    error: CodedError | None = None
    id: RequestId = None
    op: str | None = None
    path: bytes | None = None
    body: int | None = None
    data: bytes | None = None
    passed: bool = False


def parse(line: bytes) -> Parsed:
    """Read one JSON line. Never raises."""
    parsed = Parsed()
    message: Any = None
    try:
        message = loads(line)
        if type(message) is not dict:
            raise CodedError("bad_json")
        parsed.ask = _read_plain(message, parsed) if message.keys() == _PLAIN else _read(message, parsed)
    except CodedError as error:
        parsed.error = error.with_traceback(None)  # whose frames have the line, and this object
        if type(message) is dict:
            _note_names(message, parsed)
    return parsed


def _read_plain(message: dict[str, Any], parsed: Parsed) -> Scan:
    """What ``_read`` makes of an id and a path, as nearly every request is; in a third of the time."""
    parsed.id = _check_id(message["id"])
    parsed.path = _check_text_path(message["path"])
    return Scan(parsed.id, Dialect.NDJSON, (Image(parsed.path),))


def _read(message: dict[str, Any], parsed: Parsed) -> Scan | Operation:
    size = message.get("bytes")
    if type(size) is int and size >= 0:
        parsed.body = size  # before anything may be wrong: the body comes in any case
    parsed.passed = message.get("fd") is True
    values: dict[str, Any] = {}
    if "id" in message:
        parsed.id = _check_id(message["id"])
    for name, value in message.items():
        key = KEYS.get(name)
        if key is None:
            raise CodedError("unknown_key", f"unknown key {escape_wire(name[:64].encode())}")
        if key.check is None:
            raise CodedError("unsupported", f"{name} is not built into this daemon")
        values[name] = key.check(value)
    if "op" in values:
        return _operation(values, parsed)
    return _scan(values, parsed)


def _note_names(message: dict[str, Any], parsed: Parsed) -> None:
    """Remember what the reply to a bad request may name."""
    path, op = message.get("path"), message.get("op")
    if type(path) is str and "paths" not in message and "recursive" not in message:
        encoded = path.encode()
        parsed.path = encoded if len(encoded) < PATH_BYTES else None
    if type(op) is str and len(op.encode()) <= ID_BYTES:
        parsed.op = op


def _operation(values: dict[str, Any], parsed: Parsed) -> Operation:
    op = values["op"]
    parsed.op = op
    if not values.keys() <= _OPERATION_KEYS:
        raise _bad("an operation has no keys but id, op and target")
    if (op == "cancel") != ("target" in values):
        raise _bad("cancel needs a target, and nothing else has one")
    return Operation(parsed.id, Dialect.NDJSON, op, values.get("target"))


def _scan(values: dict[str, Any], parsed: Parsed) -> Scan:
    sources = [name for name in values if name in _SOURCES]
    if len(sources) != 1:
        raise _bad("a request has exactly one of path, paths, path_bytes, data, bytes and fd, or op")
    if "target" in values:
        raise _bad("target belongs to the operation cancel")
    source = sources[0]
    many = source == "paths"
    recursive = values.get("recursive", False)
    if source in ("data", "bytes", "fd"):
        if recursive:
            raise _bad("recursive needs a path")
        parsed.data = values.get("data")
        parsed.path = values.get("name")
        images: tuple[Image] | Paths = (Image(parsed.path),)
    elif "name" in values:
        raise _bad("name is for an image without a path")
    elif many:
        images = Paths(values["paths"])
    else:
        parsed.path = values[source]
        images = (Image(parsed.path),)
    return Scan(
        parsed.id,
        Dialect.NDJSON,
        images,
        many or recursive,
        recursive,
        values.get("lane"),
        values.get("deadline"),
        values.get("identity", False),
        values.get("frames", 0),
    )


def check_operation(op: str, allowed: frozenset[str]) -> None:
    """Refuse an operation that this peer may not use.

    Raises:
        CodedError: ``not_permitted``: only others may use it.
    """
    if op not in allowed:
        raise CodedError("not_permitted")
