"""``Scanner``: scores without a daemon, on the daemon's own code.

    from nsfwd.local import Scanner

    with Scanner(models_dir="models") as scanner:
        print(scanner.scan("a.jpg").verdict)

The very pipeline that ``nsfwd serve`` runs, in a thread of this process, with decoders and an engine as its children,
and a ``Client`` that talks to it over a pair of sockets: the same limits, policy and replies, and a broken picture can
harm the caller as little as it can the daemon. It listens nowhere. Knows no request, no pixel and no dialect.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from nsfwd.client import Client, Options, Reply
from nsfwd.client.core import ClientCore
from nsfwd.client.scan_inputs import Opened
from nsfwd.config import TABLE, Settings, find_file, load_settings
from nsfwd.errors import NsfwdError, SettingsError
from nsfwd.protocol.messages import Lane, Style
from nsfwd.server.daemon import open_bundles
from nsfwd.server.embedded import EmbeddedServer
from nsfwd.server.listen_spec import Family, ListenAddress, ListenSpec
from nsfwd.server.peer_credentials import Peer

if TYPE_CHECKING:
    from nsfwd.bundles.bundle_store import Bundle

ADDRESS = "local"

_SPEC = ListenSpec(ListenAddress(Family.UNIX, path=ADDRESS), Style.PLAIN, Lane.NORMAL)
_PEER = Peer(ADDRESS, ADDRESS, admin=False)
_OPEN: dict[str, Any] = {"roots": ("/",), "peers": ()}
_BATCH = ("n", "height", "width", 3)
_RGB = 3
_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})


class _ServerThread:
    """A server in a thread of its own.

    Attributes:
        error: why it ended; None while it runs.
    """

    def __init__(self, settings: Settings, bundles: Sequence[Bundle]) -> None:
        self._settings, self._bundles = settings, bundles
        self._built: Future[EmbeddedServer] = Future()
        self._ready: Future[EmbeddedServer] = Future()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nsfwd", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a program that forgets to close it leaves no processes behind, and ends

    def until_ready(self) -> None:
        """Wait until images are scored.

        Raises:
            NsfwdError: they never will be; the message says why.
        """
        self._ready.result()

    def connect(self, sock: socket.socket) -> None:
        """Serve a client at the other end of ``sock``. Only after ``until_ready``."""
        server = self._built.result()
        server.context.loop.call_soon_threadsafe(server.acceptor.serve, sock, _SPEC, _PEER)

    def close(self) -> None:
        """End the children and the thread. Idempotent."""
        atexit.unregister(self.close)
        with suppress(Exception):  # it may never have been built, or its loop is closed
            server = self._built.result()
            server.context.loop.call_soon_threadsafe(server.request_stop)
        self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self.error = error
        for future in (self._built, self._ready):
            if not future.done():
                future.set_exception(error)

    async def _serve(self) -> None:
        server = EmbeddedServer(self._settings, self._bundles)
        self._built.set_result(server)
        server.start()
        try:
            if not await server.until_ready():
                raise NsfwdError("the scanner was closed")
            self._ready.set_result(server)
            await server.until_stop()
        except NsfwdError as error:
            self._give_up(error)  # before the connections are closed, whose client asks for it
        finally:
            await server.stop()


class Scanner(Client):
    """A ``Client`` that needs no daemon. Close it, or use it as a context manager: it has processes to end.

    The first call, or ``connect``, takes as long as the engine takes to load.

    Args:
        settings: all of them, as of ``load_settings``; then no variable and no file of this machine is read.
        options: lane, deadline and identity of every scan that names none of its own.
        changes: settings of ``nsfwd serve`` by name (``models``, ``models_dir``, ``engine``, ``max_bytes``, ...); they
            win over the variables and the configuration file of this machine, as flags do.

    The setting ``roots`` is ignored: files are limited by the permissions of the caller alone.

    Raises:
        SettingsError: a setting is unknown or wrong, or ``settings`` and single settings are both given.
        BundleError: the bundle is missing or wrong.
        EngineError: from ``connect`` and the first call: the engine cannot score. A retry rarely helps.
    """

    def __init__(self, *, settings: Settings | None = None, options: Options | None = None, **changes: Any) -> None:
        super().__init__(options=options, patience=0)
        if unknown := changes.keys() - TABLE.keys():
            raise SettingsError(f"there is no setting {', '.join(sorted(unknown))}")
        if settings is None:
            settings = load_settings(find_file(None, os.environ), os.environ, {**changes, **_OPEN})
        elif changes:
            raise SettingsError(f"settings are given as a whole; {', '.join(sorted(changes))} cannot be changed")
        self._settings = msgspec.structs.replace(settings, **_OPEN)
        self._bundles = open_bundles(self._settings)
        self._server: _ServerThread | None = None

    def close(self) -> None:
        """End it and its processes. Idempotent; a later call starts them again."""
        super().close()
        if self._server is not None:
            server, self._server = self._server, None
            server.close()

    def scan_image(self, image: Any, *, options: Options | None = None) -> Reply:
        """Score a picture that is in memory.

        Args:
            image: a Pillow image, or an array of uint8: (height, width), (height, width, 3) RGB or (..., 4) RGBA.
        """
        return self.scan_bytes(encode(image), options=options)

    def scan_arrays(self, batch: Any, *, options: Options | None = None) -> list[Reply]:
        """Score arrays of pixels in the way of every image: limits, resizing, policy and overrides are the same.

        Args:
            batch: an array of NumPy, or whatever ``numpy.asarray`` takes.

        Shape:
            batch: uint8 (n, height, width, 3), RGB.

        Returns:
            One reply for each array, in their order; its ``path`` is the position in the batch. Each array counts
            against ``max_bytes`` with 3 bytes a pixel.

        Raises:
            NsfwdError: the batch has another shape or type; the caller's fault.
        """
        import numpy as np

        pixels = np.asarray(batch)
        if pixels.ndim != len(_BATCH) or pixels.shape[3] != _RGB or pixels.dtype != np.uint8 or 0 in pixels.shape[1:]:
            raise NsfwdError(f"a batch of uint8 {_BATCH} is needed, not {pixels.dtype} {pixels.shape}")
        opened = (_in_memory(one, str(number)) for number, one in enumerate(pixels))
        return sorted(self.scan_many(opened, options=options), key=lambda reply: int(reply.path))

    def _open(self) -> None:
        if self._server is None:
            self._server = _ServerThread(self._settings, self._bundles)
        try:
            self._server.until_ready()
        except BaseException:
            self.close()
            raise
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._server.connect(theirs)
        self.address = ADDRESS
        self._outgoing.clear()

    def _recover(self, core: ClientCore, reason: str) -> None:
        error = self._server.error if self._server is not None else None
        self.close()
        if isinstance(error, NsfwdError):
            raise error
        super()._recover(core, reason)


def _in_memory(pixels: Any, name: str) -> Opened:
    """An open file without a name that holds pixels as a BMP: a hundred times faster to write than a PNG."""
    from PIL import Image

    opened = Opened(os.memfd_create("nsfwd-array", os.MFD_CLOEXEC), name)
    with open(opened.descriptor, "wb", closefd=False) as file:
        Image.fromarray(pixels).save(file, "BMP")
    return opened


def encode(image: Any) -> bytes:
    """Encode a picture as a PNG, which loses nothing, with its orientation and its colour space.

    Args:
        image: as of ``Scanner.scan_image``.

    Raises:
        NsfwdError: it is neither a Pillow image nor such an array; the caller's fault.
    """
    from PIL import Image

    try:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    except (TypeError, AttributeError) as error:
        raise NsfwdError(f"a Pillow image or an array of uint8 is needed: {error}") from error
    orientation = picture.getexif()
    if picture.mode not in _PNG_MODES:
        picture = picture.convert("RGBA" if "A" in picture.mode or "a" in picture.mode else "RGB")
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1, exif=orientation)
    return out.getvalue()
