"""The boxes of ISO media files (AVIF, HEIC): how they nest, and what they say of the primary picture.

That is its colours and its edges. Decodes nothing.

Source: ISO/IEC 14496-12, sections 4.2, 8.11 and 12.1.5; ISO/IEC 23008-12, section 9.3.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Container, Iterator
from fractions import Fraction
from itertools import islice
from typing import BinaryIO

Part = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""

DEEPEST = 8
"""Boxes within boxes that are followed."""

LONGEST = 1 << 20
"""Bytes of one box that are read: tables of times and of properties are shorter."""

_ITEM_BOXES = frozenset((b"iprp",))
_TRACK_BOXES = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl"))

_DESCRIBING = frozenset((b"colr", b"clap"))
_PROPERTIES = 1000
"""Properties and associations that are looked at; a picture has less than ten."""


def walk(
    source: BinaryIO, at: int, end: int, within: Container[bytes], depth: int = 0
) -> Iterator[tuple[bytes, int, int]]:
    """Go through boxes and what those named in ``within`` hold: name, first byte of the content, end.

    Raises:
        EOFError: a box ends before it begins, or the file ends within a head.
    """
    while at + 8 <= end and depth < DEEPEST:
        source.seek(at)
        length, name = struct.unpack(">I4s", exactly(source, 8))
        start = at + 8
        if length == 1:
            length, start = int.from_bytes(exactly(source, 8), "big"), at + 16
        stop = end if length == 0 else min(at + length, end)
        if stop < start:
            raise EOFError
        if name in within:
            yield from walk(source, start, stop, within, depth + 1)
        else:
            yield name, start, stop
        at = stop


def content(source: BinaryIO, start: int, stop: int) -> bytes:
    """Read what a box holds, up to ``LONGEST``."""
    source.seek(start)
    return exactly(source, min(stop - start, LONGEST))


def exactly(source: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes.

    Raises:
        EOFError: there are less.
    """
    found = source.read(size)
    if len(found) < size:
        raise EOFError
    return found


def code_points(source: BinaryIO) -> tuple[int, int] | None:
    """Tell the primaries and the transfer of an AVIF, as H.273 numbers them.

    Args:
        source: seekable; left where it was.

    Returns:
        None where the file does not name them in a box, or cannot be followed.
    """
    for box in _read(source):
        if box.startswith(b"colrnclx") and len(box) >= 12:
            return struct.unpack_from(">HH", box, 8)
    return None


def clean_aperture(source: BinaryIO, size: tuple[int, int]) -> Part | None:
    """Tell which part of an AVIF's picture is meant to be shown, before it is turned.

    Args:
        source: seekable; left where it was.
        size: width and height of the whole.

    Returns:
        None where the file names no part, or one that cannot be: beyond the picture, or of half pixels.
    """
    for box in _read(source):
        if box.startswith(b"clap") and len(box) >= 36:
            values = struct.unpack_from(">IIIIiIiI", box, 4)
            if 0 in values[1::2]:
                return None
            wide, high, right, down = (Fraction(*values[at : at + 2]) for at in range(0, 8, 2))
            left, top = right + (size[0] - wide) / 2, down + (size[1] - high) / 2
            edges = (left, top, left + wide, top + high)
            whole = all(edge.denominator == 1 for edge in edges) and wide > 0 and high > 0
            inside = left >= 0 and top >= 0 and edges[2] <= size[0] and edges[3] <= size[1]
            return (int(left), int(top), int(edges[2]), int(edges[3])) if whole and inside else None
    return None


def _read(source: BinaryIO) -> list[bytes]:
    """Give the boxes that describe the picture that readers show, names in front; none if it cannot be followed."""
    before = source.tell()
    try:
        return (_of_track(source) if _is_sequence(source) else []) or _of_primary(source)
    except (EOFError, OSError, struct.error, IndexError):
        return []
    finally:
        source.seek(before)


def _is_sequence(source: BinaryIO) -> bool:
    """Tell whether readers show the file's track of frames rather than its primary picture."""
    source.seek(8)
    return source.read(4) == b"avis"


def _of_track(source: BinaryIO) -> list[bytes]:
    size = source.seek(0, os.SEEK_END)
    for name, start, stop in walk(source, 0, size, _TRACK_BOXES):
        if name == b"stsd":
            described = content(source, start, stop)
            at = described.find(b"colrnclx")
            return [described[at:]] if at >= 0 else []
    return []


def _of_primary(source: BinaryIO) -> list[bytes]:
    size = source.seek(0, os.SEEK_END)
    for name, start, stop in walk(source, 0, size, ()):
        if name == b"meta":
            return _of_meta(source, start + 4, stop)
    return []


def _of_meta(source: BinaryIO, start: int, stop: int) -> list[bytes]:
    found = {name: (begin, end) for name, begin, end in walk(source, start, stop, _ITEM_BOXES)}
    if not found.keys() >= {b"pitm", b"ipco", b"ipma"}:
        return []
    named = content(source, *found[b"pitm"])
    primary = int.from_bytes(named[4 : 6 if named[0] == 0 else 8], "big")
    properties = list(islice(walk(source, *found[b"ipco"], ()), _PROPERTIES))
    numbers = _associated(content(source, *found[b"ipma"]), primary)
    own = [properties[number - 1] for number in numbers if 0 < number <= len(properties)]
    return [name + content(source, begin, end) for name, begin, end in own if name in _DESCRIBING]


def _associated(table: bytes, wanted: int) -> Iterator[int]:
    """Number the properties that an item has, from 1."""
    version, wide = table[0], table[3] & 1
    (entries,) = struct.unpack_from(">I", table, 4)
    at = 8
    for _ in range(min(entries, _PROPERTIES)):
        size = 2 if version == 0 else 4
        item, count = int.from_bytes(table[at : at + size], "big"), table[at + size : at + size + 1]
        at += size + 1
        for _ in range(count[0] if count else 0):
            number = int.from_bytes(table[at : at + 1 + wide], "big") & (0x7FFF if wide else 0x7F)
            at += 1 + wide
            if item == wanted:
                yield number
