"""Reads small files from any source: never more than a bound, and every defect is one kind of error.

A parser has more ways to fail than its documentation names: nesting without end, numbers of a million digits. They are
translated here, at one border. Knows no file's meaning.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nsfwd.quantities import format_size

MOST_BYTES = 4 * 1024 * 1024
"""Largest document that is read: a thousand times the usual size, and quick to parse."""

Kind = TypeVar("Kind")


class DocumentError(Exception):
    """A file is too large, not UTF-8, or not of its format. The message names the defect, but no file."""


def read_document(path: Path, most: int = MOST_BYTES) -> str:
    """Read a text file of at most ``most`` bytes.

    Raises:
        OSError: the file cannot be read.
        DocumentError: the file is larger, or not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise DocumentError(f"larger than {format_size(most)}")
    return decode_text(data)


def decode_text(data: bytes) -> str:
    """Read bytes as UTF-8.

    Raises:
        DocumentError: the bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise DocumentError("not UTF-8") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML document.

    Raises:
        DocumentError: the text is not TOML.
    """
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise DocumentError(f"not valid TOML: {error}") from None
    except RecursionError:
        raise DocumentError("not valid TOML: nested too deeply") from None


def decode_json(text: str | bytes, kind: type[Kind]) -> Kind:
    """Parse a JSON document as a value of a type.

    Raises:
        DocumentError: the text is not JSON, or not of the type.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, msgspec.MsgspecError) as error:
        raise DocumentError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise DocumentError("not valid JSON: nested too deeply") from None
