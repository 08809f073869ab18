"""Load on a server: closed (a fixed number of requests in flight) and open (a fixed rate, however slow the server is).

One thread, one epoll, requests encoded before the clock starts: where client and server share the cores, an expensive
client would be measured as a slow server. Speaks NDJSON and keep-alive HTTP.
"""

from __future__ import annotations

import json
import random
import selectors
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.daemon import Address, connect


class Dialect(Protocol):
    """The protocol of one server."""

    def request(self, number: int, path: Path) -> bytes:
        """Encode one request."""

    def replies(self, buffer: bytearray) -> list[int | None]:
        """Take the complete replies out of ``buffer``: the number each belongs to; None for the oldest in flight.

        Raises:
            RuntimeError: a reply says that an image was not scored: the figures would be of something else.
        """


class Ndjson:
    """nsfwd's own."""

    def request(self, number: int, path: Path) -> bytes:
        """Encode one request."""
        return b'{"id":%d,"path":%s}\n' % (number, json.dumps(str(path)).encode())

    def replies(self, buffer: bytearray) -> list[int | None]:
        """Read no more of a line than its number and its status."""
        end = buffer.rfind(b"\n") + 1
        if not end:
            return []
        lines = bytes(buffer[: end - 1]).split(b"\n")
        del buffer[:end]
        found: list[int | None] = []
        for line in lines:
            if b'"status":"ok"' not in line:
                raise RuntimeError(f"not scored: {line[:300]!r}")
            found.append(int(line[6 : line.index(b",")]))
        return found


class Http:
    """POST of the path to ``target``; one request in flight a connection."""

    def __init__(self, target: str = "/predict", body: str = '{"path": %s}') -> None:
        self._target = target
        self._body = body

    def request(self, number: int, path: Path) -> bytes:
        """Encode one request."""
        body = (self._body % json.dumps(str(path))).encode()
        head = (
            f"POST {self._target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def replies(self, buffer: bytearray) -> list[int | None]:
        """Take whole replies, by length or by chunks."""
        found: list[int | None] = []
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(buffer[:end]).lower()
            if not head.startswith((b"http/1.1 200", b"http/1.0 200")):
                raise RuntimeError(f"not scored: {bytes(buffer[:300])!r}")
            at = head.find(b"content-length:")
            if at >= 0:
                stop = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
                if len(buffer) < stop:
                    break
            else:
                stop = buffer.find(b"0\r\n\r\n", end + 4) + 5
                if stop < 5:
                    break
            del buffer[:stop]
            found.append(None)
        return found


@dataclass(slots=True)
class Result:
    """The result of a load. Latencies in seconds, in no order."""

    images: int
    seconds: float
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds


class _Caller:
    """One connection and what it has in flight."""

    def __init__(self, address: Address) -> None:
        self.socket = connect(address)
        self.socket.setblocking(False)
        self.buffer = bytearray()
        self.began: dict[int, float] = {}

    def send(self, number: int, request: bytes, began: float) -> None:
        self.began[number] = began
        self.socket.setblocking(True)
        self.socket.sendall(request)
        self.socket.setblocking(False)


class Load:
    """Connections to one server, kept between rounds.

    Args:
        address: of the server.
        dialect: its protocol.
        connections: how many.
    """

    def __init__(self, address: Address, dialect: Dialect, connections: int) -> None:
        self._dialect = dialect
        self._callers = [_Caller(address) for _ in range(connections)]
        self._selector = selectors.EpollSelector()
        for caller in self._callers:
            self._selector.register(caller.socket, selectors.EVENT_READ, caller)

    def close(self) -> None:
        """Close every connection."""
        self._selector.close()
        for caller in self._callers:
            caller.socket.close()

    def closed(self, paths: Sequence[Path], *, depth: int = 1) -> Result:
        """Score ``paths`` with ``depth`` requests always in flight on each connection, until they run out."""
        requests = [self._dialect.request(number, path) for number, path in enumerate(paths)]
        result = Result(len(requests), 0.0)
        started = time.perf_counter()
        next_number = 0
        for caller in self._callers:
            first, next_number = next_number, min(next_number + depth, len(requests))
            self._send(caller, requests, first, next_number)
        left = len(requests)
        while left:
            for caller, numbers in self._wait(None):
                self._settle(caller, numbers, result)
                left -= len(numbers)
                first, next_number = next_number, min(next_number + len(numbers), len(requests))
                self._send(caller, requests, first, next_number)
        result.seconds = time.perf_counter() - started
        return result

    def open(self, paths: Sequence[Path], *, rate: float, seed: int = 1) -> Result:
        """Score ``paths`` as they would come from many strangers: at random times, ``rate`` a second on average.

        A latency counts from the moment the request was due, also when every connection was busy then.
        """
        source = random.Random(seed)
        requests = [self._dialect.request(number, path) for number, path in enumerate(paths)]
        result = Result(len(requests), 0.0)
        idle = list(self._callers)
        started = time.perf_counter()
        due = started
        next_number, left = 0, len(requests)
        while left:
            now = time.perf_counter()
            while idle and next_number < len(requests) and due <= now:
                idle[-1].send(next_number, requests[next_number], due)
                idle.pop()
                next_number += 1
                due += source.expovariate(rate)
            waiting = idle and next_number < len(requests)
            for caller, numbers in self._wait(max(0.0, due - now) if waiting else None):
                self._settle(caller, numbers, result)
                left -= len(numbers)
                idle.append(caller)
        result.seconds = time.perf_counter() - started
        return result

    def _send(self, caller: _Caller, requests: Sequence[bytes], first: int, stop: int) -> None:
        if first == stop:
            return
        now = time.perf_counter()
        for number in range(first, stop):
            caller.began[number] = now
        caller.socket.setblocking(True)
        caller.socket.sendall(b"".join(requests[first:stop]))
        caller.socket.setblocking(False)

    def _wait(self, timeout: float | None) -> list[tuple[_Caller, list[int | None]]]:
        found = []
        for key, _ in self._selector.select(timeout):
            caller: _Caller = key.data
            data = caller.socket.recv(1 << 18)
            if not data:
                raise RuntimeError("the server closed the connection")
            caller.buffer += data
            numbers = self._dialect.replies(caller.buffer)
            if numbers:
                found.append((caller, numbers))
        return found

    @staticmethod
    def _settle(caller: _Caller, numbers: list[int | None], result: Result) -> None:
        now = time.perf_counter()
        for number in numbers:
            began = caller.began.pop(number if number is not None else next(iter(caller.began)))
            result.latencies.append(now - began)
