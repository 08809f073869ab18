"""The small HTTP server that the metrics are scraped from. Knows HTTP just well enough for one GET a connection.

Everything is answered by the loop, without a thread. A connection has little time, and when there are too many the
oldest of the address that has the most is closed: idle ones cannot keep Prometheus out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
from collections.abc import Collection, Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from nsfwd.server.context import ServerContext
from nsfwd.server.listeners import Listener
from nsfwd.server.peer_credentials import identify
from nsfwd.server.prometheus import Collector

REQUEST_BYTES = 8192
"""Longest head of a scrape's request."""

HEAD_TIMEOUT = 5.0
"""Seconds that a scraper may take to ask, from its first byte to its last."""

READ_TIMEOUT = 10.0
"""Seconds that it may take to read."""

_HOST = re.compile(rb"\r\nHost:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE)


class MetricsServer:
    """Answers scrapes on its own listeners.

    Args:
        listeners: those for metrics; the caller closes them after ``stop``.
        service: whose numbers.
    """

    def __init__(self, listeners: Sequence[Listener], service: ServerContext) -> None:
        self._listeners = listeners
        self._service = service
        self._servers: list[asyncio.Server] = []
        self._registry = CollectorRegistry()
        self._registry.register(Collector(service))
        self._scrapes: dict[asyncio.StreamWriter, str] = {}  # in the order of their arrival

    async def start(self) -> None:
        """Accept scrapes."""
        for listener in self._listeners:
            server = await asyncio.start_server(self._serve, sock=listener.sock, limit=REQUEST_BYTES)
            self._servers.append(server)

    def stop(self) -> None:
        """Accept no more scrapes, and close open ones."""
        for server in self._servers:
            server.close()
        for writer in self._scrapes:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        try:
            peer = identify(sock).guard
        except OSError:
            writer.transport.abort()  # it is gone already
            return
        self._admit(writer, peer)
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
            remote = sock.family != socket.AF_UNIX  # no browser connects to a Unix socket
            writer.transport.set_write_buffer_limits(high=0)
            writer.write(self.answer(head, check_host=remote))
            async with asyncio.timeout(READ_TIMEOUT):
                await writer.drain()  # until the kernel has all of it
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that went away or does not speak HTTP; the next one may
        finally:
            self._forget(writer)
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    def _admit(self, writer: asyncio.StreamWriter, peer: str) -> None:
        """Count a connection; where there are too many the oldest of the peer that has most is closed."""
        budget = self._service.budgets.scrapes
        self._scrapes[writer] = peer
        budget.add(peer, 1)
        if budget.used > budget.limit:
            largest = budget.largest()
            oldest = next(one for one, whose in self._scrapes.items() if whose == largest)
            budget.refused += 1
            self._forget(oldest)
            oldest.transport.abort()

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        peer = self._scrapes.pop(writer, None)
        if peer is not None:
            self._service.budgets.scrapes.add(peer, -1)

    def answer(self, head: bytes, *, check_host: bool = True) -> bytes:
        """Return the response to the head of one request.

        Args:
            head: up to the empty line.
            check_host: answer only where the name in ``Host`` is one that this machine can have. Else a web page whose
                name leads to this machine could have a browser read the numbers.
        """
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"only GET\n")
        if check_host and not self._is_here(_HOST.findall(head)):
            return _response("421 Misdirected Request", b"unknown Host; see the setting metrics_hosts\n")
        if path != b"/metrics":
            return _response("404 Not Found", b"see /metrics\n")
        body = generate_latest(self._registry)
        return _response("200 OK", body, CONTENT_TYPE_PLAIN_0_0_4, bodiless=method == b"HEAD")

    def _is_here(self, hosts: Sequence[bytes]) -> bool:
        """Tell whether a request names this machine. One without a name comes from no browser."""
        if len(hosts) > 1:
            return False
        return all(is_allowed(host.decode("latin-1"), self._service.settings.metrics_hosts) for host in hosts)


def is_allowed(host: str, names: Collection[str]) -> bool:
    """Tell whether a value of ``Host`` is an address, a name of this machine, or one of ``names``; ``*`` is any."""
    name = re.sub(r":\d*$", "", host).rstrip(".").lower()
    own = os.uname().nodename.lower()
    if name in {"localhost", own, own.partition(".")[0], *(one.lower() for one in names)} or "*" in names:
        return True
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True


def _response(status: str, body: bytes, kind: str = "text/plain; charset=utf-8", *, bodiless: bool = False) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (b"" if bodiless else body)
