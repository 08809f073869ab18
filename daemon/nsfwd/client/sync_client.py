"""``Client``: the daemon from plain, blocking code. One per thread.

It reads while it sends and has at most a window of requests in flight, so neither side can block the other for good.
Moves bytes for ``core``; knows nothing of what they mean.
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from nsfwd.backoff import RECONNECT
from nsfwd.client.addresses import candidates, connect
from nsfwd.client.core import ClientCore
from nsfwd.client.inbox import Inbox
from nsfwd.client.results import Reply
from nsfwd.client.scan_inputs import Item, Options, Path
from nsfwd.client.sockets import CHUNK, Outgoing, has_ended, passes_descriptors
from nsfwd.errors import ConnectionLost, DaemonUnreachable

PATIENCE = 10.0
"""Seconds; a daemon that is restarted, or has its hands full, is back by then."""

_DAY = 86400.0
"""Most seconds of one poll, which takes no more than 24 days; a longer deadline is refused by the daemon."""


class Client:
    """A connection to the daemon, opened at the first call and again after a loss. A context manager.

    Args:
        address: ``tcp:HOST:PORT`` or ``unix:/path``, or several, of which the first that answers is taken; the usual
            places when left out (``addresses.candidates``).
        options: lane, deadline and identity of every scan that names none of its own.
        timeout: longest silence in seconds while replies are due. None is five seconds beyond the deadlines of the
            requests, and ten minutes where one has none, as in the background lane.
        patience: seconds within which what was refused is asked again when the daemon said that it may be, and a lost
            daemon is looked for again, at every address, and asked what it has not answered. 0 asks once.

    Every method raises ``DaemonUnreachable`` when no daemon answers and ``ConnectionLost`` when it went away, or is
    silent for too long; what had no reply is not done, so a retry is safe.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        options: Options | None = None,
        timeout: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._address = address
        self._options = options or Options()
        self._timeout = timeout
        self._patience = patience
        self._socket: socket.socket | None = None
        self._core = ClientCore(patience)
        self._outgoing = Outgoing()
        self.address = ""

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def passes_descriptors(self) -> bool:
        """Whether the daemon was reached over a Unix socket, by which alone descriptors pass."""
        return self._socket is not None and passes_descriptors(self._socket)

    def connect(self) -> None:
        """Open the connection now; does nothing when it is open. ``address`` tells which daemon answered."""
        if self._socket is not None and not self._core.in_flight and has_ended(self._socket):
            self.close()  # an idle connection that the daemon has closed
        if self._socket is None:
            self._open()
            self._core = ClientCore(self._patience, descriptors=self.passes_descriptors)

    def _open(self) -> None:
        self._socket, address = connect(candidates(self._address))
        self._socket.setblocking(False)
        self.address = str(address)
        self._outgoing.clear()

    def close(self) -> None:
        """Close the connection. Idempotent; a later call opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def scan(self, path: Path, *, options: Options | None = None) -> Reply:
        """Score one file of the server. A bad image gives a reply without a score; it does not raise.

        Raises:
            NsfwdError: the path is a directory; ``scan_dir`` is for those.
        """
        inbox = Inbox()
        self.connect()
        self._core.scan_path(inbox, path, options or self._options)
        self._finish(inbox)
        return inbox.only_reply()

    def scan_bytes(self, data: bytes, *, options: Options | None = None) -> Reply:
        """Score an encoded image that the server has no file of."""
        inbox = Inbox()
        self.connect()
        self._core.scan_bytes(inbox, data, options or self._options)
        self._finish(inbox)
        return inbox.only_reply()

    def scan_fd(self, descriptor: int, name: str = "", *, options: Options | None = None) -> Reply:
        """Score a regular file that the caller has open for reading, which the daemon need not be able to open.

        Args:
            descriptor: stays the caller's.
            name: what the file is called in the reply.

        Raises:
            NsfwdError: the daemon was not reached over a Unix socket, by which alone descriptors pass.
        """
        inbox = Inbox()
        self.connect()
        self._core.scan_fd(inbox, descriptor, options or self._options, name=name)
        self._finish(inbox)
        return inbox.only_reply()

    def scan_many(
        self, paths: Iterable[Item | None], *, recursive: bool = False, options: Options | None = None
    ) -> Generator[Reply, None, None]:
        """Score many paths, images or open files, a window at a time; replies come as they finish, many of a directory.

        A source that is about to wait for its next path gives None first: then what was asked is answered before the
        source is asked for more.
        """
        inbox = Inbox()
        self.connect()
        core = self._core
        try:
            for path in paths:
                if path is not None:
                    core.scan_any(inbox, path, options or self._options, recursive=recursive)
                    self._pump(core, wait=False)
                while inbox.replies or core.full or (path is None and inbox.pending):
                    yield from self._arrived(core, inbox)
            while inbox.replies or inbox.pending:
                yield from self._arrived(core, inbox)
        finally:
            self._leave(core, inbox)

    def scan_dir(
        self, path: Path, *, recursive: bool = False, options: Options | None = None
    ) -> Generator[Reply, None, None]:
        """Score the files of a directory of the server as they finish; memory does not grow with the directory.

        When the list was cut short, the last reply is the directory's own and says why.
        """
        inbox = Inbox()
        self.connect()
        core = self._core
        core.scan_path(inbox, path, options or self._options, recursive=recursive)
        try:
            while inbox.replies or inbox.pending:
                yield from self._arrived(core, inbox)
        finally:
            self._leave(core, inbox)

    def ping(self) -> float:
        """Return the seconds of one round trip."""
        started = time.perf_counter()
        self._operation("ping")
        return time.perf_counter() - started

    def ready(self) -> dict[str, Any]:
        """Return ``ready`` (bool) and, while it is False, ``why``."""
        return self._operation("ready")

    def version(self) -> dict[str, Any]:
        """Return protocol number, limits, operations open to this client, models."""
        return self._operation("version")

    def models(self) -> dict[str, Any]:
        """Return what scores, and by which policies."""
        return self._operation("models")

    def poison(self, *, clear: bool = False) -> dict[str, Any]:
        """Return ``poison``, the files that crashed decoders; with ``clear`` forget them, ``cleared`` tells how many.

        Raises:
            NsfwdError: only root and the daemon's own user may clear, over the Unix socket.
        """
        return self._operation("clear_poison" if clear else "poison")

    def stats(self) -> dict[str, Any]:
        """Return the daemon's counters."""
        return self._operation("stats")

    def reload(self) -> dict[str, Any]:
        """Have changed settings and bundles taken up; return the ``models`` that serve now and the ``seconds`` it took.

        Raises:
            CodedError: ``reload_refused`` (the previous configuration still serves), ``not_permitted``.
        """
        return self._operation("reload")

    def _operation(self, op: str) -> dict[str, Any]:
        inbox = Inbox()
        self.connect()
        self._core.operation(inbox, op)
        self._finish(inbox)
        return inbox.only_answer()

    def _finish(self, inbox: Inbox) -> None:
        core = self._core
        while inbox.pending:
            self._pump(core)

    def _arrived(self, core: ClientCore, inbox: Inbox) -> Generator[Reply, None, None]:
        """Yield what has arrived; when that is nothing, move bytes once."""
        if not inbox.replies:
            self._pump(core)
        while inbox.replies:
            yield inbox.replies.popleft()

    def _leave(self, core: ClientCore, inbox: Inbox) -> None:
        """The caller is done with this inbox, perhaps early: what is still due for it must not pile up."""
        if inbox.pending and core is self._core and self._socket is not None:
            core.abandon(inbox)
            with suppress(ConnectionLost):
                self._pump(core, wait=False)

    def _pump(self, core: ClientCore, *, wait: bool = True) -> None:
        """Move bytes in and out once, waiting until some can be moved."""
        if self._socket is None or core is not self._core:
            raise ConnectionLost("the connection was closed before the reply")
        core.wake(time.monotonic())
        self._outgoing.add(core.data_to_send())
        try:
            events = self._poll(self._socket, core, wait=wait)
            reason = self._move(self._socket, events)
        except OSError as error:
            with suppress(OSError):
                core.receive_data(self._socket.recv(CHUNK), time.monotonic())  # why it was closed
            reason = f"the connection to {self.address} was lost: {core.complaint or error.strerror or error}"
        except BaseException:  # Ctrl-C as well: half of a request may have gone out
            self.close()
            raise
        if reason:
            self._recover(core, reason)

    def _recover(self, core: ClientCore, reason: str) -> None:
        """Find a daemon again and ask it what is not answered, or say why the connection was lost."""
        self.close()
        if not core.in_flight and not self._patience:
            return
        time.sleep(max(0.0, core.held - time.monotonic()))
        until = time.monotonic() + self._patience
        for pause in RECONNECT:
            if core.barred or time.monotonic() + pause > until or not self._patience:
                raise ConnectionLost(reason)
            time.sleep(pause)
            with suppress(DaemonUnreachable):
                self._open()
                break
        try:
            core.restart(descriptors=self.passes_descriptors)
        except ConnectionLost as error:
            self.close()
            raise ConnectionLost(f"{reason} ({error})") from error

    def _poll(self, sock: socket.socket, core: ClientCore, *, wait: bool) -> int:
        poll = select.poll()
        readable = 0 if core.glutted else select.POLLIN
        poll.register(sock, readable | (select.POLLOUT if self._outgoing else 0))
        if not wait:
            return sum(events for _, events in poll.poll(0))
        limit = self._timeout if self._timeout is not None else core.longest
        pause = None if core.due is None else max(0.0, core.due - time.monotonic())
        silence = limit if core.expected and not core.glutted else None
        shortest = min((each for each in (silence, pause) if each is not None), default=None)
        ready = poll.poll(None if shortest is None else max(1, math.ceil(min(shortest, _DAY) * 1000)))
        if not ready and shortest == silence:
            raise ConnectionLost(f"{self.address} said nothing for {silence:g} s")
        return ready[0][1] if ready else 0

    def _move(self, sock: socket.socket, events: int) -> str:
        """Receive and send as much as possible; return why that is no longer possible, or nothing."""
        if events & ~select.POLLOUT:
            data = sock.recv(CHUNK)
            if not data:
                reason = f": {self._core.complaint}" if self._core.complaint else ""
                return f"{self.address} closed the connection before it replied{reason}"
            self._core.receive_data(data, time.monotonic())
        if events & select.POLLOUT:
            self._outgoing.send(sock)
        return ""
