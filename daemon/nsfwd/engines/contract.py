"""What every engine is: one protocol, kept by one test for all of them.

An engine takes uint8 pixels as decoders leave them and returns probabilities. Whatever lies between (channel order,
scale, mean, std, reduced precision, softmax) happens on its device. It must not know slots, links or verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nsfwd.bundles.bundle_store import Bundle
from nsfwd.bundles.verdict import check_scores
from nsfwd.engines import openvino_ir
from nsfwd.errors import BundleError, CodedError, EngineError

Pixels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to build an engine.

    Attributes:
        bundle: what to serve; its ``precision`` is the one to compute at.
        device: ``auto``, ``cpu`` or ``gpu``. ``gpu`` never falls back.
        backend: of Keras: ``tensorflow``, ``jax`` or ``torch``; empty for the first one installed.
        max_batch: most images a call may bring.
        cache: directory that may be written to; None when there is none.
        threads: of the CPU; 0 for one a core this process may use.
        gpu_memory: most bytes to take of a GPU's memory; 0 for no cap.
        alone: also be quick with one image alone, which costs memory; not needed for what is only scored again.
        say: takes a line about what will take long before the engine is built.
    """

    bundle: Bundle
    device: str = "auto"
    backend: str = ""
    max_batch: int = 32
    cache: Path | None = None
    threads: int = 0
    gpu_memory: int = 0
    alone: bool = True
    say: Callable[[str], None] = openvino_ir.unheard


def require_probabilities(scores: Probabilities, bundle: Bundle) -> None:
    """Refuse a network whose scores are no probabilities: better at the start than for every image.

    Args:
        scores: of any pictures.
        bundle: whose they are.

    Shape:
        scores: (n, labels)

    Raises:
        BundleError: it returns logits, or not what its manifest's ``activation`` says; the operator's fault.
    """
    activation = bundle.manifest.output.activation
    try:
        for row in scores.tolist():
            check_scores(row, activation)
    except CodedError as error:
        raise BundleError(
            f"{bundle.directory}: {error.message}; the network must end with the {activation} of its manifest"
        ) from None


class DeviceLost(EngineError):
    """The device is gone, or answers no more: no retry in this process helps."""


class Engine(Protocol):
    """A model on a device.

    Attributes:
        name: ``openvino``, ``echo``, or ``keras/`` and its back end.
        device: ``cpu``, or ``gpu`` and the device's own name.
        precision: what it really computes at.
        buckets: warmed batch sizes in rising order; the last is the most that is worth sending at once.
        streams: how many calls of ``score`` may usefully run at once, each in its own thread.
        note: what the operator should know about the choice of device; empty if nothing. It and ``buckets`` may change
            while it works: memory ran out.
    """

    name: str
    device: str
    precision: str
    buckets: tuple[int, ...]
    streams: int
    note: str

    def warm(self) -> None:
        """Compile and run every bucket once, so that the first image costs what all others do.

        Raises:
            BundleError: what it returns are no probabilities.
            EngineError: it does not run here; the message names the cause and what to set.
        """

    def score(self, images: Sequence[Pixels] | Pixels) -> Probabilities:
        """Score images of the recipe's size, any number of them.

        Safe to call from ``streams`` threads at once. Equal pixels give equal scores whatever else is in the batch, up
        to the rounding of the device.

        Args:
            images: they may lie in shared memory; they are not kept and not written to.

        Shape:
            images: n times uint8 (height, width, 3), RGB, 0-255, each contiguous.

        Returns:
            float32 (n, labels), a probability for each label, in the order given.

        Raises:
            DeviceLost: the device is gone; only another process may find it, or another one, again.
            EngineError: the device failed; another try may help.
        """
