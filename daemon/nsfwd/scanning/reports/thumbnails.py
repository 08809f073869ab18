"""Thumbnails of files, decoded in a decoder process with the daemon's sandbox: files may be hostile.

The file is opened here and passed to the decoder, which may open nothing; what comes back are pixels of a fixed size.
A file that is no longer the one that was judged has no thumbnail.
"""

from __future__ import annotations

import base64
import io
import os
from typing import Self

import msgspec

from nsfwd.bundles.manifest import Recipe
from nsfwd.errors import CodedError
from nsfwd.ipc import child_messages
from nsfwd.ipc.arena import Arena
from nsfwd.ipc.blocking_child import BlockingChild
from nsfwd.ipc.child import CannotStart
from nsfwd.protocol.messages import FileIdentity
from nsfwd.scanning.trees.file_io import opened

SIDE = 160
"""Pixels: enough to see whether a verdict is right; about 4 KB as JPEG."""

BLOCKS = 10
"""Pixels of a side where nothing is to be recognised."""

LIMITS = child_messages.ImageLimits(
    max_bytes=64 << 20, max_pixels=100_000_000, min_side=1, max_frames=2_000, memory=2 << 30
)
"""The daemon's defaults, but for the shortest side: what was judged may be shown."""

SECONDS = 10.0
"""Longest time for one picture; the default of ``decode_timeout``."""

_RECIPE = Recipe(width=SIDE, height=SIDE, fit="pad", filter="bilinear", background="white", draft=1.0)
_JPEG_QUALITY = 70
_HELLO = msgspec.msgpack.Decoder(child_messages.Hello)
_GROUPS = msgspec.msgpack.Decoder(child_messages.DecodedGroup)


class Thumbnails:
    """A decoder process that is started when it is first needed, and again after a file ended it. A context manager."""

    def __init__(self) -> None:
        self._arena = Arena.create(1, SIDE * SIDE * 3, 1)
        self._decoder: BlockingChild | None = None
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()
        self._arena.close()

    def pixels(self, path: bytes, judged: FileIdentity) -> bytes:
        """Decode one file.

        Args:
            judged: the file that was judged; another one is not shown.

        Shape: uint8 (SIDE, SIDE, 3), RGB

        Raises:
            CodedError: it cannot be opened or decoded, or is another file by now; as the daemon's codes say.
        """
        try:
            with opened(path) as descriptor:
                _compare(descriptor, judged)
                pixels = self._decoded(descriptor)
                _compare(descriptor, judged)
                return pixels
        except FileNotFoundError:
            raise CodedError("not_found") from None
        except OSError as error:
            raise CodedError("unreadable", os.strerror(error.errno) if error.errno else "") from None

    def _decoded(self, descriptor: int) -> bytes:
        self._number += 1
        job = child_messages.Job(self._number, 0, self._number, b"", True, False, frames=1)
        try:
            decoder = self._decoder = self._decoder or self._started()
            decoder.send(child_messages.encode(child_messages.Decode([job])), [descriptor])
            (result,) = _GROUPS.decode(decoder.receive(SECONDS)).results
        except TimeoutError:
            self._end()
            raise CodedError("decode_timeout") from None
        except (EOFError, CannotStart, ValueError, msgspec.MsgspecError) as error:
            self._end()
            raise CodedError("decoder_died", str(error) if isinstance(error, CannotStart) else "") from None
        if result.code:
            raise CodedError(result.code, result.message)
        with self._arena.slot(0) as slot:
            return bytes(slot)

    def _started(self) -> BlockingChild:
        """Start a decoder, send it its setup, and wait until it is ready."""
        self._decoder = decoder = BlockingChild("nsfwd.imaging.decoder", name="decoder", fds=[self._arena.fd])
        setup = child_messages.DecoderSetup(0, SIDE * SIDE * 3, [msgspec.to_builtins(_RECIPE)], (), LIMITS)
        decoder.send(child_messages.encode(setup))
        _HELLO.decode(decoder.receive(SECONDS))
        return decoder

    def _end(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None


def _compare(descriptor: int, judged: FileIdentity) -> None:
    """Check that a file is still the one that was judged. Compared here: its times need not fit a message.

    Raises:
        CodedError: ``unreadable``: it is another one by now.
    """
    if FileIdentity.of(os.fstat(descriptor)) != judged:
        raise CodedError("unreadable", "the file was changed or replaced since it was judged")


def data_uri(pixels: bytes, *, blurred: bool) -> str:
    """Return a thumbnail as a URI for a page.

    Args:
        pixels: of ``Thumbnails.pixels``.
        blurred: with so few pixels that nothing in it can be recognised, whatever a reader of the page does.
    """
    from PIL import Image

    image = Image.frombytes("RGB", (SIDE, SIDE), pixels)
    if blurred:
        image = image.resize((BLOCKS, BLOCKS), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
