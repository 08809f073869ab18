"""The engine process: ``python -m nsfwd.engines.engine_process LINK_FD ARENA_FD``, started by the server process.

Loads and warms one engine, then: batch in, scores out. Pixels are read where decoders left them, in the arena. As many
threads as the engine has streams take the link in turn, each carrying one batch from its arrival to its scores, so
that the device works while the host gathers and sends. What a reduced precision may have got wrong is scored again
before the reply. It must not know files, requests or verdicts.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from nsfwd.bundles.previous_versions import open_version
from nsfwd.engines import factory, framework_logging
from nsfwd.engines.contract import DeviceLost, Engine, EngineOptions, Pixels
from nsfwd.engines.recheck import score_again
from nsfwd.errors import NsfwdError
from nsfwd.ipc.arena import Arena
from nsfwd.ipc.child_bootstrap import run_child
from nsfwd.ipc.child_messages import (
    Batch,
    EngineFailed,
    EngineLost,
    EngineNote,
    EngineReady,
    EngineSetup,
    Recheck,
    Scores,
    encode,
)
from nsfwd.ipc.link import MAX_PACKET, Link

FULL = "f32"
"""Full precision."""

MOST_FAILURES = 3
"""After so many batches in a row have failed the process ends: a fresh one may fare better (a lost device)."""

MOST_WORDS = 2000
"""Characters of a message to the server: frameworks explain themselves at a length that fits no packet."""

_SETUP = msgspec.msgpack.Decoder(EngineSetup)
_BATCHES = msgspec.msgpack.Decoder(Batch)


class Loaded(NamedTuple):
    """What one engine process works with.

    Attributes:
        engine: warmed.
        exact: the same at full precision; None where ``engine`` is, or where nothing is rechecked.
        shape: of one image's pixels, (height, width, 3).
    """

    engine: Engine
    exact: Engine | None
    shape: tuple[int, int, int]


class EngineProcess:
    """One engine between a link and an arena.

    Args:
        rule: what to score again at full precision; None for nothing.
    """

    def __init__(self, link: Link, arena: Arena, loaded: Loaded, rule: Recheck | None) -> None:
        self._link = link
        self._arena = arena
        self._engine, self._exact, self._shape = loaded
        self._rule = rule
        self._receiving = threading.Lock()
        self._failures = 0
        self._noted = self._engine.note

    def run(self) -> None:
        """Serve until the server ends the link."""
        threads = [threading.Thread(target=self._serve) for _ in range(self._engine.streams - 1)]
        for thread in threads:
            thread.start()
        self._serve()
        for thread in threads:
            thread.join()

    def _serve(self) -> None:
        try:
            while True:
                with self._receiving:
                    packet, _ = self._link.receive()
                self._link.send(_spell(self.score(_BATCHES.decode(packet))))
                if self._failures >= MOST_FAILURES:
                    _end(1)
        except EOFError:
            return
        except BaseException:
            traceback.print_exc()
            _end(1)

    def score(self, batch: Batch) -> Scores:
        """Score one batch; a failure is told in the reply."""
        started = time.perf_counter()
        try:
            images = [self._pixels(slot) for slot in batch.slots]
            scores = self._engine.score(images)
            again = score_again(self._exact, images, scores, self._rule) if self._exact and self._rule else 0
        except DeviceLost as error:
            self._link.send(encode(EngineLost(_one_line(error))))
            _end(1)
        except Exception as error:
            self._failures += 1
            if not isinstance(error, NsfwdError):
                traceback.print_exc()
            print(f"engine: {error}", file=sys.stderr, flush=True)
            why = _sayable(str(error)) or type(error).__name__
            return Scores(batch.number, b"", time.perf_counter() - started, why)
        self._failures = 0
        if self._engine.note != self._noted:
            self._noted = self._engine.note
            self._link.send(encode(EngineNote(_sayable(self._noted), list(self._engine.buckets))))
        return Scores(batch.number, scores.tobytes(), time.perf_counter() - started, "", again)

    def _pixels(self, slot: int) -> Pixels:
        size = self._shape[0] * self._shape[1] * self._shape[2]
        return np.frombuffer(self._arena.slot(slot), np.uint8, size).reshape(self._shape)


def load(setup: EngineSetup, say: Callable[[str], None]) -> tuple[Loaded, EngineReady]:
    """Build and warm the engine that was asked for, and the one behind it that is exact.

    Args:
        setup: what was asked for.
        say: takes a line about what will take long.

    Returns:
        What to work with, and what to tell the server.

    Raises:
        BundleError: the bundle is wrong.
        EngineError: the engine cannot be built or warmed here.
    """
    started = time.perf_counter()
    bundle = open_version(Path(setup.bundle), setup.identity, precision=setup.precision or None)
    options = EngineOptions(
        bundle=bundle,
        device=setup.device,
        backend=setup.backend,
        max_batch=setup.max_batch,
        cache=Path(setup.cache) if setup.cache else None,
        gpu_memory=setup.gpu_memory,
        say=say,
    )
    engine = factory.build(setup.engine, options)
    exact = None
    if setup.recheck is not None and engine.precision != FULL:
        exact = factory.build_exact(engine, options)
    loaded = time.perf_counter()
    engine.warm()
    if exact is not None:
        exact.warm()
    ready = EngineReady(
        engine=engine.name,
        device=engine.device,
        precision=engine.precision,
        buckets=list(engine.buckets),
        load_seconds=loaded - started,
        warm_seconds=time.perf_counter() - loaded,
        note=_sayable(engine.note),
        streams=engine.streams,
    )
    return Loaded(engine, exact, (bundle.manifest.recipe.height, bundle.manifest.recipe.width, 3)), ready


def main() -> None:
    """Run the process."""
    link, (arena_fd,) = run_child()
    framework_logging.silence()
    try:
        setup = _SETUP.decode(link.receive()[0])
        arena = Arena.attach(arena_fd, setup.slot_bytes)
        try:
            loaded, ready = load(setup, lambda line: link.send(encode(EngineNote(_sayable(line), []))))
        except Exception as error:
            if not isinstance(error, NsfwdError):
                traceback.print_exc()
            link.send(encode(EngineFailed(_one_line(error))))
            _end(1)
        link.send(encode(ready))
    except EOFError:
        _end(0)
    EngineProcess(link, arena, loaded, setup.recheck).run()
    _end(0)


def _spell(reply: Scores) -> bytes:
    """One reply as a packet; scores that do not fit one are a failure of their batch, not the end of the engine."""
    packet = encode(reply)
    if len(packet) <= MAX_PACKET:
        return packet
    return encode(msgspec.structs.replace(reply, scores=b"", message="the scores of the batch do not fit a packet"))


def _sayable(text: str) -> str:
    """One line that can be sent, whatever a framework puts into its messages: names that are not UTF-8, or pages."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")[:MOST_WORDS]


def _one_line(error: Exception) -> str:
    """The sentence the operator will read."""
    if isinstance(error, NsfwdError):
        return _sayable(str(error))
    if isinstance(error, MemoryError):
        return "the engine cannot start: too little memory; free some, or serve a smaller bundle"
    return _sayable(f"the engine cannot start: {type(error).__name__}: {error}")


def _end(code: int) -> None:
    """End at once: frameworks take seconds to tear down what the kernel frees anyway."""
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
