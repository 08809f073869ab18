"""The OpenVINO engine: the fastest way to score on a CPU.

Pixels go in as they lie in shared memory, without a copy; scaling is part of the compiled network. It is compiled
twice, because one setting cannot serve both: one image alone is done soonest by all cores together, many images by one
core each. A batch is therefore never run as a batch: on a CPU that gains nothing and costs memory.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from nsfwd.bundles.manifest import Recipe
from nsfwd.engines import framework_logging, openvino_ir, openvino_tuning
from nsfwd.engines.contract import EngineOptions, Pixels, Probabilities, require_probabilities
from nsfwd.engines.openvino_tuning import Streams, Tuning
from nsfwd.errors import BundleError, EngineError

PRECISIONS = {"f32": "f32", "bf16": "bf16", "f16": "f16", "int8": "f32"}
"""Our word -> OpenVINO's hint. Always told: left to itself OpenVINO decides by the processor. The 8 bits of ``int8``
are in the network itself; the hint is for the few operations that are left."""

_CAPABILITY = {"f32": "FP32", "bf16": "BF16", "f16": "FP16", "int8": "INT8"}

IMAGES_A_STREAM = 4
"""Batches worth sending at once: enough that no stream waits for the server, little enough that nobody waits long."""


class OpenVinoEngine:
    """See the module; keeps the contract of ``Engine``. Built means compiled.

    Args:
        options: how.
        tuned: streams and threads; what was measured on this processor, else the rule, when None.

    Raises:
        BundleError: the exported network is not this bundle's, or does not fit its manifest.
        EngineError: it cannot be compiled here; the message names the cause and what to set.
    """

    name = "openvino"
    device = "cpu"
    streams = 4  # images run one by one: many small batches cost little more than two large ones
    note = ""

    def __init__(self, options: EngineOptions, *, tuned: Tuning | None = None) -> None:
        self._bundle = bundle = options.bundle
        self.precision = bundle.precision
        self._labels = len(bundle.manifest.output.labels)
        self._shape = (1, bundle.manifest.recipe.height, bundle.manifest.recipe.width, 3)
        tuned = tuned or openvino_tuning.settle(bundle, options.cache, options.threads)
        ceiling = min(options.max_batch, IMAGES_A_STREAM * tuned.crowd.streams)
        self.buckets: tuple[int, ...] = (1, ceiling) if ceiling > 1 else (1,)
        place = openvino_ir.obtain(bundle, options.cache, options.say)
        framework_logging.silence()
        try:
            import openvino
        except ImportError as error:
            raise EngineError(
                f"OpenVINO cannot be imported: {_cause(error, 'install it, or set engine = keras')}"
            ) from None
        self._tensor = openvino.Tensor
        try:
            core = openvino.Core()
            self._refuse_precision(core)
            network = _fuse(openvino, core.read_model(place / openvino_ir.NETWORK), bundle.manifest.recipe)
            self._check_output(network)
            self._crowd = core.compile_model(network, "CPU", self._settings(tuned.crowd))
            alone = core.compile_model(network, "CPU", self._settings(tuned.alone)) if options.alone else self._crowd
            self._alone = alone.create_infer_request()
            self._idle = [self._crowd.create_infer_request() for _ in range(ceiling)]
        except (RuntimeError, MemoryError) as error:
            mend = "set engine = keras, or make the network again: python -P -m nsfwd.engines.openvino_export"
            raise EngineError(f"OpenVINO cannot compile {place}: {_cause(error, mend)}") from error
        self._lock = threading.Lock()
        self._calls = 0

    def warm(self) -> None:
        """Run both compilations once, on every stream."""
        picture = np.zeros(self._shape, np.uint8)
        for images in sorted(self.buckets, reverse=True):
            scores = self.score(np.repeat(picture, images, axis=0))
        require_probabilities(scores, self._bundle)

    def score(self, images: Sequence[Pixels] | Pixels) -> Probabilities:
        """Score each image by itself: one alone on all cores, several on one core each."""
        scores = np.empty((len(images), self._labels), np.float32)
        with self._lock:
            self._calls += 1
            requests = [self._alone] if len(images) == 1 and self._calls == 1 else self._take(len(images))
        try:
            for first in range(0, len(images), len(requests)):
                some = images[first : first + len(requests)]
                self._run(requests, some, scores[first : first + len(requests)])
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {_line(error)}") from error
        finally:
            with self._lock:
                self._calls -= 1
                if requests[0] is not self._alone:
                    self._idle.extend(requests)
        return scores

    def _take(self, wanted: int) -> list[Any]:
        """Infer requests for one call; the streams behind them serve all calls in the order they were started."""
        wanted = max(1, min(wanted, self.buckets[-1]))
        while len(self._idle) < wanted:
            self._idle.append(self._crowd.create_infer_request())
        taken, self._idle = self._idle[:wanted], self._idle[wanted:]
        return taken

    def _run(self, requests: list[Any], images: Sequence[Pixels] | Pixels, scores: Probabilities) -> None:
        """Start all, then wait for each; a request is never left running, so that its pixels may be let go."""
        started = []
        try:
            for request, pixels in zip(requests, images, strict=False):
                request.set_input_tensor(self._tensor(pixels.reshape(self._shape), shared_memory=True))
                request.start_async()
                started.append(request)
        finally:
            for row, request in enumerate(started):
                request.wait()
                scores[row] = request.get_output_tensor().data.reshape(-1)

    def _settings(self, how: Streams) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.precision],
            "NUM_STREAMS": how.streams,
            "INFERENCE_NUM_THREADS": how.threads,
            # Decoders share the cores: a pinned thread waits for its own core while another one is idle.
            "ENABLE_CPU_PINNING": False,
        }

    def _refuse_precision(self, core: Any) -> None:
        if self.precision not in PRECISIONS:
            raise EngineError(f"the openvino engine cannot run {self.precision} here; set precision = f32")
        if _CAPABILITY[self.precision] not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError(f"this processor has no {self.precision} instructions; set precision = f32")

    def _check_output(self, network: Any) -> None:
        shape = network.output().get_partial_shape()
        if shape.rank != 2 or (shape[-1].is_static and shape[-1].get_length() != self._labels):
            raise BundleError(
                f"{self._bundle.directory}: the network returns {shape}, its manifest has {self._labels} labels"
            )


def _fuse(openvino: Any, network: Any, recipe: Recipe) -> Any:
    """Make the network take uint8 RGB of one image, with the recipe's arithmetic inside."""
    from openvino.preprocess import ColorFormat, PrePostProcessor

    inputs, outputs = len(network.inputs), len(network.outputs)
    if (inputs, outputs) != (1, 1):
        raise BundleError(f"the network for OpenVINO has {inputs} inputs and {outputs} outputs, not one of each")
    network.reshape([1, recipe.height, recipe.width, 3])
    fusion = PrePostProcessor(network)
    tensor = fusion.input().tensor()
    tensor.set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps = fusion.input().preprocess()
    fusion.input().model().set_layout(openvino.Layout("NHWC"))
    if recipe.channels == "bgr":
        tensor.set_color_format(ColorFormat.RGB)
        steps.convert_color(ColorFormat.BGR)
    steps.convert_element_type(openvino.Type.f32)
    if recipe.scale != 1:
        steps.scale(1 / recipe.scale)
    if recipe.mean:
        steps.mean(list(recipe.mean))
    if recipe.std:
        steps.scale(list(recipe.std))
    return fusion.build()


_NO_MEMORY = ("alloc", "out of memory", "map segment", "temporarily unavailable", "Broken promise")
"""Of what OpenVINO, the C++ library and the loader say when memory is out, also for the stack of a thread."""


def _cause(error: Exception, mend: str) -> str:
    """Why it cannot be, and what to do: ``mend``, unless memory is out."""
    line = _line(error)
    if isinstance(error, MemoryError) or any(word in line for word in _NO_MEMORY):
        return f"too little memory ({line}); free some, or serve a smaller bundle"
    return f"{line}; {mend}"


def _line(error: Exception) -> str:
    """The last line of OpenVINO's message: the ones before it name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
