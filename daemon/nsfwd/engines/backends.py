"""Keras's three back ends: how each is told its device, compiles one batch size, and says that memory is out.

All three do the same to an image: uint8 to the device, there channel order, scale, mean and std, the network, and
float32 back. Each framework is imported only inside its own class. Nothing here knows bundles beyond their recipe.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from nsfwd.bundles.manifest import Recipe
from nsfwd.engines import hardware
from nsfwd.engines.contract import Pixels, Probabilities
from nsfwd.errors import EngineError

MIB = 1024 * 1024

Compiled = Callable[[Pixels], Probabilities]
"""uint8 (bucket, height, width, 3) -> float32 (bucket, labels)."""


class Backend(Protocol):
    """One of Keras's back ends.

    Attributes:
        name: as ``KERAS_BACKEND`` spells it.
    """

    name: str

    def prepare(self, *, gpu: bool, threads: int, memory: int) -> str:
        """Choose the device, before Keras is imported; a GPU's memory is taken only as it is needed.

        f32 is f32 on a GPU as well: its shortcut through 10 bits of mantissa (TF32), on by default, is turned off.

        Args:
            gpu: on a GPU, or not at all.
            threads: of the CPU.
            memory: most bytes to take of the GPU's memory; 0 for no cap.

        Returns:
            The GPU's own name; empty for the CPU.

        Raises:
            EngineError: a GPU is wanted and the back end sees none.
        """

    def compile(self, model: Any, recipe: Recipe, bucket: int) -> Compiled:
        """Make the function that runs one batch size."""


def preprocess(pixels: Any, recipe: Recipe) -> Any:
    """Apply the engine's part of a recipe to a tensor on the device, whatever the back end."""
    from keras import ops

    values = ops.cast(pixels, "float32")
    if recipe.channels == "bgr":
        values = ops.flip(values, axis=-1)
    values = values * recipe.scale
    if recipe.mean:  # ops, not operators: a tensor of torch on a GPU cannot be mixed with an array of numpy
        values = ops.subtract(values, ops.convert_to_tensor(recipe.mean, "float32"))
    if recipe.std:
        values = ops.divide(values, ops.convert_to_tensor(recipe.std, "float32"))
    return values


class TensorFlow:
    """``tf.function`` with a fixed signature. Never ``model.predict``, and no XLA: on a CPU it is five times slower."""

    name = "tensorflow"

    def prepare(self, *, gpu: bool, threads: int, memory: int) -> str:
        """See ``Backend``."""
        if not gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        if not gpu:
            return ""
        tensorflow.config.experimental.enable_tensor_float_32_execution(False)
        devices = tensorflow.config.list_physical_devices("GPU")
        if not devices:
            raise EngineError("TensorFlow sees no GPU")
        for device in devices:
            if memory:  # TensorFlow knows either a cap or growth
                cap = tensorflow.config.LogicalDeviceConfiguration(memory_limit=memory // MIB)
                tensorflow.config.set_logical_device_configuration(device, [cap])
            else:
                tensorflow.config.experimental.set_memory_growth(device, True)
        details = tensorflow.config.experimental.get_device_details(devices[0])
        return str(details.get("device_name", "unnamed"))

    def compile(self, model: Any, recipe: Recipe, bucket: int) -> Compiled:
        """See ``Backend``."""
        import tensorflow

        shape = (bucket, recipe.height, recipe.width, 3)

        def forward(pixels: Any) -> Any:
            scores = model(preprocess(pixels, recipe), training=False)
            return tensorflow.cast(scores, tensorflow.float32)

        signature = [tensorflow.TensorSpec(shape, tensorflow.uint8)]
        run = tensorflow.function(forward, input_signature=signature, autograph=False).get_concrete_function()

        def compiled(pixels: Pixels) -> Probabilities:
            scores: Probabilities = run(tensorflow.constant(pixels)).numpy()
            return scores

        return compiled


class Jax:
    """Compiled ahead of time for each batch size; the weights stay on the device as arguments."""

    name = "jax"

    def prepare(self, *, gpu: bool, threads: int, memory: int) -> str:
        """See ``Backend``. JAX takes its threads from the cores the process may use."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        if gpu and memory:  # the most it takes, also without preallocation
            os.environ.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # its former name: JAX refuses to see both
            os.environ["XLA_CLIENT_MEM_FRACTION"] = f"{_share(memory, hardware.gpu_memory()):.4f}"
        os.environ["JAX_PLATFORMS"] = "cuda" if gpu else "cpu"
        import jax

        if not gpu:
            return ""
        jax.config.update("jax_default_matmul_precision", "highest")
        try:
            return str(jax.devices()[0].device_kind)
        except RuntimeError as error:
            raise EngineError(f"JAX sees no GPU: {str(error).splitlines()[0]}") from None

    def compile(self, model: Any, recipe: Recipe, bucket: int) -> Compiled:
        """See ``Backend``."""
        import jax

        trained = [variable.value for variable in model.trainable_variables]
        fixed = [variable.value for variable in model.non_trainable_variables]

        def forward(trained: Any, fixed: Any, pixels: Any) -> Any:
            scores, _ = model.stateless_call(trained, fixed, preprocess(pixels, recipe), training=False)
            return scores.astype("float32")

        shape = jax.ShapeDtypeStruct((bucket, recipe.height, recipe.width, 3), np.uint8)
        run = jax.jit(forward).lower(trained, fixed, shape).compile()

        def compiled(pixels: Pixels) -> Probabilities:
            return np.asarray(run(trained, fixed, pixels))

        return compiled


class Torch:
    """Eager, without gradients. Keras permutes its channels-last tensors, which is cuDNN's fast layout already."""

    name = "torch"

    def __init__(self) -> None:
        self._device = "cpu"

    def prepare(self, *, gpu: bool, threads: int, memory: int) -> str:
        """See ``Backend``."""
        self._device = "cuda" if gpu else "cpu"
        os.environ["KERAS_TORCH_DEVICE"] = self._device
        import torch

        torch.set_num_threads(threads)
        if not gpu:
            return ""
        if not torch.cuda.is_available():
            raise EngineError("PyTorch sees no GPU")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        if memory:
            torch.cuda.set_per_process_memory_fraction(
                _share(memory, torch.cuda.get_device_properties(0).total_memory), 0
            )
        return str(torch.cuda.get_device_name(0))

    def compile(self, model: Any, recipe: Recipe, bucket: int) -> Compiled:
        """See ``Backend``. Nothing is compiled; cuDNN chooses its kernels when the bucket is warmed."""
        import torch

        def compiled(pixels: Pixels) -> Probabilities:
            with torch.no_grad():
                scores = model(preprocess(torch.from_numpy(pixels).to(self._device), recipe), training=False)
                result: Probabilities = scores.float().cpu().numpy()
            return result

        return compiled


BACKENDS: dict[str, Callable[[], Backend]] = {"tensorflow": TensorFlow, "jax": Jax, "torch": Torch}


def _share(memory: int, total: int) -> float:
    """A cap in bytes as a part of the whole, which is how JAX and PyTorch take it."""
    return min(1.0, memory / total) if total else 1.0
