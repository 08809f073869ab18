"""Encoded bytes to pixels by a recipe: limits first, then decode, turn upright, RGB, fit.

The one border at which Pillow's exceptions become codes. It opens no path, knows no process and no slot; the decoder
process and library users call it alike.
"""

from __future__ import annotations

import errno
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from PIL import AvifImagePlugin, Image, ImageFile

from nsfwd.bundles.manifest import Recipe
from nsfwd.errors import CodedError
from nsfwd.imaging import boxes, colour_modes, declared_colours, formats, frames, orientation, resizing, tiff
from nsfwd.ipc.child_messages import ImageLimits
from nsfwd.quantities import format_size

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns at one size and fails at another; ours is checked below
ImageFile.LOAD_TRUNCATED_IMAGES = False  # a part of a picture must never get a whole picture's verdict
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # decoders are one a core already
warnings.filterwarnings("ignore", module=r"PIL\.")  # a broken file is told by its code

_SEQUENTIAL = frozenset(("gif", "png", "webp", "avif"))
"""Formats whose later frames build on earlier ones. A picture of any other stands for itself and is opened anew."""

_BACKGROUNDS = {"white": colour_modes.WHITE, "black": colour_modes.BLACK}


@dataclass(frozen=True, slots=True)
class WantedView:
    """Which view of an image to decode.

    Attributes:
        view: 0 for the first, then what ``Pixels.next`` said.
        frames: how many frames to look at most; 0 for as many as the recipe says.
    """

    view: int = 0
    frames: int = 0


FIRST = WantedView()


@dataclass(frozen=True, slots=True)
class Pixels:
    """One preprocessed view of an image.

    Attributes:
        data: uint8 (recipe.height, recipe.width, 3), RGB, 0-255, C order.
        width, height: of the encoded image, before its EXIF orientation.
        format: as ``formats.FORMATS`` names it.
        frame, frames, sampled: which frame it shows, of how many, and how many of them are looked at.
        background: what transparent pixels lie on, ``white`` or ``black``; empty where there are none.
        next: the view that follows; 0 after the last.
    """

    data: bytes
    width: int
    height: int
    format: str
    frame: int = 0
    frames: int = 1
    sampled: int = 1
    background: str = ""
    next: int = 0


@dataclass(slots=True)
class Seen:
    """What was found out about an image so far, also when it ends in an error."""

    width: int = 0
    height: int = 0
    format: str = ""


def decode(
    source: BinaryIO, recipe: Recipe, limits: ImageLimits, seen: Seen | None = None, wanted: WantedView = FIRST
) -> Pixels:
    """Turn one view of an encoded image into the recipe's pixels.

    Args:
        source: seekable, at its beginning.
        recipe: width to ``draft`` are carried out here; scale, mean, std and channels are the engine's.
        limits: applied before the work they limit.
        seen: filled in with size and format as soon as they are known.
        wanted: which view.

    Returns:
        Pixels of that view, and which one follows.

    Raises:
        CodedError: ``empty``, ``too_large``, ``not_an_image``, ``too_many_pixels``, ``too_many_frames``, ``too_small``,
            ``corrupt`` (also truncated) are the file's and no retry helps; ``unreadable`` is the disk's and one may;
            ``decoder_memory`` says that this process may not have the memory it takes.
    """
    return OpenImage(source, recipe, limits, seen, frames=wanted.frames).decode(wanted.view)


class OpenImage:
    """An encoded image whose views are decoded one after the other: each costs what lies between it and the last.

    Args:
        frames: how many frames to look at most; 0 for as many as the recipe says. All else as ``decode``.

    Attributes:
        goes_on: its frames build on each other, so that it is worth keeping for a later view.
        pixels: of the canvas or the first frame.

    Raises:
        CodedError: as ``decode``.
    """

    def __init__(
        self, source: BinaryIO, recipe: Recipe, limits: ImageLimits, seen: Seen | None = None, *, frames: int = 0
    ) -> None:
        self._source = source
        self._recipe = recipe
        self._limits = limits
        self._seen = seen if seen is not None else Seen()
        head = _look(source, limits)
        form = formats.recognise(head)
        if form is None:
            raise CodedError("not_an_image")
        self._form = form
        self._seen.format = form.name
        self.goes_on = form.name in _SEQUENTIAL
        announced = formats.announced_size(form, head)
        if announced is not None:
            _check_pixels(announced, limits, self._seen)
        with _translating(form, source):
            self._open(frames)

    def _open(self, most: int) -> None:
        self._image: Image.Image = self._form.plugin(self._source)
        _check_pixels(self._image.size, self._limits, self._seen)
        self.pixels = self._image.width * self._image.height
        self._usable = frames.usable(
            self._form.name, self._image, self._source, self._limits, lambda size: _check_pixels(size, self._limits)
        )
        self._parts = _parts(self._form, self._image, self._source, self._limits)
        if len(self._parts) > 1:
            self._usable = frames.Frames(range(len(self._parts)))
        self._chosen = self._usable.chosen(most or self._recipe.frames.sample)
        if self._form.name == "jpeg" and getattr(self._image, "n_frames", 1) > 1:
            self._source.seek(0)
            self._image = self._form.plugin(self._source)

    def decode(self, view: int) -> Pixels:
        """Decode one view: 0 for the first, then what ``Pixels.next`` said.

        Raises:
            CodedError: as the function ``decode``.
        """
        with _translating(self._form, self._source):
            return self._decode(view)

    def _decode(self, view: int) -> Pixels:
        recipe, image = self._recipe, self._image
        place, black = frames.place_of(view)
        if place >= len(self._chosen):
            raise CodedError("unreadable", "the file changed while it was read")
        frame = self._chosen[place]
        single = len(self._parts) == 1
        frames.go_to(image, frame if single else 0)
        background = "black" if black else ("white" if recipe.background == "both" else recipe.background)
        data, transparent = _pixels(
            image, self._form, self._source, recipe, background, self._parts[0 if single else frame]
        )
        twice = transparent and recipe.background == "both"
        return Pixels(
            data,
            self._seen.width,
            self._seen.height,
            self._form.name,
            frame,
            len(self._usable.numbers),
            len(self._chosen),
            background if transparent else "",
            frames.next_view(view, len(self._chosen), transparent=twice),
        )


@contextmanager
def _translating(form: formats.Format, source: BinaryIO) -> Iterator[None]:
    try:
        yield
    except CodedError:
        raise
    except MemoryError:
        raise CodedError("decoder_memory") from None
    except Exception as error:  # plug-ins raise nearly anything for a broken file
        raise _translated(error, form, source) from error


def _look(source: BinaryIO, limits: ImageLimits) -> bytes:
    """Check the encoded size and read the first bytes."""
    try:
        size = source.seek(0, os.SEEK_END)
        if size > limits.max_bytes:
            raise CodedError("too_large", f"{size} bytes; the limit is {format_size(limits.max_bytes)}")
        source.seek(0)
        head = source.read(formats.HEAD)
        source.seek(0)
    except OSError as error:
        raise CodedError("unreadable", _reason(error)) from error
    if not head:
        raise CodedError("empty")
    return head


def _parts(
    form: formats.Format, image: Image.Image, source: BinaryIO, limits: ImageLimits
) -> tuple[boxes.Part | None, ...]:
    """Name the parts of a picture that viewers show; None is the whole.

    All of them show a clean aperture that begins at the first pixel; of any other some show the whole picture.
    """
    if form.name != "avif" or getattr(image, "n_frames", 1) > 1:
        return (None,)
    part = boxes.clean_aperture(source, image.size)
    if part is None or min(part[2] - part[0], part[3] - part[1]) < limits.min_side:
        return (None,)
    return (part,) if part[:2] == (0, 0) else (None, part)


def _pixels(
    image: Image.Image, form: formats.Format, source: BinaryIO, recipe: Recipe, background: str, part: boxes.Part | None
) -> tuple[bytes, bool]:
    """Decode the frame that ``image`` is at, and tell whether any pixel of it, or of a part of it, is transparent."""
    conversion = declared_colours.conversion(image, form.name, source)
    early = conversion is not None and conversion.early
    if form.name == "png":
        image.load()  # its orientation may lie behind the pixels
    wanted = orientation.stored(form.name, image) if recipe.rotate else 1
    turns = orientation.turns(form.name, image, wanted)
    if form.name == "jpeg" and not early:
        _draft(image, recipe, wanted)
    image.load()
    image = _as_meant(image, form)
    if part is not None:
        image = image.crop(part)
    if conversion is not None and early:
        image = conversion.to_srgb(colour_modes.to_eight_bits(image))
    image, transparent = colour_modes.to_rgb(image, _BACKGROUNDS[background])
    for turn in turns:
        image = image.transpose(turn)
    image = resizing.fitted(image, recipe, _BACKGROUNDS[background])
    if conversion is not None and not early:
        image = conversion.to_srgb(image)
    return image.tobytes(), transparent


def _as_meant(image: Image.Image, form: formats.Format) -> Image.Image:
    """Undo what Pillow makes of a format and its viewers do not."""
    if form.name == "tiff":
        return tiff.as_meant(image)
    return colour_modes.without_blank_alpha(image) if form.name == "bmp" else image


def _check_pixels(size: tuple[int, int], limits: ImageLimits, seen: Seen | None = None) -> None:
    width, height = size
    if seen is not None:
        seen.width, seen.height = width, height
    if width * height > limits.max_pixels:
        raise CodedError("too_many_pixels", f"{width} x {height} pixels; the limit is {limits.max_pixels}")


def _draft(image: Image.Image, recipe: Recipe, stored: int) -> None:
    """Let the JPEG decoder leave out detail that the filter would average away."""
    width, height = image.size
    lying = stored in orientation.LYING
    size = resizing.draft_size(recipe, (height, width) if lying else (width, height))
    if size is not None:
        image.draft(None, (size[1], size[0]) if lying else size)


_OF_THE_FILE = frozenset((None, errno.EINVAL, errno.EOVERFLOW, errno.EFBIG))
"""What OSError says of a broken file rather than of the disk: an offset that leads nowhere, or Pillow's own word."""


def _translated(error: Exception, form: formats.Format, source: BinaryIO) -> CodedError:
    """Find the code for what Pillow raised."""
    if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
        return CodedError("unreadable", _reason(error))
    if _is_truncated(error, form, source):
        return CodedError("corrupt", f"the {form.name} file is truncated")
    return CodedError("corrupt", f"the {form.name} file cannot be decoded")


_WORDS_FOR_TRUNCATED = ("truncated", "unexpected end", "end of file", "not enough", "eof")


def _is_truncated(error: Exception, form: formats.Format, source: BinaryIO) -> bool:
    if isinstance(error, EOFError | struct.error):
        return True
    words = str(error).lower()
    return any(word in words for word in _WORDS_FOR_TRUNCATED) or formats.cut_short(form, source)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno is not None else "reading failed"
