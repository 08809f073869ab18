"""A client of the soak, which accounts for every reply, and what the times of its scores say of kills."""

from __future__ import annotations

import bisect
import itertools
import random
import socket
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.integration.harness import Daemon, Json, raw_connect, replies, spell

SHARE = 3200
"""Requests that a client sends on one connection."""

PATIENCE = 600.0
"""Seconds after which a reply counts as lost."""

ECHOES = 0.3
"""Seconds after a kill in which images may still be scored that the process was done with."""


class Client(threading.Thread):
    """Keeps a number of requests in flight and accounts for every reply.

    Attributes:
        scored: when an image was scored, by ``time.monotonic()``; what the cache answered does not count.
    """

    def __init__(
        self, daemon: Daemon, paths: Sequence[str], stop: threading.Event, *, window: int, rest: float, seed: int
    ) -> None:
        super().__init__()
        self._daemon, self._paths, self._stop_asked = daemon, paths, stop
        self._window, self._rest = window, rest
        self._random = random.Random(seed)
        self._pictures = [path.read_bytes() for path in map(Path, paths) if path.is_file()]
        self._open: dict[int, str] = {}
        self.sent = self.lost = self.doubled = 0
        self.outcomes: Counter[str] = Counter()
        self.scored: list[float] = []

    def run(self) -> None:
        while not self._stop_asked.is_set():
            with raw_connect(self._daemon.unix, timeout=PATIENCE) as connection:
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        """Ask until this connection has had its share, then read what is still owed."""
        last, rest = self.sent + SHARE, b""
        self._send(connection, self._window)
        while self._open:
            part = connection.recv(1 << 16)
            if not part:
                self.lost += len(self._open)
                self._open.clear()
                return
            whole, _, rest = (rest + part).rpartition(b"\n")
            for reply in replies(whole):
                self._account(reply)
            if self.sent < last and not self._stop_asked.wait(self._rest):
                self._send(connection, self._window - len(self._open))

    def _send(self, connection: socket.socket, count: int) -> None:
        requests = []
        for _ in range(count):
            self.sent += 1
            path = self._open[self.sent] = self._random.choice(self._paths)
            requests.append(self._request(self.sent, path))
        connection.sendall(b"".join(requests))

    def _request(self, number: int, path: str) -> bytes:
        """By path; or, every second time, as bytes that nobody has seen before."""
        if path.endswith("/") or self._random.random() < 0.5:
            return spell({"id": number, "path": path})
        data = self._random.choice(self._pictures) + self._random.randbytes(8)
        return spell({"id": number, "bytes": len(data)}) + data

    def _account(self, reply: Json) -> None:
        path = self._open.get(reply["id"])
        if path is None:
            self.doubled += 1
        elif reply.get("done") or not path.endswith("/"):
            del self._open[reply["id"]]
        self.outcomes[reply["error"]["code"] if "error" in reply else reply["status"]] += 1
        if reply["status"] == "ok" and "cached" not in reply:
            self.scored.append(time.monotonic())


def gaps(scored: Sequence[float], kills: Sequence[tuple[str, float]]) -> Json:
    """Pauses between two scored images: the longest of all, and how long after a kill the next was scored.

    The pause of a kill is the longest that covers it or begins soon after it: what the process had finished still
    comes, and says nothing of its successor.

    Args:
        scored: when images were scored, in order.
        kills: which kind of process was killed, and when.
    """
    pauses = list(itertools.pairwise(scored))
    found: dict[str, list[float]] = defaultdict(list)
    for kind, at in kills:
        first = max(bisect.bisect_right(scored, at) - 1, 0)
        last = bisect.bisect_right(scored, at + ECHOES)
        if nearby := pauses[first:last]:
            _, end = max(nearby, key=lambda pause: pause[1] - pause[0])
            found[kind].append(round(end - at, 3))
    report: dict[str, Any] = {"longest": round(max((end - begin for begin, end in pauses), default=0.0), 3)}
    for kind, times in sorted(found.items()):
        report[f"after {kind}"] = {"kills": len(times), "median": statistics.median(times), "most": max(times)}
    return report
