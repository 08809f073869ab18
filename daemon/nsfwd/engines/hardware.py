"""What this machine has: cores, instructions, GPUs. Looks without importing a framework."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import importlib.util
import os
import platform
from functools import cache
from pathlib import Path

from nsfwd.errors import EngineError
from nsfwd.extras import install_command

GPU_EXTRA = {"tensorflow": "gpu", "jax": "jax", "torch": "torch"}
"""Back end of Keras -> the extra that makes it see an NVIDIA GPU whose driver is there."""


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


@cache
def _cpu() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_key() -> str:
    """A short word that is the same on equal processors only."""
    told = "|".join(_cpu().get(key, "") for key in ("vendor_id", "cpu family", "model", "stepping", "flags"))
    return hashlib.sha256(f"{platform.machine()}|{told}".encode()).hexdigest()[:8]


def require_instructions() -> None:
    """Refuse a processor on which the frameworks would end with an illegal instruction.

    Raises:
        EngineError: it has no AVX2; another machine is needed.
    """
    if platform.machine() == "x86_64" and "avx2" not in _cpu().get("flags", "").split():
        raise EngineError("this processor has no AVX2, which TensorFlow and OpenVINO need; use another machine")


def nvidia_device_exists() -> bool:
    """Whether the kernel shows an NVIDIA device, usable or not."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def gpu_memory() -> int:
    """Bytes of the first GPU's memory, as its driver tells; 0 where it does not."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    device, size = ctypes.c_int(0), ctypes.c_size_t(0)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return 0
    return 0 if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) else size.value


def gpu_obstacle(backend: str) -> str:
    """Why ``backend`` cannot see a GPU here, and what to do; empty when it probably can (only loading it tells).

    The driver is asked itself; for the libraries it is seen whether they are there at all.
    """
    if not nvidia_device_exists():
        return "no NVIDIA device on this machine (no /dev/nvidia0)"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "an NVIDIA device exists but its driver library libcuda.so.1 does not; install the NVIDIA driver"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "an NVIDIA device exists but its driver shows none; look at the output of nvidia-smi"
    if backend == "tensorflow" and not (installed("nvidia.cudnn") or ctypes.util.find_library("cudnn")):
        return f"an NVIDIA GPU exists but TensorFlow has no CUDA libraries; {install_command('gpu')}"
    if backend == "jax" and not any(installed(plugin) for plugin in ("jax_cuda12_plugin", "jax_cuda13_plugin")):
        return f"an NVIDIA GPU exists but JAX has no CUDA plugin; {install_command('jax')}"
    return ""
