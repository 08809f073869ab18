"""How long each frame of an animation is shown, read from the file's structure: nothing is decoded.

Where a file's structure cannot be followed there are no times, and its frames are taken by number. Knows no recipe.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from nsfwd.imaging import boxes

SHORTEST = 10_000
"""Microseconds: browsers show a frame that names this or less for ``USUAL``."""

USUAL = 100_000
"""Source: Blink, ImageFrame durations; Gecko, FrameTimeout::Normalize."""


def read(form: str, source: BinaryIO, count: int) -> list[int] | None:
    """Tell the microseconds for which each frame is shown.

    Args:
        form: as ``formats.FORMATS`` names it.
        source: seekable; left where it was.
        count: how many frames there are.

    Returns:
        ``count`` values above 0, or None where the format has no times or they cannot be read for all frames.
    """
    reader = _READERS.get(form)
    if reader is None or count < 2:
        return None
    before = source.tell()
    try:
        times = [shown(named) for _, named in zip(range(count), reader(source), strict=False)]
    except (EOFError, OSError, struct.error):
        return None
    finally:
        source.seek(before)
    return times if len(times) == count else None


def shown(named: int) -> int:
    """Give the microseconds for which viewers show a frame that names so many."""
    return named if named > SHORTEST else USUAL


def _png(source: BinaryIO) -> Iterator[int]:
    """Walk the chunks of an APNG. The picture in front is a frame of its own where no time is named for it.

    Source: PNG specification, third edition, sections 5.3 and 11.3.6.
    """
    source.seek(8)
    timed = False
    while len(head := source.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"fcTL":
            timed = True
            over, under = struct.unpack_from(">HH", source.read(length), 20)
            length = 0
            yield over * 1_000_000 // (under or 100)
        elif name == b"IDAT" and not timed:
            timed = True
            yield USUAL
        elif name == b"IEND":
            return
        source.seek(length + 4, os.SEEK_CUR)


def _webp(source: BinaryIO) -> Iterator[int]:
    """Walk the chunks of a WebP. Source: https://developers.google.com/speed/webp/docs/riff_container."""
    source.seek(12)
    while len(head := source.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        left = length + length % 2
        if name == b"ANMF":
            frame = source.read(16)
            left -= len(frame)
            yield int.from_bytes(frame[12:15], "little") * 1000
        source.seek(left, os.SEEK_CUR)


def _avif(source: BinaryIO) -> Iterator[int]:
    """Read the table of times of an AVIF's first track of pictures.

    Source: ISO/IEC 14496-12, sections 8.3 to 8.6.
    """
    size = source.seek(0, os.SEEK_END)
    for track in _tracks(source, size):
        if track.get(b"hdlr", b"")[8:12] in (b"pict", b"vide"):
            header, table = track.get(b"mdhd", b""), track.get(b"stts", b"")
            (scale,) = struct.unpack_from(">I", header, 20 if header[:1] == b"\1" else 12)
            (entries,) = struct.unpack_from(">I", table, 4)
            for at in range(entries):
                times, delta = struct.unpack_from(">II", table, 8 + 8 * at)
                for _ in range(times):
                    yield delta * 1_000_000 // (scale or 1)
            return


_BOXES = (b"mdia", b"minf", b"stbl")
_WANTED = (b"hdlr", b"mdhd", b"stts")


def _tracks(source: BinaryIO, end: int) -> Iterator[dict[bytes, bytes]]:
    """Give the boxes that matter of each track."""
    for name, start, stop in boxes.walk(source, 0, end, (b"moov",)):
        if name == b"trak":
            found = boxes.walk(source, start, stop, _BOXES)
            yield {box: boxes.content(source, begin, finish) for box, begin, finish in found if box in _WANTED}


_READERS: dict[str, Callable[[BinaryIO], Iterator[int]]] = {"png": _png, "webp": _webp, "avif": _avif}
"""GIF is not among them: its frames are counted by the same walk that finds their times (``frames``)."""
