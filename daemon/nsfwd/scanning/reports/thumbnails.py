"""Small pictures of files, decoded where hostile files are met: in a decoder process, sealed as the daemon's are.

The file is opened here and passed to the decoder, which may open nothing; what comes back are pixels of a fixed size.
A file that is no longer the one that was judged has no thumbnail.
"""

from __future__ import annotations

import base64
import io
import os
import select
import subprocess
import time
from contextlib import closing
from typing import Self

import msgspec

from nsfwd.bundles.manifest import Recipe
from nsfwd.errors import CodedError
from nsfwd.ipc import child_messages
from nsfwd.ipc.arena import Arena
from nsfwd.ipc.interpreter import start_python
from nsfwd.ipc.link import Link
from nsfwd.scanning.trees.file_entry import FileIdentity
from nsfwd.scanning.trees.open_files import opened

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


class Thumbnails:
    """A decoder process that is started when it is first needed, and anew when a file ended it. A context manager."""

    def __init__(self) -> None:
        self._arena = Arena.create(1, SIDE * SIDE * 3, 1)
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
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
        link = self._started()
        self._number += 1
        job = child_messages.Job(self._number, 0, self._number, b"", True, False, frames=1)
        try:
            link.send(child_messages.encode(child_messages.Decode([job])), [descriptor])
            result = self._answer(link)
        except EOFError:
            self._end()
            raise CodedError("decoder_died") from None
        if result.code:
            raise CodedError(result.code, result.message)
        with self._arena.slot(0) as slot:
            return bytes(slot)

    def _answer(self, link: Link) -> child_messages.Decoded:
        until = time.monotonic() + SECONDS
        waiting = select.poll()
        waiting.register(link.fileno(), select.POLLIN)
        while waiting.poll(max(0.0, until - time.monotonic()) * 1000):
            for result in msgspec.msgpack.decode(link.receive_packet(), type=child_messages.DecodedGroup).results:
                if result.number == self._number:
                    return result
        self._end()
        raise CodedError("decode_timeout")

    def _started(self) -> Link:
        if self._link is not None:
            return self._link
        self._link, theirs = Link.pair()
        try:
            with closing(theirs):
                self._process = _decoder(theirs.fileno(), self._arena.fd)
            self._greet(self._link)
        except EOFError:
            self._end()
            raise CodedError("decoder_died", "the decoder process does not start") from None
        except BaseException:
            self._end()
            raise
        return self._link

    def _greet(self, link: Link) -> None:
        """Send a new decoder its setup and wait until it is ready."""
        setup = child_messages.DecoderSetup(0, SIDE * SIDE * 3, msgspec.to_builtins(_RECIPE), (), LIMITS)
        link.send(child_messages.encode(setup))
        if not select.select([link], [], [], SECONDS)[0]:
            raise CodedError("decode_timeout", "the decoder process does not start")
        msgspec.msgpack.decode(link.receive_packet(), type=child_messages.Hello)

    def _end(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _compare(descriptor: int, judged: FileIdentity) -> None:
    """See that a file is still the one that was judged. Compared here: its times need not fit a message.

    Raises:
        CodedError: ``unreadable``: it is another one by now.
    """
    if FileIdentity.of(os.fstat(descriptor)) != judged:
        raise CodedError("unreadable", "the file was changed or replaced since it was judged")


def _decoder(*inherited: int) -> subprocess.Popen[bytes]:
    """Start a decoder process with these descriptors."""
    return start_python(
        "nsfwd.imaging.decoder",
        *map(str, inherited),
        inherited=inherited,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def data_uri(pixels: bytes, *, blurred: bool) -> str:
    """Spell a thumbnail as it stands in a page.

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
