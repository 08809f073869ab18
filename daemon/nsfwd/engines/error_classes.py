"""What a framework's error means: no memory left, or the device gone.

The frameworks share no exceptions, only words. Nothing is imported, so that whoever loads a model may ask.
"""

from __future__ import annotations

_NO_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MemoryError",
    "OOM when allocating",
    "OutOfMemory",
    "RESOURCE_EXHAUSTED",
    "ResourceExhausted",
    "bad_alloc",
    "failed to map segment",
    "out of memory",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether device or host had no memory left."""
    return any(word in f"{type(error).__name__}: {error}" for word in _NO_MEMORY)


_LOST = (
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEINITIALIZED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_NO_DEVICE",
    "CUDA_ERROR_SYSTEM_NOT_READY",
    "CUDA_ERROR_UNKNOWN",
    "CUDA error: unknown error",
    "GPU is lost",
    "busy or unavailable",
    "device-side assert",
    "hardware stack error",
    "illegal instruction was encountered",
    "illegal memory access",
    "invalid program counter",
    "launch timed out",
    "misaligned address",
    "no CUDA-capable device",
    "uncorrectable ECC error",
    "unspecified launch failure",
)
"""What CUDA's driver (which TensorFlow and JAX pass on) and runtime (PyTorch) call a device, or a context on it, that
will not work again in this process.

Source: the results of the CUDA driver API whose documentation ends with "the process must be terminated and
relaunched", and those of a device that is gone.
"""


def is_lost(error: Exception) -> bool:
    """Whether the device is gone for this process. The frameworks pass on CUDA's words."""
    return any(word in str(error) for word in _LOST)
