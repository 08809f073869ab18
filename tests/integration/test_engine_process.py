"""The engine process behind its link: what the server relies on, shown with the echo engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from nsfwd.engines.contract import Pixels
from nsfwd.engines.echo import MARK, VARIABLE, echo_scores
from nsfwd.ipc.arena import Arena
from nsfwd.ipc.child_messages import Batch, EngineFailed, EngineLost, EngineReady, EngineSetup, Recheck, Scores, encode
from nsfwd.ipc.link import Link
from tests.echo_bundle import LABELS, echo_bundle
from tests.integration.harness import PATIENCE

SIDE = 64
SLOT_BYTES = SIDE * SIDE * 3
SLOTS = 8

_REPLIES = msgspec.msgpack.Decoder(EngineReady | EngineFailed | Scores)


class Server:
    """The server's side of one engine process."""

    def __init__(self, modes: str = "") -> None:
        self.arena = Arena.create(SLOTS, SLOT_BYTES, 1)
        self.link, theirs = Link.pair()
        fds = (theirs.fileno(), self.arena.fd)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nsfwd.engines.engine_process", *map(str, fds)],
            pass_fds=fds,
            env={**os.environ, VARIABLE: modes},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        theirs.close()

    def ask(self, message: EngineSetup | Batch) -> EngineReady | EngineFailed | Scores:
        self.link.send(encode(message))
        reply: EngineReady | EngineFailed | Scores = _REPLIES.decode(self.link.receive()[0])
        return reply

    def fill(self, slot: int, pixels: Pixels) -> None:
        self.arena.slot(slot)[:] = pixels.tobytes()

    def close(self) -> tuple[bytes, bytes]:
        """End the link, and wait for what end of file brings."""
        self.link.close()
        return self.process.communicate(timeout=PATIENCE)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """Start an engine process that misbehaves as told and has been set up."""
    servers: list[Server] = []

    def begin(modes: str) -> Server:
        servers.append(Server(modes))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def setup(directory: Path, **changes: str) -> EngineSetup:
    told = EngineSetup(
        bundle=str(echo_bundle(directory / "models", side=SIDE)),
        engine="echo",
        device="cpu",
        backend="",
        precision="f32",
        max_batch=SLOTS,
        slot_bytes=SLOT_BYTES,
        cache="",
    )
    return msgspec.structs.replace(told, **changes)


def test_slots_are_scored_in_the_order_asked(start: Callable[[str], Server], tmp_path: Path) -> None:
    server = start("")
    ready = server.ask(setup(tmp_path))
    assert isinstance(ready, EngineReady)
    assert (ready.engine, ready.device, ready.precision, ready.buckets) == ("echo", "cpu", "f32", [1, SLOTS])
    pictures = np.random.default_rng(5).integers(0, 256, (SLOTS, SIDE, SIDE, 3), np.uint8)
    for slot, pixels in enumerate(pictures):
        server.fill(slot, pixels)
    server.link.send(encode(Batch(1, [5, 2, 7])))  # the second one is sent while the first is in the engine
    server.link.send(encode(Batch(2, [0])))
    replies = {reply.number: reply for reply in (_REPLIES.decode(server.link.receive()[0]) for _ in range(2))}
    for number, slots in ((1, [5, 2, 7]), (2, [0])):
        expected = np.stack([echo_scores(pictures[slot], len(LABELS)) for slot in slots])
        assert replies[number].scores == expected.tobytes()
        assert replies[number].message == ""
        assert replies[number].seconds >= 0
    assert server.close() == (b"", b"")
    assert server.process.returncode == 0


def test_a_batch_that_fails_is_told_and_the_next_is_scored(start: Callable[[str], Server], tmp_path: Path) -> None:
    server = start("raise")
    server.ask(setup(tmp_path))
    server.fill(1, np.full((SIDE, SIDE, 3), MARK, np.uint8))
    failed = server.ask(Batch(1, [0, 1]))
    assert isinstance(failed, Scores)
    assert (failed.number, failed.scores) == (1, b"")
    assert "asked to fail" in failed.message
    scored = server.ask(Batch(2, [0]))
    assert isinstance(scored, Scores)
    assert len(scored.scores) == 4 * len(LABELS)


def test_an_engine_that_only_fails_ends_itself(start: Callable[[str], Server], tmp_path: Path) -> None:
    """A device that is lost comes back, if at all, in a fresh process."""
    server = start("raise")
    server.ask(setup(tmp_path))
    server.fill(0, np.full((SIDE, SIDE, 3), MARK, np.uint8))
    for number in range(3):
        server.ask(Batch(number, [0]))
    with pytest.raises(EOFError):
        server.link.receive()
    assert server.process.wait(PATIENCE) == 1


def test_a_marked_picture_ends_the_process(start: Callable[[str], Server], tmp_path: Path) -> None:
    server = start("die")
    server.ask(setup(tmp_path))
    server.fill(0, np.full((SIDE, SIDE, 3), MARK, np.uint8))
    with pytest.raises(EOFError):
        server.ask(Batch(1, [0]))
    assert server.process.wait(PATIENCE) == -9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": "onnx"}, "unknown engine 'onnx'"),
        ({"device": "gpu", "engine": "openvino"}, "set engine = keras"),
        ({"precision": "f64"}, "unknown precision 'f64'"),
        ({"bundle": "/nowhere"}, "/nowhere/bundle.toml"),
        ({"engine": "keras", "backend": "theano"}, "unknown backend 'theano'"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(
    changes: dict[str, str], words: str, start: Callable[[str], Server], tmp_path: Path
) -> None:
    server = start("")
    failed = server.ask(setup(tmp_path, **changes))
    assert isinstance(failed, EngineFailed)
    assert words in failed.message
    assert "\n" not in failed.message
    assert server.close()[1] == b""
    assert server.process.returncode == 1


def test_a_lost_device_is_told_before_the_process_ends(start: Callable[[str], Server], tmp_path: Path) -> None:
    server = start("lost")
    server.ask(setup(tmp_path))
    server.fill(0, np.full((SIDE, SIDE, 3), MARK, np.uint8))
    server.link.send(encode(Batch(1, [0])))
    lost = msgspec.msgpack.decode(server.link.receive()[0], type=EngineLost)
    assert "lose its device" in lost.message
    with pytest.raises(EOFError):
        server.link.receive()
    assert server.process.wait(PATIENCE) == 1


def test_what_was_scored_again_is_counted(start: Callable[[str], Server], tmp_path: Path) -> None:
    """The echo engine scores alike at every precision, so that only the count can tell."""
    server = start("")
    pictures = np.random.default_rng(6).integers(0, 256, (SLOTS, SIDE, SIDE, 3), np.uint8)
    expected = np.stack([echo_scores(one, len(LABELS)) for one in pictures])
    threshold = float(expected[3, 1])
    told = setup(tmp_path, precision="bf16")
    ready = server.ask(msgspec.structs.replace(told, recheck=Recheck(1e-6, (((1,), threshold),))))
    assert isinstance(ready, EngineReady)
    assert ready.precision == "bf16"
    for slot, pixels in enumerate(pictures):
        server.fill(slot, pixels)
    scored = server.ask(Batch(1, list(range(SLOTS))))
    assert isinstance(scored, Scores)
    assert scored.scores == expected.tobytes()
    assert scored.rechecked == 1
