"""What each back end of Keras is told before it is loaded: device, memory, exact f32. The frameworks are stand-ins."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from nsfwd.engines import hardware
from nsfwd.engines.backends import MIB, Jax, TensorFlow, Torch
from nsfwd.errors import EngineError

GIB = 1024 * MIB


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back ends set variables for the process they are in: put back afterwards."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(hardware, "gpu_memory", lambda: 80 * GIB)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """A module in the place of a framework, which notes every call."""
    module = MagicMock()
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def tensorflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = stand_in(monkeypatch, "tensorflow")
    module.config.list_physical_devices.return_value = ["GPU:0"]
    module.config.experimental.get_device_details.return_value = {"device_name": "H9000"}
    return module


def test_tensorflow_grows_as_needed(tensorflow: Any) -> None:
    assert TensorFlow().prepare(gpu=True, threads=2, memory=0) == "H9000"
    tensorflow.config.experimental.set_memory_growth.assert_called_once_with("GPU:0", True)
    tensorflow.config.set_logical_device_configuration.assert_not_called()
    tensorflow.config.experimental.enable_tensor_float_32_execution.assert_called_once_with(False)


def test_tensorflow_has_a_cap_instead(tensorflow: Any) -> None:
    TensorFlow().prepare(gpu=True, threads=2, memory=2 * GIB)
    tensorflow.config.LogicalDeviceConfiguration.assert_called_once_with(memory_limit=2048)
    tensorflow.config.set_logical_device_configuration.assert_called_once()
    tensorflow.config.experimental.set_memory_growth.assert_not_called()


def test_tensorflow_on_a_cpu_sees_no_gpu(tensorflow: Any) -> None:
    assert TensorFlow().prepare(gpu=False, threads=3, memory=GIB) == ""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    tensorflow.config.threading.set_intra_op_parallelism_threads.assert_called_once_with(3)
    tensorflow.config.list_physical_devices.assert_not_called()


def test_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = stand_in(monkeypatch, "jax")
    jax.devices.return_value = [SimpleNamespace(device_kind="H9000")]
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.9"
    assert Jax().prepare(gpu=True, threads=2, memory=20 * GIB) == "H9000"
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ  # JAX refuses both names at once
    told = {name: os.environ[name] for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE")}
    assert told == {"XLA_CLIENT_MEM_FRACTION": "0.2500", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    assert os.environ["JAX_PLATFORMS"] == "cuda"
    jax.config.update.assert_called_once_with("jax_default_matmul_precision", "highest")


def test_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = stand_in(monkeypatch, "torch")
    torch.cuda.get_device_name.return_value = "H9000"
    torch.cuda.get_device_properties.return_value.total_memory = 80 * GIB
    assert Torch().prepare(gpu=True, threads=2, memory=20 * GIB) == "H9000"
    assert os.environ["KERAS_TORCH_DEVICE"] == "cuda"
    torch.cuda.set_per_process_memory_fraction.assert_called_once_with(0.25, 0)
    assert torch.backends.cuda.matmul.allow_tf32 is False
    assert torch.backends.cudnn.allow_tf32 is False


def test_none_takes_a_cpu_for_a_gpu(monkeypatch: pytest.MonkeyPatch, tensorflow: Any) -> None:
    tensorflow.config.list_physical_devices.return_value = []
    stand_in(monkeypatch, "jax").devices.side_effect = RuntimeError("Unknown backend cuda\nmore")
    stand_in(monkeypatch, "torch").cuda.is_available.return_value = False
    for backend, told in ((TensorFlow(), "TensorFlow"), (Jax(), "JAX"), (Torch(), "PyTorch")):
        with pytest.raises(EngineError, match=f"{told} sees no GPU"):
            backend.prepare(gpu=True, threads=1, memory=0)
