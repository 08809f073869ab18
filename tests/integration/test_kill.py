"""``kill -9`` of decoders and of the engine under load: nothing is lost, doubled or mixed up."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import PATIENCE, Daemon, Json, ask, raw_connect, replies, spell

ENGINES = 3
"""How many are killed; after each the daemon waits longer before it starts the next."""
DECODERS_AN_ENGINE = 3
"""How many decoders are killed for each of them."""
EVERY = 0.2
"""Seconds between two looks."""

WINDOW = 32


@pytest.fixture(scope="module")
def known(gallery: Path, daemon: Daemon) -> dict[str, Json]:
    """Pictures whose scores are known, all different."""
    directory = gallery / "known"
    directory.mkdir()
    for seed in range(40):
        (directory / f"{seed}.png").write_bytes(pictures.encoded(pictures.photo(seed, (128, 96))))
    return {str(path): ask(daemon.unix, {"path": str(path)})["scores"] for path in sorted(directory.iterdir())}


class Load:
    """A client that keeps ``WINDOW`` requests in flight until it is told to end, and keeps every reply."""

    def __init__(self, daemon: Daemon, paths: list[str], seed: int) -> None:
        self.asked: dict[int, str] = {}
        self.answers: list[Json] = []
        self.ending = threading.Event()
        self._connection = raw_connect(daemon.unix)
        self._choose = random.Random(seed)
        self._paths = paths
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self.ending.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a reply is missing"

    def _run(self) -> None:
        rest = b""
        with self._connection as connection:
            connection.sendall(b"".join(self._next() for _ in range(WINDOW)))
            while len(self.answers) < len(self.asked):
                *lines, rest = (rest + connection.recv(1 << 16)).split(b"\n")
                self.answers.extend(replies(b"\n".join(lines)))
                if not self.ending.is_set():
                    connection.sendall(b"".join(self._next() for _ in lines))

    def _next(self) -> bytes:
        number = len(self.asked)
        self.asked[number] = self._choose.choice(self._paths)
        return spell({"id": number, "path": self.asked[number]})


class Killer:
    """Kills what does work: a process that dies before it was of use tells the daemon that it never will be."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._images = 0
        self._scored_before: dict[int, int] = {}
        self.kills = {"decoders": 0, "engine": 0}

    def strike(self) -> None:
        """Kill a decoder if images came through since the last time, and the engine once it has scored."""
        stats = ask(self._daemon.unix, {"op": "stats"})
        images = stats["engine"]["images"]
        if images > self._images and (decoders := stats["decoders"]["processes"]):
            self._images = images
            self._kill("decoders", min(decoders))  # the oldest, which is the one that works
        for pid in stats["engine"]["processes"]:
            useful = images > self._scored_before.setdefault(pid, images)
            if useful and self.kills["decoders"] >= DECODERS_AN_ENGINE * (self.kills["engine"] + 1):
                self._kill("engine", pid)

    def _kill(self, kind: str, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills[kind] += 1


def test_killed_processes_lose_nothing(daemon: Daemon, known: dict[str, Json]) -> None:
    loads = [Load(daemon, list(known), seed) for seed in range(3)]
    pause, killer = threading.Event(), Killer(daemon)
    end = time.monotonic() + 2 * PATIENCE
    try:
        while killer.kills["engine"] < ENGINES:
            assert time.monotonic() < end, killer.kills
            pause.wait(EVERY)
            killer.strike()
    finally:
        for load in loads:
            load.ending.set()
    for load in loads:
        load.end()
    errors = 0
    for load in loads:
        assert sorted(reply["id"] for reply in load.answers) == list(range(len(load.asked)))
        assert len(load.asked) > 100, "there was hardly any load"
        for reply in load.answers:
            if reply["status"] == "ok":
                assert reply["scores"] == known[load.asked[reply["id"]]]
            else:
                errors += 1
                assert reply["error"]["code"] in ("engine_died", "decoder_died")
    assert errors <= sum(killer.kills.values()), "only an image that was alone in a killed process may fail"


def test_everything_is_back_afterwards(daemon: Daemon, known: dict[str, Json]) -> None:
    stats = ask(daemon.unix, {"op": "stats"})
    assert stats["in_flight"] == 0
    assert stats["slots"]["free"] == stats["slots"]["total"]
    path, scores = next(iter(known.items()))
    assert ask(daemon.unix, {"path": path})["scores"] == scores
    assert re.search(r"warning pipeline: decoder \d+ \(pid \d+\) ended: killed by SIGKILL", daemon.stderr)
