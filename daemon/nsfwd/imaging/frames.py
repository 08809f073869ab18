"""Which frames of a file are looked at: counted and measured before the first of them is decoded.

A frame is a picture of an animation, a page of a TIFF, or one of the pictures that a MPO or HEIC holds. Decodes nothing
and knows no recipe. A **view** is one frame on one background; views are numbered so that each tells the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

from PIL import Image

from nsfwd.errors import CodedError
from nsfwd.imaging import frame_times, gain_maps
from nsfwd.ipc.child_messages import ImageLimits

CheckPixels = Callable[[tuple[int, int]], None]
"""Raises when a frame of this size may not be decoded."""


def spread(count: int, most: int) -> tuple[int, ...]:
    """Choose at most ``most`` of ``count``, evenly, the first and the last among them; of one alone the first."""
    if count <= most:
        return tuple(range(count))
    if most == 1:
        return (0,)
    return tuple((place * (count - 1) + (most - 1) // 2) // (most - 1) for place in range(most))


def by_time(times: Sequence[int], most: int) -> tuple[int, ...]:
    """Choose at most ``most`` frames evenly over the time for which they are shown, then those shown longest.

    What is shown at evenly spaced moments is chosen, from the first frame to the last. A frame shown for long is there
    at several of them: the places left over go to the frames shown longest of the others. Where all are shown equally
    long this is ``spread``.

    Args:
        times: microseconds for which each frame is shown, above 0; whole numbers, so that equal times are equal.
    """
    count = len(times)
    if count <= most or most == 1:
        return spread(count, most)
    ends = list(accumulate(times))
    first, last = times[0], 2 * ends[-1] - times[-1]  # twice the middle of the first and of the last frame
    chosen, at = set[int](), 0
    for place in range(most):
        moment = first * (most - 1) + (last - first) * place
        while at < count - 1 and 2 * ends[at] * (most - 1) <= moment:
            at += 1
        chosen.add(at)
    chosen.update(_longest([at for at in range(count) if at not in chosen], times, most - len(chosen)))
    return tuple(sorted(chosen))


def _longest(among: Iterable[int], times: Sequence[int], most: int) -> set[int]:
    """Choose the frames shown longest; of those shown alike, evenly."""
    alike: dict[int, list[int]] = {}
    for at in among:
        alike.setdefault(times[at], []).append(at)
    found: set[int] = set()
    for time in sorted(alike, reverse=True):
        left = most - len(found)
        if left <= 0:
            break
        found.update(alike[time][place] for place in spread(len(alike[time]), left))
    return found


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames that a person may be shown.

    Attributes:
        numbers: as ``seek`` counts them; a picture that every viewer shows first comes first.
        times: microseconds for which each is shown; None where they are not shown one after the other.
    """

    numbers: Sequence[int]
    times: Sequence[int] | None = None

    def chosen(self, most: int) -> list[int]:
        """Choose at most ``most`` of them: by time where there are times, else evenly by number."""
        places = spread(len(self.numbers), most) if self.times is None else by_time(self.times, most)
        return [self.numbers[place] for place in places]


def view_number(place: int, *, black: bool) -> int:
    """Number the view of the frame at ``place`` among those chosen."""
    return 2 * place + black


def place_of(view: int) -> tuple[int, bool]:
    """Tell ``place`` and ``black`` of a view's number."""
    return view // 2, bool(view % 2)


def next_view(view: int, chosen: int, *, transparent: bool) -> int:
    """Tell the view that follows; 0 after the last.

    Args:
        chosen: how many frames are looked at.
        transparent: this frame must be seen on black as well.
    """
    place, black = place_of(view)
    if transparent and not black:
        return view_number(place, black=True)
    return view_number(place + 1, black=False) if place + 1 < chosen else 0


def usable(form: str, image: Image.Image, source: BinaryIO, limits: ImageLimits, check: CheckPixels) -> Frames:
    """Name the frames that a person may be shown, and for how long.

    Pages of a TIFF and pictures of a MPO or HEIC have sizes of their own: those under ``min_side`` (thumbnails) are
    left out, and so are what no reader finds and a gain map that holds nothing of its own.

    Args:
        form: as ``formats.FORMATS`` names it.
        image: opened, nothing decoded. Afterwards it is at any frame, and one of a MPO must be opened anew: a picture
            that cannot be found spoils it.
        source: the file behind it.
        check: called with the size of each frame, or of the canvas that all are drawn on.

    Raises:
        CodedError: ``too_many_frames``, ``too_small``, or what ``check`` raises; the file's fault, no retry helps.
        EOFError: the file ends within a frame.
    """
    if form == "tiff":
        return Frames(_pages(image, limits, check))
    times: Sequence[int] | None = None
    if form == "gif":
        times, size = _walk_gif(source, limits.max_frames)
        check(size)
        count = len(times)
    else:
        count = getattr(image, "n_frames", 1)
    if count > limits.max_frames:
        raise _too_many(limits)
    if form in ("jpeg", "heif") and count > 1:
        return Frames(_pictures(image, limits, check))
    _check_small(image.size, limits)
    return Frames(range(count), times if form == "gif" else frame_times.read(form, source, count))


def _too_many(limits: ImageLimits) -> CodedError:
    return CodedError("too_many_frames", f"more than {limits.max_frames} frames")


def _check_small(size: tuple[int, int], limits: ImageLimits) -> None:
    if min(size) < limits.min_side:
        message = f"{size[0]} x {size[1]} pixels; the shortest side allowed is {limits.min_side}"
        raise CodedError("too_small", message)


def go_to(image: Image.Image, number: int) -> None:
    """Seek a frame. A picture of its own has a profile and notes of its own, which Pillow keeps for the next."""
    if image.tell() == number:
        return
    own = {key: image.info.pop(key) for key in _OWN if key in image.info} if image.format in _SEPARATE else {}
    try:
        image.seek(number)
    except Exception:
        image.info.update(own)
        raise


_SEPARATE = frozenset(("MPO", "TIFF"))
_OWN = ("icc_profile", "xmp")
"""Pillow's names of the formats whose frames share nothing, and of what each has for itself."""


def _pages(image: Image.Image, limits: ImageLimits, check: CheckPixels) -> Sequence[int]:
    """Follow a TIFF's directories. Pillow ends a chain that leads back into itself."""
    found, first, at = [], image.size, 0
    while True:
        check(image.size)
        if min(image.size) >= limits.min_side:
            found.append(at)
        at += 1
        try:
            go_to(image, at)
        except EOFError:
            break
        if at >= limits.max_frames:
            raise _too_many(limits)
    if not found:
        _check_small(first, limits)
    return found


def _pictures(image: Image.Image, limits: ImageLimits, check: CheckPixels) -> Sequence[int]:
    """Look at each picture of a MPO or HEIC, first at the one that every viewer shows, which must be fit for it."""
    _check_small(image.size, limits)
    found, size = [image.tell()], image.size
    maps: list[int] = []
    for at in range(getattr(image, "n_frames", 1)):
        if at == found[0]:
            continue
        try:
            go_to(image, at)
        except Exception:  # its place in the file is wrong: no viewer finds it either
            continue
        if min(image.size) >= limits.min_side:
            check(image.size)
            is_map = gain_maps.marked(image) and gain_maps.alike(size, image.size)
            (maps if is_map else found).append(at)
    return sorted([*found, *_real(image, found[0], maps)], key=lambda at: (at != found[0], at)) if maps else found


def _real(image: Image.Image, first: int, maps: Sequence[int]) -> list[int]:
    """Name those of what is called a gain map that are pictures of their own."""
    guide: Image.Image | None = None
    found = []
    for at in maps:
        try:
            if guide is None:
                go_to(image, first)
                guide = gain_maps.small(image)
            go_to(image, at)
            if gain_maps.follows(guide, gain_maps.small(image)):
                continue
        except MemoryError:
            raise
        except Exception:  # it is broken, and said to be so when it is decoded
            pass
        found.append(at)
    return found


def _walk_gif(source: BinaryIO, most: int) -> tuple[list[int], tuple[int, int]]:
    """Time a GIF's frames and measure the canvas they take, block by block, decoding nothing.

    Stops one frame after ``most``. A file that ends between two blocks is whole: many lack their trailer.

    Returns:
        The microseconds for which each frame is shown; width and height of the canvas.

    Raises:
        EOFError: it ends within a block.

    Source: GIF89a specification, sections 18 to 27.
    """
    source.seek(6)
    screen = _exactly(source, 7)
    width, height = int.from_bytes(screen[:2], "little"), int.from_bytes(screen[2:4], "little")
    _skip_colours(source, screen[4])
    times: list[int] = []
    delay = 0
    while len(times) <= most:
        kind = source.read(1)
        if kind == b"!":
            label = _exactly(source, 1)
            delay = _delay(source) if label == _CONTROL else delay
            _skip_blocks(source)
        elif kind == b",":
            box = _exactly(source, 9)
            left, top, wide, high = (int.from_bytes(box[at : at + 2], "little") for at in (0, 2, 4, 6))
            width, height = max(width, left + wide), max(height, top + high)
            _skip_colours(source, box[8])
            _exactly(source, 1)
            _skip_blocks(source)
            times.append(frame_times.shown(delay))
            delay = 0
        elif kind in (b";", b""):
            break
    return times, (width, height)


_CONTROL = b"\xf9"
"""Label of the extension that says how the next frame is shown."""


def _delay(source: BinaryIO) -> int:
    """Read a graphic control extension up to its terminator and give the microseconds that it names."""
    size = _exactly(source, 1)[0]
    if size == 0:
        source.seek(-1, os.SEEK_CUR)  # it is the terminator
        return 0
    block = _exactly(source, size)
    return int.from_bytes(block[1:3], "little") * 10_000


def _exactly(source: BinaryIO, size: int) -> bytes:
    found = source.read(size)
    if len(found) < size:
        raise EOFError
    return found


def _skip_colours(source: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        _exactly(source, 3 << (flags & 7) + 1)


def _skip_blocks(source: BinaryIO) -> None:
    while (size := _exactly(source, 1)[0]) > 0:
        _exactly(source, size)
