"""``kill -9`` of decoders and of the engine under load: nothing is lost, doubled or mixed up."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import threading
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Daemon, Json, ask, raw_connect, replies, spell

SECONDS = 14.0
DECODER_EVERY = 0.5
ENGINE_EVERY = 2.0

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


def victims(daemon: Daemon, kind: str) -> list[int]:
    return list(ask(daemon.unix, {"op": "stats"})[kind]["processes"])


def test_killed_processes_lose_nothing(daemon: Daemon, known: dict[str, Json]) -> None:
    loads = [Load(daemon, list(known), seed) for seed in range(3)]
    pause, kills = threading.Event(), {"decoders": 0, "engine": 0}
    for step in range(1, int(SECONDS / DECODER_EVERY)):
        pause.wait(DECODER_EVERY)
        for kind, every in (("decoders", DECODER_EVERY), ("engine", ENGINE_EVERY)):
            if step % int(every / DECODER_EVERY):
                continue
            for pid in random.sample(alive := victims(daemon, kind), min(1, len(alive))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills[kind] += 1
    for load in loads:
        load.end()
    assert kills["decoders"] >= 10 and kills["engine"] >= 3
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
    assert errors <= sum(kills.values()), "only an image that was alone in a killed process may fail"


def test_everything_is_back_afterwards(daemon: Daemon, known: dict[str, Json]) -> None:
    stats = ask(daemon.unix, {"op": "stats"})
    assert stats["in_flight"] == 0
    assert stats["slots"]["free"] == stats["slots"]["total"]
    path, scores = next(iter(known.items()))
    assert ask(daemon.unix, {"path": path})["scores"] == scores
    assert re.search(r"warning pipeline: decoder \d+ \(pid \d+\) ended: killed by SIGKILL", daemon.stderr)
