"""One contract for all engines: same pixels, same scores, whatever the batch. Needs the pulled bundle."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image as PIL

from nsfwd.bundles.bundle_store import Bundle, open_bundle
from nsfwd.bundles.manifest import NETWORK_FOLDER
from nsfwd.engines import factory, openvino_ir
from nsfwd.engines.contract import Engine, EngineOptions, Pixels, Probabilities
from nsfwd.errors import BundleError, EngineError
from tests.integration.harness import MODELS

NAME = "nsfw-mobilenet-v2-140"
MOST = 12
F32 = 1e-4
"""How far two ways of computing the same network in float32 may lie apart."""


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The default bundle at full precision."""
    if not (MODELS / NAME / "bundle.toml").is_file():
        pytest.fail(f"{MODELS / NAME} is missing: run make setup")
    return open_bundle(MODELS / NAME, precision="f32")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory for all engines of this run, so that the export happens once at most."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def pictures(bundle: Bundle) -> Pixels:
    """The bundle's golden pictures, whose scores differ well, then noise of rising strength, black and white."""
    width, height = bundle.manifest.recipe.width, bundle.manifest.recipe.height
    images = [np.asarray(PIL.open(path).convert("RGB").resize((width, height))) for _, path in bundle.golden_files()]
    noise = np.random.default_rng(11).uniform(0, 1, (height, width, 3))
    noisy = MOST - 2 - len(images)
    images += [(255 * noise ** (1 + number)).astype(np.uint8) for number in range(noisy)]
    images += [np.full((height, width, 3), value, np.uint8) for value in (0, 255)]
    return np.stack(images)


@pytest.fixture(scope="session")
def reference(bundle: Bundle, pictures: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Probabilities:
    """A direct Keras call on the same pixels, in a process of its own and without any of our code."""
    directory = tmp_path_factory.mktemp("reference")
    np.save(directory / "pixels.npy", pictures)
    program = (
        "import sys, numpy, keras\n"
        "model = keras.models.load_model(sys.argv[1], compile=False)\n"
        "pixels = numpy.load(sys.argv[2]).astype('float32') / 255\n"
        "numpy.save(sys.argv[3], numpy.asarray(model(pixels, training=False)))\n"
    )
    files = [str(bundle.weights), str(directory / "pixels.npy"), str(directory / "scores.npy")]
    quiet = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", program, *files], check=True, env=quiet, capture_output=True)
    scores: Probabilities = np.load(directory / "scores.npy")
    return scores


@pytest.fixture(scope="module", params=["echo", "keras", "openvino"])
def engine(request: pytest.FixtureRequest, bundle: Bundle, cache: Path) -> Engine:
    """Each engine, built and warmed as the engine process does it."""
    built = factory.build(request.param, EngineOptions(bundle=bundle, device="cpu", max_batch=MOST, cache=cache))
    built.warm()
    return built


def test_it_says_what_it_is(engine: Engine) -> None:
    assert engine.name in ("echo", "keras/tensorflow", "openvino")
    assert (engine.device, engine.precision, engine.note) == ("cpu", "f32", "")
    assert engine.buckets[0] == 1
    assert list(engine.buckets) == sorted(set(engine.buckets))
    assert engine.buckets[-1] <= MOST


def test_scores_are_probabilities(engine: Engine, bundle: Bundle, pictures: Pixels) -> None:
    scores = engine.score(pictures)
    assert scores.dtype == np.float32
    assert scores.shape == (MOST, len(bundle.manifest.output.labels))
    assert scores.min() >= 0
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)


def test_scores_are_those_of_a_direct_keras_call(engine: Engine, pictures: Pixels, reference: Probabilities) -> None:
    if engine.name == "echo":
        assert np.abs(engine.score(pictures) - reference).max() > F32  # it has its own formula, tested by itself
        return
    assert np.ptp(reference, axis=0).max() > 0.2, "the pictures should not all score alike"
    np.testing.assert_allclose(engine.score(pictures), reference, atol=F32)


@pytest.mark.parametrize("images", [1, 2, 3, 5, 8, MOST, 2 * MOST + 1])
def test_any_batch_size_keeps_order_and_scores(engine: Engine, pictures: Pixels, images: int) -> None:
    chosen = [(7 * number) % MOST for number in range(images)]
    alone = np.concatenate([engine.score(pictures[one : one + 1]) for one in range(MOST)])
    np.testing.assert_allclose(engine.score([pictures[one] for one in chosen]), alone[chosen], atol=F32)


def test_the_same_call_gives_the_same_bits(engine: Engine, pictures: Pixels) -> None:
    np.testing.assert_array_equal(engine.score(pictures[:5]), engine.score(pictures[:5]))


def test_calls_from_all_lanes_do_not_mix(engine: Engine, pictures: Pixels) -> None:
    alone = engine.score(pictures)
    jobs = [[(number + step) % MOST for step in range(1 + number % 4)] for number in range(24)]
    with ThreadPoolExecutor(engine.streams) as pool:
        replies = list(pool.map(lambda job: engine.score([pictures[one] for one in job]), jobs))
    for job, scores in zip(jobs, replies, strict=True):
        np.testing.assert_allclose(scores, alone[job], atol=F32)


def test_the_caller_may_reuse_its_pixels(engine: Engine, pictures: Pixels) -> None:
    """Slots are given to other images as soon as a batch is done."""
    slots = pictures[:4].copy()
    scores = engine.score(list(slots))
    before = scores.copy()
    slots[:] = 0
    engine.score(list(slots))
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("name", ["keras", "openvino"])
def test_the_recipe_is_applied(name: str, bundle: Bundle, cache: Path, pictures: Pixels) -> None:
    """Pixels changed in just the way that another recipe undoes give the same scores."""
    shift = np.array((10, 20, 30), np.uint8)
    images = pictures[:4] // 2
    changed = np.ascontiguousarray((images + shift)[..., ::-1])
    mean = tuple(2 * float(value) / 255 for value in shift)
    recipe = msgspec.structs.replace(
        bundle.manifest.recipe, channels="bgr", scale=2 / 255, mean=mean, std=(2.0, 2.0, 2.0)
    )
    other = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, recipe=recipe))
    scores = []
    for served, pixels in ((bundle, images), (other, changed)):
        engine = factory.build(name, EngineOptions(bundle=served, device="cpu", cache=cache))
        engine.warm()
        scores.append(engine.score(pixels))
    np.testing.assert_allclose(scores[1], scores[0], atol=F32)


def test_bf16_is_near_and_is_named(bundle: Bundle, cache: Path, pictures: Pixels, reference: Probabilities) -> None:
    options = EngineOptions(bundle=replace(bundle, precision="bf16"), device="cpu", cache=cache)
    try:
        engine = factory.build("openvino", options)
    except EngineError as error:
        assert "set precision = f32" in str(error)  # a processor without such instructions says so
        return
    assert engine.precision == "bf16"
    scores = engine.score(pictures)
    assert 0 < np.abs(scores - reference).max() < 0.2
    assert np.abs(scores - reference).mean() < 0.02


def test_the_serving_process_never_loads_tensorflow(bundle: Bundle, cache: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nsfwd.bundles.bundle_store import open_bundle\n"
        "from nsfwd.engines import factory\n"
        "from nsfwd.engines.contract import EngineOptions\n"
        "options = EngineOptions(bundle=open_bundle(Path(sys.argv[1])), device='cpu', cache=Path(sys.argv[2]))\n"
        "factory.build('auto', options).warm()\n"
        "print(sorted({'tensorflow', 'keras', 'jax', 'torch', 'openvino_telemetry.main'} & set(sys.modules)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(bundle.directory), str(cache)], capture_output=True, text=True, check=True
    )
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_a_network_of_other_weights_is_refused(bundle: Bundle, cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    copy.mkdir()
    for file in bundle.directory.iterdir():
        if file.name != NETWORK_FOLDER:
            (copy / file.name).symlink_to(file)
    place = openvino_ir.obtain(bundle, cache)
    own = copy / NETWORK_FOLDER
    own.mkdir()
    for name in (openvino_ir.NETWORK, openvino_ir.WEIGHTS):
        (own / name).write_bytes((place / name).read_bytes())
    record = (place / openvino_ir.RECORD).read_text("utf-8")
    opened = replace(bundle, directory=copy)
    (own / openvino_ir.RECORD).write_text(record.replace(bundle.manifest.weights_digest, "0" * 64), "utf-8")
    with pytest.raises(BundleError, match="other weights"):
        factory.build("openvino", EngineOptions(bundle=opened, device="cpu"))
    (own / openvino_ir.RECORD).write_text(record, "utf-8")
    (own / openvino_ir.WEIGHTS).write_bytes(b"altered")
    with pytest.raises(BundleError, match="altered"):
        factory.build("openvino", EngineOptions(bundle=opened, device="cpu"))


@pytest.mark.parametrize("engine_name", ["keras", "auto"])
def test_a_gpu_that_is_not_there_is_never_replaced_in_silence(engine_name: str, bundle: Bundle) -> None:
    from nsfwd.engines import hardware

    if hardware.nvidia_device_exists():
        pytest.skip("this machine has one")
    with pytest.raises(EngineError, match="device = cpu"):
        factory.build(engine_name, EngineOptions(bundle=bundle, device="gpu"))


def test_an_export_does_without_what_fails_on_python_3_13(bundle: Bundle, tmp_path: Path) -> None:
    """OpenVINO's program that takes a live ``tf.function`` relies on ``exec`` removing a local variable."""
    program = (
        "import sys\n"
        "sys.modules['openvino.frontend.tensorflow.utils'] = None\n"
        "from nsfwd.engines import openvino_export\n"
        "sys.exit(openvino_export.main(sys.argv[1:]))\n"
    )
    arguments = [str(bundle.directory), "--into", str(tmp_path / "exported")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {
        openvino_ir.NETWORK,
        openvino_ir.WEIGHTS,
        openvino_ir.RECORD,
    }
