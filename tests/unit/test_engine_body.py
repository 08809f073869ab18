"""The engine process between its link and its engine, with stand-ins for both. No framework is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from nsfwd.engines.body import Body, Loaded
from nsfwd.engines.contract import Pixels, Probabilities
from nsfwd.ipc.messages import Batch, EngineNote, Scores


class Worsening:
    """An engine that finds with its second batch that memory is out for large ones."""

    name = "keras/jax"
    device = "gpu H9000"
    precision = "f32"
    lanes = 1

    def __init__(self) -> None:
        self.buckets: tuple[int, ...] = (1, 2, 4)
        self.note = ""
        self.calls = 0

    def warm(self) -> None:
        """Nothing to do."""

    def score(self, images: Sequence[Pixels] | Pixels) -> Probabilities:
        self.calls += 1
        if self.calls == 2:
            self.buckets, self.note = (1, 2), "out of memory at 4 images"
        return np.full((len(images), 2), 0.5, np.float32)


class FakeLink:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, packet: bytes) -> None:
        self.sent.append(packet)


class FakeArena:
    """Every slot is black."""

    def slot(self, number: int) -> memoryview:
        return memoryview(bytearray(12))


def test_what_the_engine_gives_up_is_told_once() -> None:
    link, engine = FakeLink(), Worsening()
    body = Body(link, FakeArena(), Loaded(engine, None, (2, 2, 3)), None)  # type: ignore[arg-type]  # no memory
    told = []
    for number in range(4):
        reply = body.score(Batch(number, [0, 1]))
        assert isinstance(reply, Scores) and not reply.message
        told.append(len(link.sent))
    assert told == [0, 1, 1, 1]
    note = msgspec.msgpack.decode(link.sent[0], type=EngineNote)
    assert (note.note, note.buckets) == ("out of memory at 4 images", [1, 2])
