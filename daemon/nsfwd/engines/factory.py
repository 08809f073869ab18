"""Chooses and builds the engine for this machine. No silent fallback: a choice that is second best leaves a note."""

from __future__ import annotations

from dataclasses import replace

from nsfwd.bundles.bundle_store import verify_weights
from nsfwd.engines import hardware
from nsfwd.engines.contract import Engine, EngineOptions
from nsfwd.errors import EngineError

ENGINES = ("auto", "keras", "openvino", "echo")


def build(engine: str, options: EngineOptions) -> Engine:
    """Build an engine, not yet warmed.

    ``auto`` is Keras on a GPU that is really seen, else OpenVINO, else Keras on the CPU. ``device = gpu`` is a GPU or
    an error.

    Args:
        engine: one of ``ENGINES``.
        options: how.

    Raises:
        BundleError: the bundle is wrong; the operator's fault.
        EngineError: it cannot be built here; the message names the cause and what to set.
    """
    if engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}; use {', '.join(ENGINES)}")
    if options.device not in ("auto", "cpu", "gpu"):
        raise EngineError(f"unknown device {options.device!r}; use auto, cpu or gpu")
    verify_weights(options.bundle)
    if engine == "echo":
        from nsfwd.engines.echo import EchoEngine

        return EchoEngine(options)
    hardware.require_instructions()
    if engine == "openvino":
        if options.device == "gpu":
            raise EngineError("the openvino engine runs on the CPU; for a GPU set engine = keras, or auto")
        return _openvino(options)
    if options.device != "auto":
        return _keras(options) if engine == "keras" or options.device == "gpu" else _on_cpu(engine, options)
    return _on_best_device(engine, options)


def build_exact(engine: Engine, options: EngineOptions) -> Engine:
    """Build the same engine on the same device at full precision, for images that are scored again. Not yet warmed.

    Args:
        engine: one of reduced precision.
        options: what it was built with.

    Raises:
        EngineError: it cannot be built beside the other one.
    """
    bundle = replace(options.bundle, precision="f32")
    device = engine.device.partition(" ")[0]
    return build(engine.name.partition("/")[0], replace(options, bundle=bundle, device=device, alone=False))


def _on_best_device(engine: str, options: EngineOptions) -> Engine:
    """A GPU if one is really seen, else the CPU with a note why not, unless there is none at all."""
    from nsfwd.engines.keras import choose_backend

    try:
        obstacle = hardware.gpu_obstacle(choose_backend(options.backend))
    except EngineError as error:
        obstacle = str(error)
    if not obstacle:
        try:
            return _keras(replace(options, device="gpu"))
        except EngineError as error:
            obstacle = str(error)
    built = _on_cpu(engine, replace(options, device="cpu"))
    if hardware.nvidia_device_exists():
        built.note = "; ".join(filter(None, (f"running on the CPU: {obstacle}", built.note)))
    return built


def _on_cpu(engine: str, options: EngineOptions) -> Engine:
    """OpenVINO under ``auto`` where it is installed, else Keras."""
    return _openvino(options) if engine == "auto" and hardware.installed("openvino") else _keras(options)


def _keras(options: EngineOptions) -> Engine:
    from nsfwd.engines.keras import KerasEngine

    return KerasEngine(options)


def _openvino(options: EngineOptions) -> Engine:
    from nsfwd.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(options)
