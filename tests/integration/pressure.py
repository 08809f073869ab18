"""Clients that keep many requests in flight, and a daemon whose slots all hold images that wait for the engine."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import Sequence
from typing import Any, Self

import pytest

from tests.integration.harness import MODELS, Daemon, Json, ask, raw_connect, replies, spell, wait_until

REAL = "nsfw-mobilenet-v2-140"

FEW_SLOTS = ("--decoders", "2", "--max-batch", "4")
"""Flags for the same number of slots on every machine: 3 batches, and 32 for each decoder."""
SLOTS = 3 * 4 + 2 * 32

WINDOW = 64
"""Requests of one client in flight: as many as a connection may have."""


def served(name: str) -> dict[str, Any]:
    """Options of a ``Daemon`` that serves the echo bundle, or the default bundle by OpenVINO."""
    if name != REAL:
        return {"model": name}
    if not (MODELS / REAL / "bundle.toml").is_file():
        pytest.fail(f"{MODELS / REAL} is missing: run make setup")
    return {"model": REAL, "models_dir": MODELS, "engine": "openvino"}


class Load:
    """A client that keeps ``WINDOW`` requests in flight until it is told to end, and keeps every reply."""

    def __init__(self, daemon: Daemon, paths: Sequence[str], seed: int) -> None:
        self.asked: dict[int, str] = {}
        self.answers: list[Json] = []
        self.ending = threading.Event()
        self._connection = raw_connect(daemon.unix)
        self._choose = random.Random(seed)
        self._paths = paths
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ask for nothing more, and wait for what is owed."""
        self.ending.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a reply is missing"

    def _run(self) -> None:
        rest = b""
        with self._connection as connection:
            connection.sendall(b"".join(self._next() for _ in range(WINDOW)))
            while len(self.answers) < len(self.asked):
                part = connection.recv(1 << 16)
                if not part:
                    return
                *lines, rest = (rest + part).split(b"\n")
                self.answers.extend(replies(b"\n".join(lines)))
                if not self.ending.is_set():
                    connection.sendall(b"".join(self._next() for _ in lines))

    def _next(self) -> bytes:
        number = len(self.asked)
        self.asked[number] = self._choose.choice(self._paths)
        return spell({"id": number, "path": self.asked[number]})


class Newcomers:
    """Clients that each ask for one picture: the last slots are kept for such."""

    def __init__(self, daemon: Daemon, path: str) -> None:
        self._daemon, self._path = daemon, path
        self._connections: list[socket.socket] = []

    def fill(self) -> None:
        """Ask until no slot is free."""

        def full() -> bool:
            if not ask(self._daemon.unix, {"op": "stats"})["slots"]["free"]:
                return True
            connection = raw_connect(self._daemon.unix)
            connection.sendall(spell({"path": self._path}))
            self._connections.append(connection)
            return False

        wait_until(full)

    def answers(self) -> list[Json]:
        """What they got: one reply each."""
        found = []
        for connection in self._connections:
            with connection, connection.makefile("rb") as lines:
                found += replies(lines.readline())
        assert len(found) == len(self._connections)
        self._connections = []
        return found


def hold_engine(daemon: Daemon, path: str) -> tuple[int, Newcomers]:
    """Stop the engine of a daemon that has more in flight than slots, and wait until images hold every slot.

    Returns:
        The engine's process id, and who asked for the last slots.
    """
    stats = ask(daemon.unix, {"op": "stats"})
    (engine,) = stats["engine"]["processes"]
    os.kill(engine, signal.SIGSTOP)
    newcomers = Newcomers(daemon, path)
    newcomers.fill()
    stats = ask(daemon.unix, {"op": "stats"})
    assert stats["in_flight"] > stats["slots"]["total"] == SLOTS
    return int(engine), newcomers
