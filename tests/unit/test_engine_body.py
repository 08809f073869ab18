"""The engine process between its link and its engine, with stand-ins for both. No framework is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from nsfwd.engines.contract import Pixels, Probabilities
from nsfwd.engines.engine_process import EngineProcess, Loaded
from nsfwd.errors import EngineError
from nsfwd.ipc.child_messages import Batch, EngineNote, Scores, encode
from nsfwd.ipc.link import MAX_PACKET


class Worsening:
    """An engine that finds with its second batch that memory is out for large ones."""

    name = "keras/jax"
    device = "gpu H9000"
    precision = "f32"
    streams = 1

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
        assert 0 < len(packet) <= MAX_PACKET
        self.sent.append(packet)


class FakeArena:
    """Every slot is black."""

    def slot(self, number: int) -> memoryview:
        return memoryview(bytearray(12))


def test_what_the_engine_gives_up_is_told_once() -> None:
    link, engine = FakeLink(), Worsening()
    body = EngineProcess(link, FakeArena(), Loaded(engine, None, (2, 2, 3)), None)  # type: ignore[arg-type]  # no memory
    told = []
    for number in range(4):
        reply = body.score(Batch(number, [0, 1]))
        assert isinstance(reply, Scores) and not reply.message
        told.append(len(link.sent))
    assert told == [0, 1, 1, 1]
    note = msgspec.msgpack.decode(link.sent[0], type=EngineNote)
    assert (note.note, note.buckets) == ("out of memory at 4 images", [1, 2])


class Wordy(Worsening):
    """An engine whose failures are hard to pass on."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def score(self, images: Sequence[Pixels] | Pixels) -> Probabilities:
        raise EngineError(self.words)


class Talkative(Worsening):
    """An engine with more scores for an image than a packet holds."""

    def score(self, images: Sequence[Pixels] | Pixels) -> Probabilities:
        return np.full((len(images), MAX_PACKET // 4), 0.5, np.float32)


class OneBatch(FakeLink):
    """A link over which one batch comes, then its end."""

    def __init__(self) -> None:
        super().__init__()
        self.given = [encode(Batch(1, [0]))]

    def receive(self) -> tuple[bytes, list[int]]:
        if not self.given:
            raise EOFError
        return self.given.pop(), []


@pytest.mark.parametrize("engine", [Wordy("no /m\udcff.keras"), Wordy("why " * MAX_PACKET), Wordy(""), Talkative()])
def test_what_cannot_be_sent_fails_its_batch_and_not_the_engine(engine: Worsening) -> None:
    link = OneBatch()
    EngineProcess(link, FakeArena(), Loaded(engine, None, (2, 2, 3)), None).run()  # type: ignore[arg-type]  # no memory
    (packet,) = link.sent
    reply = msgspec.msgpack.decode(packet, type=Scores)
    assert (reply.number, reply.scores) == (1, b"")
    assert 0 < len(reply.message) <= 2000
