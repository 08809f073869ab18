"""A line server with nothing behind it: the cost of event loop, sockets and JSON without any daemon.

With a number of hops it passes the lines of one turn of the loop through as many processes, one after the other and in
one packet, before it answers: the least work of a server whose pictures are decoded in one process and scored in
another. Replies have the daemon's keys, each encoded again. Started as
``python -m bench.line_server SOCKET [HOPS]``.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import deque
from typing import Any

import orjson
import uvloop

MOST = 32
"""Lines in a packet."""
LARGEST = 1 << 17
"""Bytes of a packet."""
SCORES = {
    "drawings": 0.013688048347830772,
    "hentai": 0.26099613308906555,
    "neutral": 0.5834707021713257,
    "porn": 0.14032840728759766,
    "sexy": 0.0015167073579505086,
}
REST = {
    "status": "ok",
    "verdict": "safe",
    "alarm": False,
    "label": "neutral",
    "score": 0.5834707021713257,
    "scores": {"nsfw": SCORES},
    "groups": {"nsfw": {"safe": 0.5971587505191565, "sensitive": 0.4028412477346137}},
    "verdicts": {"nsfw": "safe"},
    "because": {"model": "nsfw", "group": "sensitive", "score": 0.4028412477346137, "threshold": 0.5},
    "model": {"nsfw": "echo@000000000000/f32"},
    "policy": "default@000000000000",
    "time": {"queue": 9.2e-05, "decode": 1e-06, "wait": 3.9e-05, "infer": 0.000219, "total": 0.000784},
}
ECHO = f"""
import socket, sys
link = socket.socket(fileno=int(sys.argv[1]))
while data := link.recv({LARGEST}):
    link.send(data)
"""


def reply(line: bytes) -> bytes:
    """Parse one request and encode its reply."""
    request = orjson.loads(line)
    head = {"id": request["id"], "path": request["path"]} if "path" in request else {"id": request.get("id")}
    return orjson.dumps({**head, **REST}, option=orjson.OPT_APPEND_NEWLINE)


class Hop:
    """A process that sends back every packet, and whose they are: they come back in their order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._link, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with child:
            subprocess.Popen([sys.executable, "-Sc", ECHO, str(child.fileno())], pass_fds=[child.fileno()])
        self._link.setblocking(False)
        self._sent: deque[tuple[LineConnection, int]] = deque()
        self._unsent: deque[bytes] = deque()
        loop.add_reader(self._link, self._receive)

    def send(self, line: LineConnection, lines: list[bytes], hop: int) -> None:
        """Send one packet, later where the link is full."""
        self._sent.append((line, hop))
        self._unsent.append(b"\n".join(lines))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            try:
                self._link.send(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._link, self._flush)
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._link)

    def _receive(self) -> None:
        lines = self._link.recv(LARGEST).split(b"\n")
        line, hop = self._sent.popleft()
        line.take(lines, hop + 1)


class LineConnection(asyncio.Protocol):
    """One connection.

    Args:
        hops: processes that its lines go through.
    """

    def __init__(self, hops: list[Hop]) -> None:
        self._hops = hops
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Take the whole lines."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for first in range(0, len(lines), MOST):
            self.take(lines[first : first + MOST], 0)

    def take(self, lines: list[bytes], hop: int) -> None:
        """Send them through the next process, or answer them."""
        if hop < len(self._hops):
            self._hops[hop].send(self, lines, hop)
        elif not self._transport.is_closing():
            self._transport.write(b"".join(map(reply, lines)))


async def serve(path: str, hops: int) -> None:
    """Answer for ever."""
    loop = asyncio.get_running_loop()
    links = [Hop(loop) for _ in range(hops)]
    server = await loop.create_unix_server(lambda: LineConnection(links), path, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 0))
