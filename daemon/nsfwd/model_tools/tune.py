"""Measures which streams and threads serve a bundle fastest on this processor, and keeps the choice for the engine.

All candidates are compiled first and take turns, so that a slow moment of the machine affects all alike. The default
choice stays unless another one is clearly faster than noise would explain.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nsfwd.bundles.bundle_store import Bundle
from nsfwd.engines import hardware, openvino_tuning
from nsfwd.engines.contract import EngineOptions, Pixels
from nsfwd.engines.openvino import OpenVinoEngine
from nsfwd.engines.openvino_tuning import Streams, Tuning

CLEARLY = 0.97
"""Largest part of the default choice's time that a better candidate may take."""

CROWD = 8
"""Images for each stream in one measurement of a deep queue."""

Clock = Callable[[], float]


class Measured(NamedTuple):
    """One candidate and its median seconds for each image."""

    streams: Streams
    seconds: float


class TuneResult(NamedTuple):
    """The measurements, the choice, and the file that holds it."""

    alone: list[Measured]
    crowd: list[Measured]
    chosen: Tuning
    file: Path


def tune(bundle: Bundle, cache: Path, *, rounds: int, clock: Clock = time.perf_counter) -> TuneResult:
    """Measure, choose and store.

    Args:
        bundle: opened at the precision to tune; its network must be there.
        cache: the cache directory of the daemon that will use the choice.
        rounds: measurements of each candidate.
        clock: to be replaced in tests.

    Raises:
        BundleError: the network is not the bundle's.
        EngineError: it cannot be compiled here, or the cache cannot be written to.
    """
    cores = hardware.cores()
    one_by_one, many = openvino_tuning.candidates(cores)
    recipe = bundle.manifest.recipe
    noise = np.random.default_rng(1).integers(0, 256, (1, recipe.height, recipe.width, 3), np.uint8)
    alone = _measure(bundle, [Tuning(alone=one, crowd=one) for one in one_by_one], noise, rounds, clock)
    crowd_pixels = np.repeat(noise, CROWD * cores, axis=0)
    crowd = _measure(bundle, [Tuning(alone=many[0], crowd=one) for one in many], crowd_pixels, rounds, clock)
    alone_found = [Measured(one, seconds) for one, seconds in zip(one_by_one, alone, strict=True)]
    crowd_found = [Measured(one, seconds) for one, seconds in zip(many, crowd, strict=True)]
    chosen = Tuning(alone=choose(alone_found), crowd=choose(crowd_found))
    return TuneResult(alone_found, crowd_found, chosen, openvino_tuning.store(chosen, bundle, cache))


def choose(found: Sequence[Measured]) -> Streams:
    """Return the fastest, or the first, which is the default, where none is clearly faster."""
    best = min(found, key=lambda one: one.seconds)
    return best.streams if best.seconds <= CLEARLY * found[0].seconds else found[0].streams


def _measure(bundle: Bundle, ways: Sequence[Tuning], pixels: Pixels, rounds: int, clock: Clock) -> list[float]:
    """Return the median seconds for each image of every candidate; they take turns."""
    options = EngineOptions(bundle=bundle, device="cpu", max_batch=len(pixels), alone=len(pixels) == 1)
    engines = [OpenVinoEngine(options, tuned=way) for way in ways]
    for engine in engines:
        engine.score(pixels)
    seconds: list[list[float]] = [[] for _ in engines]
    for _ in range(rounds):
        for engine, taken in zip(engines, seconds, strict=True):
            started = clock()
            engine.score(pixels)
            taken.append((clock() - started) / len(pixels))
    return [statistics.median(taken) for taken in seconds]
