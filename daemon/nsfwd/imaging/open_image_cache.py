"""Images that stay open between their views, so that an animation is not decoded from its start for each of them.

A decoder works on views of several images in turn. It keeps a few, within a budget of memory, and for seconds
only; what is not kept is opened anew. Decodes nothing itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

from nsfwd.imaging.preprocess import OpenImage, Seen
from nsfwd.ipc.child_messages import Stamp, stamp_of

MOST = 8
"""Images kept at once: as many animations as a decoder is likely to be given views of in turn."""

BUDGET = 128 * 1024 * 1024
"""Bytes of canvas and content over all that are kept; what alone takes more is not."""

SECONDS = 5.0
"""An idle decoder lets go of what it keeps after this long: the next view of an image follows when one is scored."""

STALE = 30.0
"""Nobody asks any more for a view that has not been asked for after this long."""

_PIXEL_BYTES = 12
"""A canvas, the one before it, and a frame, in RGBA."""


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An open image.

    Attributes:
        file: where it is read from.
        content: bytes of it that lie in memory.
        stamp: of the file as it was opened.
        seen: what was found out about it.
        since: ``time.monotonic()`` when its last view was decoded.
    """

    image: OpenImage
    file: BinaryIO
    content: int
    stamp: Stamp
    seen: Seen
    since: float

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        return self.image.pixels * _PIXEL_BYTES + self.content


class OpenImageCache:
    """The open images, by the number of their job: all views of one image have the same."""

    def __init__(self) -> None:
        self._kept: dict[int, CachedImage] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, number: int, stamp: Stamp | None) -> CachedImage | None:
        """Take out what is kept for a job, if it is the file that the job asks for, unchanged since."""
        kept = self._kept.pop(number, None)
        if kept is None or kept.stamp == stamp == stamp_of_file(kept.file.fileno()):
            return kept
        kept.file.close()
        return None

    def keep(self, number: int, kept: CachedImage) -> None:
        """Keep an image for its next view, unless that is too much.

        Those that are kept come first: if each drove out another, images in turn would all be opened anew each time.
        """
        for old in [old for old, one in self._kept.items() if one.since < kept.since - STALE]:
            self._kept.pop(old).file.close()
        if len(self._kept) >= MOST or kept.bytes + sum(one.bytes for one in self._kept.values()) > BUDGET:
            kept.file.close()
        else:
            self._kept[number] = kept

    def clear(self) -> None:
        """Let go of all."""
        while self._kept:
            self._kept.popitem()[1].file.close()


def stamp_of_file(descriptor: int) -> Stamp:
    """Return the stamp of an open file as it is now."""
    found = os.fstat(descriptor)
    return stamp_of(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
