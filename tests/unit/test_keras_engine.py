"""The Keras engine around its back end: buckets, padding, memory that runs out. No framework is loaded."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsfwd.bundles.manifest import Recipe
from nsfwd.engines import framework_logging, hardware, keras
from nsfwd.engines.backends import BACKENDS, Compiled
from nsfwd.engines.contract import EngineOptions, Pixels, Probabilities
from nsfwd.engines.echo import echo_scores
from nsfwd.engines.error_classes import is_lost, is_out_of_memory
from nsfwd.errors import EngineError
from nsfwd.extras import install_command
from tests.unit.test_echo_engine import LABELS, options, pictures


class FakeBackend:
    """Scores like the echo engine and has memory for ``most`` images.

    Attributes:
        ran: the sizes that were run, in order.
    """

    name = "tensorflow"

    def __init__(self) -> None:
        self.most = 1000
        self.ran: list[int] = []
        self.obstacle = ""

    def prepare(self, *, gpu: bool, threads: int, memory: int) -> str:
        if gpu and self.obstacle:
            raise EngineError(self.obstacle)
        return "Fake 9000" if gpu else ""

    def compile(self, model: Any, recipe: Recipe, bucket: int) -> Compiled:
        def compiled(pixels: Pixels) -> Probabilities:
            assert pixels.shape == (bucket, recipe.height, recipe.width, 3)
            if bucket > self.most:
                raise RuntimeError("RESOURCE_EXHAUSTED: OOM when allocating tensor")
            self.ran.append(bucket)
            return np.stack([echo_scores(one, len(LABELS)) for one in pixels])

        return compiled


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine names its back end to Keras in the environment, which other tests hand on to their programs."""
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """The back end that every Keras engine of the test gets."""
    fake = FakeBackend()
    monkeypatch.setitem(BACKENDS, "tensorflow", lambda: fake)
    monkeypatch.setattr(keras.KerasEngine, "_load", lambda self, options: None)
    return fake


@pytest.fixture
def on_gpu(tmp_path: Path) -> EngineOptions:
    return replace(options(tmp_path), device="gpu", backend="tensorflow")


def test_keras_runs_on_tensorflow_whatever_the_callers_own_work_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*framework_logging.ENVIRONMENT, "KERAS_BACKEND"):
        monkeypatch.setenv(name, "torch")
    framework_logging.silence()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


def expected(images: Pixels) -> Probabilities:
    return np.stack([echo_scores(one, len(LABELS)) for one in images])


def test_a_gpu_pads_to_warmed_sizes(backend: FakeBackend, on_gpu: EngineOptions) -> None:
    engine = keras.KerasEngine(on_gpu)
    assert (engine.name, engine.device, engine.streams, engine.note) == ("keras/tensorflow", "gpu Fake 9000", 2, "")
    engine.warm()
    assert engine.buckets == (1, 2, 4, 8)
    backend.ran.clear()
    images = pictures(11)
    np.testing.assert_array_equal(engine.score(images), expected(images))
    assert backend.ran == [8, 4]


def test_a_cpu_pads_nothing(backend: FakeBackend, on_gpu: EngineOptions) -> None:
    engine = keras.KerasEngine(replace(on_gpu, device="cpu"))
    engine.warm()
    backend.ran.clear()
    images = pictures(6)
    np.testing.assert_array_equal(engine.score(images), expected(images))
    assert backend.ran == [4, 1, 1]
    assert engine.streams == 1


def test_sizes_that_do_not_fit_are_given_up_and_told(backend: FakeBackend, on_gpu: EngineOptions) -> None:
    backend.most = 4
    engine = keras.KerasEngine(on_gpu)
    engine.warm()
    assert list(engine.buckets) == [1, 2, 4]
    assert "out of memory at 8 images" in engine.note
    backend.most = 2  # another program takes memory meanwhile
    images = pictures(7)
    np.testing.assert_array_equal(engine.score(images), expected(images))
    assert list(engine.buckets) == [1, 2]
    assert "out of memory at 4 images: batches are cut to 2; lower max_batch" in engine.note


def test_not_even_one_image_fits(backend: FakeBackend, on_gpu: EngineOptions) -> None:
    backend.most = 0
    with pytest.raises(EngineError, match="cannot run this model on gpu Fake 9000"):
        keras.KerasEngine(on_gpu).warm()


def test_a_gpu_that_is_not_seen_is_an_error_with_a_remedy(
    backend: FakeBackend, on_gpu: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.obstacle = "TensorFlow sees no GPU"
    monkeypatch.setattr(hardware, "gpu_obstacle", lambda backend: "")
    with pytest.raises(
        EngineError, match=r"sees no GPU: install what it needs: .*tensorflow.and-cuda.*; or set device = cpu"
    ):
        keras.KerasEngine(on_gpu)


def test_precisions_it_has_not(backend: FakeBackend, on_gpu: EngineOptions) -> None:
    with pytest.raises(EngineError, match="set precision = f32"):
        keras.KerasEngine(replace(on_gpu, bundle=replace(on_gpu.bundle, precision="int8")))


@pytest.mark.parametrize(
    ("message", "out"),
    [
        ("RESOURCE_EXHAUSTED: ...", True),
        ("CUDA out of memory. Tried", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", True),
        ("libtensorflow_cc.so.2: failed to map segment from shared object", True),
        ("INVALID_ARGUMENT: shapes", False),
    ],
)
def test_frameworks_say_out_of_memory_in_words(message: str, out: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) is out


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("INTERNAL: Failed to synchronize: CUDA_ERROR_MISALIGNED_ADDRESS", True),
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUDA error: the launch timed out and was terminated", True),
        ("INVALID_ARGUMENT: shapes", False),
    ],
)
def test_a_lost_device_is_known_by_cudas_words(message: str, lost: bool) -> None:
    assert is_lost(RuntimeError(message)) is lost


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_each_backend_has_its_own_remedy(backend: str, on_gpu: EngineOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeBackend()
    fake.name, fake.obstacle = backend, "it sees no GPU"
    monkeypatch.setitem(BACKENDS, backend, lambda: fake)
    monkeypatch.setattr(hardware, "installed", lambda package: True)
    monkeypatch.setattr(hardware, "gpu_obstacle", lambda backend: "")
    extra = {"tensorflow": "gpu"}.get(backend, backend)
    with pytest.raises(EngineError, match=rf"{re.escape(install_command(extra))}; or set device = cpu"):
        keras.KerasEngine(replace(on_gpu, backend=backend))


def test_a_backend_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "installed", lambda package: package == "torch")
    assert keras.choose_backend("") == "torch"
    with pytest.raises(EngineError, match="jax is not installed"):
        keras.choose_backend("jax")
    monkeypatch.setattr(hardware, "installed", lambda package: False)
    with pytest.raises(EngineError, match="none of tensorflow, jax and torch is installed"):
        keras.choose_backend("")
