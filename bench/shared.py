"""The daemon's own decoding and engine, called directly: shared by the ceiling, the peers and the naive server.

So a difference between two of them is never a difference of decoder, filter, network or precision. Importable in the
peers' virtual environment: it needs no more than the engine itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsfwd.bundles.bundle_store import Bundle, open_bundle
from nsfwd.engines import factory
from nsfwd.engines.contract import Engine, EngineOptions
from nsfwd.imaging import preprocess
from nsfwd.ipc.child_messages import ImageLimits

LIMITS = ImageLimits(64 << 20, 100_000_000, 1, 1, 1 << 30)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nsfwd"
BUNDLE, PRECISION = "NSFWD_BENCH_BUNDLE", "NSFWD_BENCH_PRECISION"
"""Variables by which a peer's worker processes learn what to load."""


class Scorer:
    """One bundle, ready to decode for and to score with.

    Args:
        directory: of the bundle.
        precision: empty for the bundle's own.
        engine: as the setting of that name.
        threads: of the engine; 0 for one a core.
        most: images scored in one call at most.
    """

    def __init__(
        self, directory: Path, *, precision: str = "", engine: str = "openvino", threads: int = 0, most: int = 8
    ) -> None:
        self.bundle: Bundle = open_bundle(directory, precision=precision or None)
        self._recipe = self.bundle.manifest.recipe
        options = EngineOptions(bundle=self.bundle, device="cpu", max_batch=most, cache=CACHE, threads=threads)
        self.engine: Engine = factory.build(engine, options)
        self.engine.warm()

    @classmethod
    def of_environment(cls, *, engine: str = "openvino") -> Scorer:
        """The scorer that ``NSFWD_BENCH_BUNDLE`` and ``NSFWD_BENCH_PRECISION`` name."""
        return cls(Path(os.environ[BUNDLE]), precision=os.environ.get(PRECISION, ""), engine=engine)

    def decode(self, path: str | Path) -> NDArray[np.uint8]:
        """Turn a file into uint8 (height, width, 3)."""
        with Path(path).open("rb") as file:
            pixels = preprocess.decode(file, self._recipe, LIMITS)
        # OpenVINO wants memory that may be written to: a copy, as the daemon's is into a slot.
        return np.frombuffer(bytearray(pixels.data), np.uint8).reshape(self._recipe.height, self._recipe.width, 3)

    def scan(self, path: str | Path) -> list[float]:
        """Decode and score one picture."""
        scores: list[float] = self.engine.score([self.decode(path)])[0].tolist()
        return scores
