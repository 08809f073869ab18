"""The echo engine: loads no model; its scores are a function of the pixels that anyone can compute.

For tests and for measuring everything around an engine. A reply that belongs to another picture shows at once, because
scores come from a digest of the very pixels in the slot. Misbehaviour is asked for with ``NSFWD_ECHO`` (or the
``backend`` of the engine's set-up): words joined by commas.

    nan, inf, zeros   a marked picture gets such scores
    raise             a batch with a marked picture fails
    die               a marked picture ends the process
    lost              a batch with a marked picture loses the device
    slow:SECONDS      every batch takes that long
    unbuildable       the engine cannot be built

A picture is **marked** when it is (255, 0, 255) all over; so good and bad can be mixed in one batch.
"""

from __future__ import annotations

import hashlib
import os
import signal
import struct
import time
from collections.abc import Callable, Sequence

import numpy as np

from nsfwd.engines.contract import DeviceLost, EngineOptions, Pixels, Probabilities
from nsfwd.errors import EngineError

MARK = (255, 0, 255)
"""Colour of a marked picture."""

VARIABLE = "NSFWD_ECHO"
STRIDE = 16
"""Every 16th pixel of every 16th row counts: enough to tell pictures apart, and next to nothing to compute."""

_BAD = {"nan": np.nan, "inf": np.inf, "zeros": 0.0}
_PLAIN = (*_BAD, "raise", "die", "lost", "unbuildable")


def echo_scores(pixels: Pixels, labels: int, *, softmax: bool = True) -> Probabilities:
    """Compute the scores of one picture.

    Each label's weight is 1 plus its own 16 bits (big-endian) of the SHAKE-128 digest of the sampled bytes; a softmax
    divides the weights by their sum, a sigmoid by 65537.

    Shape:
        pixels: uint8 (height, width, 3)

    Returns:
        float32 (labels,)
    """
    digest = hashlib.shake_128(pixels[::STRIDE, ::STRIDE].tobytes()).digest(2 * labels)
    weights = [1 + number for (number,) in struct.iter_unpack(">H", digest)]
    whole = sum(weights) if softmax else 2**16 + 1
    return np.array([weight / whole for weight in weights], np.float32)


def is_marked(pixels: Pixels) -> bool:
    """Whether a picture asks for misbehaviour. The middle is looked at first: most pictures end there."""
    height, width, _ = pixels.shape
    if tuple(pixels[height // 2, width // 2]) != MARK:
        return False
    return bool((pixels[::STRIDE, ::STRIDE] == MARK).all())


class EchoEngine:
    """See the module; keeps the contract of ``Engine``.

    Raises:
        EngineError: ``unbuildable`` was asked for, or an unknown word.
    """

    name = "echo"
    device = "cpu"
    streams = 1
    note = ""

    def __init__(self, options: EngineOptions, *, sleep: Callable[[float], None] = time.sleep) -> None:
        output = options.bundle.manifest.output
        self._labels = len(output.labels)
        self._softmax = output.activation == "softmax"
        self._sleep = sleep
        self._modes, self._seconds = parse_modes(os.environ.get(VARIABLE, "") or options.backend)
        self.precision = options.bundle.precision
        self.buckets: tuple[int, ...] = (1, options.max_batch) if options.max_batch > 1 else (1,)
        if "unbuildable" in self._modes:
            raise EngineError("the echo engine was asked to be unbuildable; unset NSFWD_ECHO")

    def warm(self) -> None:
        """Nothing to do."""

    def score(self, images: Sequence[Pixels] | Pixels) -> Probabilities:
        """Score by digest, or misbehave as asked."""
        if self._seconds:
            self._sleep(self._seconds)
        scores = np.empty((len(images), self._labels), np.float32)
        for row, pixels in zip(scores, images, strict=True):
            row[:] = echo_scores(pixels, self._labels, softmax=self._softmax)
            if self._modes and is_marked(pixels):
                self._misbehave(row)
        return scores

    def _misbehave(self, row: Probabilities) -> None:
        if "die" in self._modes:
            os.kill(os.getpid(), signal.SIGKILL)
        if "raise" in self._modes:
            raise EngineError("the echo engine was asked to fail")
        if "lost" in self._modes:
            raise DeviceLost("the echo engine was asked to lose its device")
        for mode in self._modes & _BAD.keys():
            row[:] = _BAD[mode]


def parse_modes(words: str) -> tuple[set[str], float]:
    """Read the words of ``NSFWD_ECHO``; the names of Keras's back ends ask for nothing.

    Returns:
        The modes, and the seconds of ``slow``.

    Raises:
        EngineError: a word is unknown.
    """
    modes: set[str] = set()
    seconds = 0.0
    for word in filter(None, words.split(",")):
        name, _, number = word.partition(":")
        if name == "slow":
            try:
                seconds = float(number)
            except ValueError:
                raise EngineError(f"{VARIABLE}: slow needs seconds, as in slow:0.5") from None
        elif word in _PLAIN:
            modes.add(word)
        elif word not in ("tensorflow", "jax", "torch"):
            raise EngineError(f"{VARIABLE}: unknown word {word!r}; known: {', '.join(_PLAIN)}, slow:SECONDS")
    return modes, seconds
