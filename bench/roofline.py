"""``roofline``: the engine alone against what its device can do, and the daemon against decoding and engine.

Operations and bytes are counted first, from the network's own description; then the device's peaks are measured by the
framework that the engine uses; then the engine, for each batch size; then the daemon. ``python -m bench.roofline`` is
the process that measures an engine: the bench itself loads no framework.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import daemon, figures, machine
from bench.load import Load, Ndjson
from bench.session import REPOSITORY, Session
from bench.shared import LIMITS
from nsfwd.bundles.bundle_store import open_bundle
from nsfwd.engines import factory
from nsfwd.engines.contract import EngineOptions
from nsfwd.errors import NsfwdError
from nsfwd.imaging import preprocess

BYTES = {"f32": 4, "bf16": 2, "f16": 2}
"""Of one value, at the precisions whose peaks can be measured."""

TARGET = 0.9
"""The share that the daemon must reach of the smaller of decoding and engine where there is a GPU."""


class Work(NamedTuple):
    """The work of one image on the device.

    Attributes:
        operations: a multiplication and an addition are two.
        values: read and written between layers. Activations, scaling and the like count as part of the layer before.
        weights: read once a batch.
        pixels: bytes of the picture, which cross to the device.
    """

    operations: float
    values: float
    weights: float
    pixels: float


class Peaks(NamedTuple):
    """The peaks of the device: operations, bytes of its memory, and bytes from the host, all a second."""

    operations: float
    memory: float
    link: float

    def seconds(self, work: Work, batch: int, value_bytes: int) -> float:
        """The least that one image of a batch can take: the longest of the three."""
        moved = value_bytes * (work.values + work.weights / batch)
        return max(work.operations / self.operations, moved / self.memory, work.pixels / self.link)


def count(model: Path) -> Work:
    """Count the work of one image from a Keras file, without a framework.

    Raises:
        SystemExit: it has a model inside the model, whose layers cannot be seen here.
    """
    with zipfile.ZipFile(model) as file:
        layers = json.loads(file.read("config.json"))["config"]["layers"]
    shapes: dict[str, list[int]] = {}
    for layer in layers:
        shapes.update(_inputs(layer))
    operations = values = weights = pixels = 0.0
    for layer in layers:
        kind, config = layer["class_name"], layer["config"]
        if "layers" in config:
            raise SystemExit(f"{model}: {layer['name']} is a model inside the model: its work cannot be counted")
        if kind == "InputLayer":
            pixels += math.prod(config["batch_shape"][1:])
            continue
        taken = [shape for _, shape in _inputs(layer)]
        given = shapes.get(layer["name"]) or [*taken[0][:-1], config.get("units", taken[0][-1])]
        each = _kernel(kind, config, taken[0])
        if each:
            operations += 2 * math.prod(given) * each
            values += math.prod(taken[0]) + math.prod(given)
            weights += each * given[-1] if kind != "DepthwiseConv2D" else each * taken[0][-1]
        elif len(taken) > 1:
            values += sum(math.prod(shape) for shape in taken[1:])
    return Work(operations, values, weights, pixels)


def _inputs(layer: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """The layers that a layer takes from, with the shapes of one image that it gets."""
    found: list[tuple[str, list[int]]] = []

    def look(value: Any) -> None:
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            found.append((value["config"]["keras_history"][0], value["config"]["shape"][1:]))
        elif isinstance(value, dict):
            look(list(value.values()))
        elif isinstance(value, list):
            for one in value:
                look(one)

    look(layer["inbound_nodes"])
    return found


def _kernel(kind: str, config: Mapping[str, Any], taken: Sequence[int]) -> float:
    """Multiplications for each value that a layer returns; 0 for one without weights to speak of."""
    kernel = float(math.prod(config.get("kernel_size", ())))
    if kind == "Conv2D":
        return kernel * taken[-1] / float(config["groups"])
    if kind == "DepthwiseConv2D":
        return kernel
    return float(taken[-1]) if kind == "Dense" else 0.0


def measure(session: Session) -> None:
    """Print the engine against the roofline, and the daemon against decoding and engine."""
    work = count(session.bundle_directory / "model.keras")
    session.say(f"roofline: {session.engine} on {session.device}")
    told = _engine(session)
    peaks, size = Peaks(*told["peaks"]), BYTES[told["precision"]]
    best = 0.0
    rows = []
    for batch, rates in told["rates"].items():
        rate, roof = figures.median(rates), 1 / peaks.seconds(work, int(batch), size)
        best = max(best, rate)
        rows.append({"batch": int(batch), "img/s": rate, "roof img/s": roof, "of the roof": rate / roof})
    session.report(
        "roofline: the engine alone",
        rows,
        f"{told['name']} on {told['device']} at {told['precision']}{told['note'] and '; ' + told['note']}. An image: "
        f"{work.operations / 1e9:.3f} G operations, {work.values * size / 1e6:.1f} MB between layers, "
        f"{work.weights * size / 1e6:.1f} MB of weights a batch. The device, as measured: "
        f"{peaks.operations / 1e12:.2f} T operations/s, {peaks.memory / 1e9:.1f} GB/s"
        + (f", from the host {peaks.link / 1e9:.1f} GB/s" if math.isfinite(peaks.link) else "")
        + f". Command: {' '.join(sys.argv)}",
    )
    session.report(
        "roofline: the daemon", [_daemon(session, kind, best) for kind in session.kinds], f"Target: {TARGET}."
    )


def _engine(session: Session) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.roofline", str(session.bundle_directory), *session.engine_flags]
    command += ["--rounds", str(session.rounds), "--seconds", "0.2" if session.quick else "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=REPOSITORY, check=False)
    if done.returncode:
        raise SystemExit("roofline: the engine cannot be measured; its words are above")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _daemon(session: Session, kind: str, engine_rate: float) -> Mapping[str, object]:
    """The daemon's rate beside the smaller of decoding alone and the engine alone."""
    paths = session.pictures(kind)[: session.count(1000)]
    recipe = open_bundle(session.bundle_directory).manifest.recipe

    def decode(path: Path) -> None:
        with path.open("rb") as file:
            preprocess.decode(file, recipe, LIMITS)

    with ThreadPoolExecutor(machine.cores()) as pool:
        list(pool.map(decode, paths[:20]))
        began = time.perf_counter()
        list(pool.map(decode, paths))
        decoding = len(paths) / (time.perf_counter() - began)
    flags = [*session.engine_flags, "--root", str(paths[0].parent)]
    with daemon.Nsfwd(
        session.directory, bundle=session.bundle, models_dir=session.models_dir, engine=session.engine, flags=flags
    ) as server:
        server.wait_ready()
        load = Load(server.unix, Ndjson(), 512)
        load.closed((paths * 600)[:600])
        rates = [load.closed((paths * 600)[: max(600, len(paths))]).rate for _ in range(session.rounds)]
        load.close()
    limit = min(decoding, engine_rate)
    rate = figures.median(rates)
    return {
        "pictures": kind,
        "img/s": rate,
        "decoding alone": decoding,
        "engine alone": engine_rate,
        "of the smaller": rate / limit,
    }


# -- the process that measures an engine ------------------------------------------------------------------------------


def main() -> None:
    """Build the engine, measure the device and then the engine, and print one line of JSON."""
    options = _options()
    try:
        bundle = open_bundle(options.bundle, precision=options.precision)
        most = 64 if options.device == "gpu" else 2 * machine.cores()
        engine = factory.build(
            options.engine,
            EngineOptions(bundle=bundle, device=options.device, backend=options.backend, max_batch=most),
        )
        engine.warm()
    except NsfwdError as error:
        raise SystemExit(str(error)) from None
    if engine.precision not in BYTES:
        raise SystemExit(f"the peak at {engine.precision} is not measured here; use {', '.join(BYTES)}")
    gpu = engine.device.startswith("gpu")
    peaks = _by_openvino(engine.precision) if engine.name == "openvino" else _by_keras(engine.precision, gpu=gpu)
    recipe = bundle.manifest.recipe
    picture = np.random.default_rng(1).integers(0, 256, (recipe.height, recipe.width, 3), np.uint8)
    rates: dict[int, list[float]] = {batch: [] for batch in engine.buckets}
    with ThreadPoolExecutor(engine.streams) as pool:
        for number in range(options.rounds):
            for batch in figures.shuffled(engine.buckets, seed=number):
                score = partial(engine.score, [picture] * batch)
                rates[batch].append(batch * _per_second(score, options.seconds, pool, engine.streams))
    print(
        json.dumps(
            {
                "name": engine.name,
                "device": engine.device,
                "precision": engine.precision,
                "note": engine.note,
                "peaks": peaks,
                "rates": rates,
            }
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="")
    parser.add_argument("--precision")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    return parser.parse_args()


def _per_second(work: Callable[[], object], seconds: float, pool: ThreadPoolExecutor, streams: int) -> float:
    """How often ``work`` ends in a second when each lane does it again and again."""
    stop = time.perf_counter() + seconds

    def lane() -> int:
        done = 0
        while not done or time.perf_counter() < stop:
            work()
            done += 1
        return done

    began = time.perf_counter()
    done = sum(future.result() for future in [pool.submit(lane) for _ in range(streams)])
    return done / (time.perf_counter() - began)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the quickest of some runs, after one that warms: a peak, not a habit."""
    work()
    taken = []
    for _ in range(7):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _by_keras(precision: str, *, gpu: bool) -> Peaks:
    """Peaks by the back end that the engine loaded: a square product, adding one to a large array, and a transfer."""
    from keras import ops

    side, length = (8192, 2**28) if gpu else (2048, 2**25)
    dtype = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[precision]
    square, row = ops.ones((side, side), dtype), ops.ones((length,), dtype)
    host = np.ones(2**26, np.uint8)

    def wait(tensor: Any) -> None:
        """Read one value of a result: frameworks return before the device has ended."""
        ops.convert_to_numpy(ops.cast(ops.reshape(tensor, (-1,))[:1], "float32"))

    product = _best(lambda: wait(ops.matmul(square, square)))
    added = _best(lambda: wait(row + 1))
    sent = _best(lambda: wait(ops.convert_to_tensor(host)))
    return Peaks(2 * side**3 / product, 2 * BYTES[precision] * length / added, host.nbytes / sent)


def _by_openvino(precision: str) -> Peaks:
    """The same on a CPU; pixels are read where they lie, so nothing crosses a link."""
    import openvino
    from openvino import opset13 as ov

    side, length = 2048, 2**25
    core = openvino.Core()

    def compiled(shape: Sequence[int], result: Callable[[Any], Any]) -> Any:
        given = ov.parameter(list(shape), np.float32)
        network = openvino.Model([result(given)], [given])
        hint = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        return core.compile_model(network, "CPU", hint).create_infer_request()

    square, row = np.ones((side, side), np.float32), np.ones(length, np.float32)
    multiply = compiled(square.shape, lambda one: ov.matmul(one, ov.constant(square), False, False))
    add = compiled(row.shape, lambda one: ov.add(one, np.float32(1)))
    product = _best(lambda: multiply.infer([square], share_inputs=True, share_outputs=True))
    added = _best(lambda: add.infer([row], share_inputs=True, share_outputs=True))
    return Peaks(2 * side**3 / product, 2 * 4 * length / added, math.inf)


if __name__ == "__main__":
    main()
