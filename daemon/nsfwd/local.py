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
from typing import TYPE_CHECKING, Any

import uvloop

from nsfwd.client import Client, Options, Reply
from nsfwd.client.core import ClientCore
from nsfwd.config import TABLE, Settings, find_file, load_settings
from nsfwd.errors import NsfwdError, SettingsError
from nsfwd.pipeline.pipeline import Pipeline
from nsfwd.protocol.messages import Lane, Style
from nsfwd.server.connection import Connection
from nsfwd.server.context import ServerContext
from nsfwd.server.daemon import open_bundles
from nsfwd.server.listen_spec import Family, ListenAddress, ListenSpec
from nsfwd.server.peer_credentials import Peer

if TYPE_CHECKING:
    from nsfwd.bundles.bundle_store import Bundle

ADDRESS = "local"

_SPEC = ListenSpec(ListenAddress(Family.UNIX, path=ADDRESS), Style.PLAIN, Lane.NORMAL)
_PEER = Peer(ADDRESS, ADDRESS, admin=False)
_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})


class _House:
    """A pipeline in a thread of its own.

    Attributes:
        error: why it had to give up.
    """

    def __init__(self, settings: Settings, bundles: Sequence[Bundle]) -> None:
        self._settings, self._bundles = settings, bundles
        self._started: Future[ServerContext] = Future()
        self._connections: set[Connection] = set()
        self._stop: asyncio.Event
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nsfwd", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # whoever forgets it leaves no processes behind, and ends all the same

    def service(self) -> ServerContext:
        """Return what connections share, once images are being scored.

        Raises:
            NsfwdError: they never will be; the message says why.
        """
        return self._started.result()

    def welcome(self, sock: socket.socket) -> None:
        """Serve a client at the other end of ``sock``."""
        service = self.service()
        service.loop.call_soon_threadsafe(self._serve, sock, service)

    def close(self) -> None:
        """End the children and the thread. Idempotent."""
        atexit.unregister(self.close)
        if self._started.done() and not self._started.exception():
            self._started.result().loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self, sock: socket.socket, service: ServerContext) -> None:
        connection = Connection(sock, _SPEC, _PEER, service, on_closed=self._connections.discard)
        self._connections.add(connection)
        connection.start()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._live())
        except BaseException as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self.error = error
        if not self._started.done():
            self._started.set_exception(error)

    async def _live(self) -> None:
        self._stop = asyncio.Event()
        pipeline = Pipeline(self._settings, self._bundles)
        service = ServerContext(asyncio.get_running_loop(), self._settings, pipeline, self._bundles)
        pipeline.start()
        stop: asyncio.Future[Any] = asyncio.create_task(self._stop.wait())
        ready: asyncio.Future[Any] = asyncio.create_task(pipeline.ready.wait())
        try:
            failed: asyncio.Future[Any] = pipeline.failed
            await asyncio.wait({ready, failed}, return_when=asyncio.FIRST_COMPLETED)
            if not pipeline.failed.done():
                self._started.set_result(service)
                await asyncio.wait({stop, failed}, return_when=asyncio.FIRST_COMPLETED)
            if pipeline.failed.done():
                self._give_up(pipeline.failed.exception() or NsfwdError("the pipeline ended"))
        finally:
            stop.cancel()
            ready.cancel()
            pipeline.drain()
            for connection in tuple(self._connections):
                connection.close()
            pipeline.expire_all()
            await pipeline.stop()


class Scanner(Client):
    """A ``Client`` that needs no daemon. Close it, or use it as a context manager: it has processes to end.

    Args:
        options: lane, deadline and identity of every scan that names none of its own.
        settings: as of ``nsfwd serve`` (``models``, ``models_dir``, ``engine``, ``max_bytes``, ...); they win over
            variables and the file of the configuration, as flags do. Roots are not asked for: the caller may read
            what it may read.

    Raises:
        SettingsError: a setting is unknown or wrong.
        BundleError: the bundle is missing or wrong.

    The first call, or ``connect``, takes as long as the engine takes to load, and raises ``EngineError`` or
    ``BundleError`` when it cannot score.
    """

    def __init__(self, *, options: Options | None = None, **settings: Any) -> None:
        super().__init__(options=options, patience=0)
        unknown = settings.keys() - TABLE.keys()
        if unknown:
            raise SettingsError(f"there is no setting {', '.join(sorted(unknown))}")
        given = {**settings, "roots": ("/",), "peers": ()}
        self._settings = load_settings(find_file(None, os.environ), os.environ, given)
        self._bundles = open_bundles(self._settings)
        self._house: _House | None = None

    def close(self) -> None:
        """End it and its processes. Idempotent; a later call begins anew."""
        super().close()
        if self._house is not None:
            house, self._house = self._house, None
            house.close()

    def scan_image(self, image: Any, *, options: Options | None = None) -> Reply:
        """Score a picture that is in memory already.

        Args:
            image: a Pillow image, or an array of uint8: (height, width), (height, width, 3) RGB or (..., 4) RGBA.
        """
        return self.scan_bytes(encode(image), options=options)

    def _open(self) -> None:
        if self._house is None:
            self._house = _House(self._settings, self._bundles)
        try:
            self._house.service()
        except BaseException:
            self.close()
            raise
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._house.welcome(theirs)
        self.address = ADDRESS
        self._outgoing.clear()

    def _recover(self, core: ClientCore, reason: str) -> None:
        error = self._house.error if self._house is not None else None
        self.close()
        if isinstance(error, NsfwdError):
            raise error
        super()._recover(core, reason)


def encode(image: Any) -> bytes:
    """Spell a picture as a PNG, which loses nothing, with what says how it is to be seen (orientation, colours).

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
