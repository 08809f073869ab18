"""The engine process: ``python -m nsfwd.engines.body LINK_FD ARENA_FD``, started by the server process.

Loads and warms one engine, then: batch in, scores out. Pixels are read where decoders left them, in the arena. As many
threads as the engine has lanes take turns at the link, each carrying one batch from its arrival to its scores, so that
the device works while the host gathers and sends. It must not know files, requests or verdicts.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from pathlib import Path

import msgspec
import numpy as np

from nsfwd.bundles.store import open_bundle
from nsfwd.engines import choose, quiet
from nsfwd.engines.contract import Engine, EngineOptions, Pixels
from nsfwd.errors import NsfwdError
from nsfwd.ipc.arena import Arena
from nsfwd.ipc.childmain import run_child
from nsfwd.ipc.link import Link
from nsfwd.ipc.messages import Batch, EngineFailed, EngineReady, EngineSetup, Scores, encode

MOST_FAILURES = 3
"""After so many batches in a row have failed the process ends: a fresh one may fare better (a lost device)."""

_SETUP = msgspec.msgpack.Decoder(EngineSetup)
_BATCHES = msgspec.msgpack.Decoder(Batch)


class Body:
    """One engine between a link and an arena.

    Args:
        shape: of one image's pixels, (height, width, 3).
    """

    def __init__(self, link: Link, arena: Arena, engine: Engine, shape: tuple[int, int, int]) -> None:
        self._link = link
        self._arena = arena
        self._engine = engine
        self._shape = shape
        self._receiving = threading.Lock()
        self._failures = 0

    def run(self) -> None:
        """Serve until the server ends the link."""
        threads = [threading.Thread(target=self._serve) for _ in range(self._engine.lanes - 1)]
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
                self._link.send(encode(self.score(_BATCHES.decode(packet))))
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
            scores = self._engine.score([self._pixels(slot) for slot in batch.slots]).tobytes()
        except Exception as error:
            self._failures += 1
            if not isinstance(error, NsfwdError):
                traceback.print_exc()
            print(f"engine: {error}", file=sys.stderr, flush=True)
            return Scores(batch.number, b"", time.perf_counter() - started, str(error) or type(error).__name__)
        self._failures = 0
        return Scores(batch.number, scores, time.perf_counter() - started, "")

    def _pixels(self, slot: int) -> Pixels:
        size = self._shape[0] * self._shape[1] * self._shape[2]
        return np.frombuffer(self._arena.slot(slot), np.uint8, size).reshape(self._shape)


def load(setup: EngineSetup) -> tuple[Engine, EngineReady, tuple[int, int, int]]:
    """Build and warm the engine that was asked for.

    Returns:
        The engine, what to tell the server, and the shape of one image.

    Raises:
        BundleError: the bundle is wrong.
        EngineError: the engine cannot be built or warmed here.
    """
    started = time.perf_counter()
    bundle = open_bundle(Path(setup.bundle), precision=setup.precision or None)
    options = EngineOptions(
        bundle=bundle,
        device=setup.device,
        backend=setup.backend,
        max_batch=setup.max_batch,
        cache=Path(setup.cache) if setup.cache else None,
    )
    engine = choose.build(setup.engine, options)
    loaded = time.perf_counter()
    engine.warm()
    ready = EngineReady(
        engine=engine.name,
        device=engine.device,
        precision=engine.precision,
        buckets=list(engine.buckets),
        load_seconds=loaded - started,
        warm_seconds=time.perf_counter() - loaded,
        note=engine.note,
    )
    return engine, ready, (bundle.manifest.recipe.height, bundle.manifest.recipe.width, 3)


def main() -> None:
    """Run the process."""
    link, (arena_fd,) = run_child()
    quiet.silence()
    try:
        setup = _SETUP.decode(link.receive()[0])
        arena = Arena.attach(arena_fd, setup.slot_bytes)
        try:
            engine, ready, shape = load(setup)
        except Exception as error:
            if not isinstance(error, NsfwdError):
                traceback.print_exc()
            link.send(encode(EngineFailed(_one_line(error))))
            _end(1)
        link.send(encode(ready))
    except EOFError:
        _end(0)
    Body(link, arena, engine, shape).run()
    _end(0)


def _one_line(error: Exception) -> str:
    """The sentence the operator will read."""
    if isinstance(error, NsfwdError):
        return " ".join(str(error).split())
    return f"the engine cannot start: {type(error).__name__}: {' '.join(str(error).split())}"


def _end(code: int) -> None:
    """End at once: frameworks take seconds to tear down what the kernel frees anyway."""
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
