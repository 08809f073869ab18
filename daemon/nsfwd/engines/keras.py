"""The Keras engine: any Keras 3 model on tensorflow, jax or torch, on a GPU or a CPU; the reference for all others.

uint8 crosses to the device and float32 probabilities come back; everything between is compiled once for each warmed
batch size. When a GPU's memory is out, the largest size is given up and the batch is cut smaller, and that is told.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from nsfwd.engines import framework_logging, hardware, keras_loading
from nsfwd.engines.backends import BACKENDS, Compiled
from nsfwd.engines.buckets import cpu_buckets, cut, gpu_buckets
from nsfwd.engines.contract import DeviceLost, EngineOptions, Pixels, Probabilities, require_probabilities
from nsfwd.engines.error_classes import is_lost, is_out_of_memory
from nsfwd.errors import EngineError
from nsfwd.extras import install_command

POLICIES = {"f32": "float32", "bf16": "mixed_bfloat16", "f16": "mixed_float16"}
"""Our word -> Keras's policy: weights stay float32 in memory, layers compute in the shorter type."""


class KerasEngine:
    """See the module; keeps the contract of ``Engine``. Built means loaded; ``warm`` compiles.

    Args:
        options: ``device`` must be ``cpu`` or ``gpu`` here.

    Raises:
        BundleError: Keras cannot load the model, or it does not fit its manifest.
        EngineError: the back end is not installed, or sees no GPU where one is asked for.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._gpu = options.device == "gpu"
        self._backend = BACKENDS[choose_backend(options.backend)]()
        self.name = f"keras/{self._backend.name}"
        self.precision = options.bundle.precision
        self.note = "" if self._gpu else _slow_on_cpu(self._backend.name, self.precision)
        self.streams = 2 if self._gpu else 1
        self.buckets = (gpu_buckets if self._gpu else cpu_buckets)(options.max_batch)
        self._bundle = options.bundle
        self._labels = len(options.bundle.manifest.output.labels)
        self._recipe = options.bundle.manifest.recipe
        self._lock = threading.Lock()
        self._compiled: dict[int, Compiled] = {}
        if self.precision not in POLICIES:
            raise EngineError(f"the keras engine cannot run {self.precision}; set precision = f32 or engine = openvino")
        with framework_logging.muted():
            self.device = self._prepare(options)
            self._model = self._load(options)

    def _prepare(self, options: EngineOptions) -> str:
        framework_logging.silence()
        os.environ["KERAS_BACKEND"] = self._backend.name
        try:
            name = self._backend.prepare(
                gpu=self._gpu, threads=options.threads or hardware.cores(), memory=options.gpu_memory
            )
        except ImportError as error:
            mend = "too little memory; free some" if is_out_of_memory(error) else "install it or set another backend"
            raise EngineError(f"{self._backend.name} cannot be imported: {error}; {mend}") from None
        except EngineError as error:
            name = self._backend.name
            cause = hardware.gpu_obstacle(name) or f"install what it needs: {install_command(hardware.GPU_EXTRA[name])}"
            raise EngineError(f"{error}: {cause}; or set device = cpu") from None
        return f"gpu {name}" if self._gpu else "cpu"

    def _load(self, options: EngineOptions) -> Any:
        try:
            model = keras_loading.load(options.bundle.weights, options.bundle.manifest)
        except ImportError as error:
            raise EngineError(f"Keras cannot be imported: {error}") from None
        if self.precision != "f32":
            _lower(model, POLICIES[self.precision])
        return model

    def warm(self) -> None:
        """Compile and run every bucket; sizes for which the memory does not suffice are left out, and noted."""
        for bucket in self.buckets:
            try:
                compiled = self._backend.compile(self._model, self._recipe, bucket)
                scores = compiled(np.zeros((bucket, self._recipe.height, self._recipe.width, 3), np.uint8))
            except Exception as error:
                if is_out_of_memory(error) and bucket > 1:
                    self._give_up(bucket)
                    return
                raise EngineError(f"{self.name} cannot run this model on {self.device}: {_line(error)}") from error
            require_probabilities(scores[:1], self._bundle)
            self._compiled[bucket] = compiled

    def score(self, images: Sequence[Pixels] | Pixels) -> Probabilities:
        """Score in warmed sizes: padded on a GPU, cut without padding on a CPU."""
        scores = np.empty((len(images), self._labels), np.float32)
        done = 0
        while done < len(images):
            piece = cut(len(images) - done, self.buckets, pad=self._gpu)[0]
            try:
                some = self._compiled[piece.bucket](self._gather(images[done : done + piece.images], piece.bucket))
            except Exception as error:
                if is_out_of_memory(error) and piece.bucket > 1:
                    self._give_up(piece.bucket)
                    continue
                kind = DeviceLost if self._gpu and is_lost(error) else EngineError
                raise kind(f"{self.name} failed on {self.device}: {_line(error)}") from error
            scores[done : done + piece.images] = some[: piece.images]
            done += piece.images
        return scores

    def _gather(self, images: Sequence[Pixels] | Pixels, bucket: int) -> Pixels:
        """One contiguous batch; what pads it is black."""
        batch = np.empty((bucket, self._recipe.height, self._recipe.width, 3), np.uint8)
        for place, pixels in zip(batch, images, strict=False):
            place[:] = pixels
        batch[len(images) :] = 0
        return batch

    def _give_up(self, bucket: int) -> None:
        """Use smaller sizes only, from now on."""
        with self._lock:
            self.buckets = tuple(size for size in self.buckets if size < bucket)
            self.note = f"out of memory at {bucket} images: batches are cut to {self.buckets[-1]}; lower max_batch"


def choose_backend(wanted: str) -> str:
    """Settle which back end of Keras runs: the one asked for, else the first one installed.

    Raises:
        EngineError: it is unknown or not installed, or none is.
    """
    if wanted and wanted not in BACKENDS:
        raise EngineError(f"unknown backend {wanted!r}; use {', '.join(BACKENDS)}")
    for name in [wanted] if wanted else BACKENDS:
        if hardware.installed(name):
            return name
    missing = wanted or "none of tensorflow, jax and torch"
    command = install_command("" if wanted in ("", "tensorflow") else wanted)  # TensorFlow is no extra
    raise EngineError(
        f"backend: {missing} is {'not ' if wanted else ''}installed; install it: {command}, or set another backend"
    )


def _slow_on_cpu(backend: str, precision: str) -> str:
    """What makes a CPU needlessly slow. Source: measured on MobileNetV2 1.4, f32 on TensorFlow being 1."""
    if precision != "f32":
        return (
            f"Keras emulates {precision} on a CPU at a third of f32's speed; set precision = f32 or engine = openvino"
        )
    if backend != "tensorflow":
        return f"{backend} is several times slower than TensorFlow on a CPU; set engine = openvino, or another backend"
    return ""


def _lower(model: Any, policy: str) -> None:
    """Let all layers but the last compute in a shorter type; the probabilities themselves stay float32."""
    layers = [layer for layer in model._flatten_layers(include_self=False) if layer is not model.layers[-1]]
    for layer in layers:
        layer.dtype_policy = policy


def _line(error: Exception) -> str:
    """What went wrong, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
