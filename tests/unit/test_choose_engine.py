"""Which engine `auto` takes, and what it says when the choice is second best. No framework is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nsfwd.engines import factory, hardware
from nsfwd.engines.contract import Engine, EngineOptions
from nsfwd.engines.echo import EchoEngine
from nsfwd.errors import EngineError
from tests.unit.test_echo_engine import options

UNSEEN = "an NVIDIA GPU exists but TensorFlow has no CUDA libraries"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was built, as ``engine device``, in place of real engines."""
    made: list[str] = []

    def builder(name: str) -> object:
        def build(chosen: EngineOptions) -> Engine:
            made.append(f"{name} {chosen.device}")
            if name == "keras" and chosen.device == "gpu" and "blind" in chosen.backend:
                raise EngineError("TensorFlow sees no GPU")
            return EchoEngine(replace(chosen, backend=""))

        return build

    monkeypatch.setattr(factory, "_keras", builder("keras"))
    monkeypatch.setattr(factory, "_openvino", builder("openvino"))
    monkeypatch.setattr("nsfwd.engines.keras.choose_backend", lambda wanted: wanted or "tensorflow")
    monkeypatch.setattr(hardware, "require_instructions", lambda: None)
    return made


def see(monkeypatch: pytest.MonkeyPatch, *, device: bool, obstacle: str, openvino: bool = True) -> None:
    monkeypatch.setattr(hardware, "nvidia_device_exists", lambda: device)
    monkeypatch.setattr(hardware, "gpu_obstacle", lambda backend: obstacle)
    monkeypatch.setattr(hardware, "installed", lambda package: openvino)


@pytest.mark.parametrize(
    ("engine", "device", "openvino", "expected"),
    [
        ("auto", "auto", True, "openvino cpu"),
        ("auto", "cpu", True, "openvino cpu"),
        ("auto", "auto", False, "keras cpu"),
        ("auto", "gpu", True, "keras gpu"),
        ("keras", "auto", True, "keras cpu"),
        ("keras", "cpu", True, "keras cpu"),
        ("openvino", "auto", True, "openvino auto"),
    ],
)
def test_without_a_gpu(
    engine: str, device: str, openvino: bool, expected: str, *, built: list[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    see(monkeypatch, device=False, obstacle="no NVIDIA device", openvino=openvino)
    made = factory.build(engine, replace(options(tmp_path), device=device))
    assert built == [expected]
    assert made.note == ""


@pytest.mark.parametrize("engine", ["auto", "keras"])
def test_a_gpu_that_is_seen_is_used(
    engine: str, built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    see(monkeypatch, device=True, obstacle="")
    assert factory.build(engine, options(tmp_path)).note == ""
    assert built == ["keras gpu"]


def test_a_gpu_that_no_library_sees_is_told(built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    see(monkeypatch, device=True, obstacle=UNSEEN)
    assert factory.build("auto", options(tmp_path)).note == f"running on the CPU: {UNSEEN}"
    assert built == ["openvino cpu"]


def test_a_gpu_that_only_loading_shows_unusable_is_told(
    built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    see(monkeypatch, device=True, obstacle="")
    made = factory.build("auto", replace(options(tmp_path), backend="blind"))
    assert made.note == "running on the CPU: TensorFlow sees no GPU"
    assert built == ["keras gpu", "openvino cpu"]


def test_gpu_never_falls_back(built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    see(monkeypatch, device=True, obstacle=UNSEEN)
    with pytest.raises(EngineError, match="sees no GPU"):
        factory.build("auto", replace(options(tmp_path), device="gpu", backend="blind"))
    with pytest.raises(EngineError, match="set engine = keras"):
        factory.build("openvino", replace(options(tmp_path), device="gpu"))
    assert built == ["keras gpu"]


def test_a_processor_without_avx2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(hardware, "_cpu", lambda: {"flags": "sse2 avx"})
    with pytest.raises(EngineError, match="AVX2"):
        hardware.require_instructions()


def test_equal_processors_have_equal_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_cpu", lambda: {"model": "1", "flags": "avx2", "cpu MHz": "1000"})
    key = hardware.cpu_key()
    monkeypatch.setattr(hardware, "_cpu", lambda: {"model": "1", "flags": "avx2", "cpu MHz": "2000"})
    assert hardware.cpu_key() == key
    monkeypatch.setattr(hardware, "_cpu", lambda: {"model": "1", "flags": "avx2 avx512f"})
    assert hardware.cpu_key() != key
