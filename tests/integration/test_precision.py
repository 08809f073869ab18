"""Reduced precisions with the real network: quantised here, rechecked where it matters, full precision's verdicts."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PIL

from nsfwd.bundles.bundle_store import Bundle, open_bundle, verify_file
from nsfwd.bundles.manifest import INT8_FOLDER, NETWORK_FOLDER
from nsfwd.bundles.verdict import Judge, borders
from nsfwd.engines import factory, openvino_ir, openvino_tuning
from nsfwd.engines.contract import EngineOptions, Pixels, Probabilities
from nsfwd.engines.openvino import IMAGES_A_STREAM, OpenVinoEngine
from nsfwd.engines.recheck import score_again
from nsfwd.errors import BundleError, EngineError
from nsfwd.ipc.child_messages import Recheck
from nsfwd.model_tools.derived_networks import add_network
from nsfwd.model_tools.pack import import_packed, pack
from nsfwd.model_tools.pull import pull
from nsfwd.model_tools.quantize import quantize
from nsfwd.model_tools.tune import tune
from nsfwd.model_tools.verify import verify_networks
from tests.integration.harness import MODELS, Daemon, ask, ndjson, raw_connect

NAME = "nsfw-mobilenet-v2-140"
PICTURES = 160
SIDE = 224


def draw_folds(count: int) -> Pixels:
    """Folds of cloth in random directions, widths and colours: scores of all sizes, with nothing in them."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    drawn = []
    for _ in range(count):
        angle, width = random.uniform(0, np.pi), random.uniform(60, 320)
        bend = random.uniform(0, 400) + random.uniform(0, 0.004) * (x - 112) * (y - 112)
        across = (x * np.cos(angle) + y * np.sin(angle) + bend) % width / width * 2 - 1
        base = random.uniform(20, 110, 3)
        light = np.array([1, random.uniform(0.6, 0.95), random.uniform(0.5, 0.9)]) * random.uniform(60, 190)
        drawn.append(np.clip(base + (1 - across * across)[..., None] * light, 0, 255).astype(np.uint8))
    return np.stack(drawn)


@pytest.fixture(scope="module")
def pictures() -> Pixels:
    return draw_folds(PICTURES)


@pytest.fixture(scope="module")
def folder(pictures: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures as files, and one that is none."""
    directory = tmp_path_factory.mktemp("pictures")
    for number, pixels in enumerate(pictures):
        PIL.fromarray(pixels).save(directory / f"{number:03}.png", compress_level=1)
    (directory / "notes.txt").write_text("not a picture")
    return directory


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy of the default bundle with a network of 8 bits, calibrated on a few of the pictures."""
    if not (MODELS / NAME / "bundle.toml").is_file():
        pytest.fail(f"{MODELS / NAME} is missing: run make setup")
    directory = tmp_path_factory.mktemp("models") / NAME
    shutil.copytree(MODELS / NAME, directory)
    plain = add_network(open_bundle(directory, precision="f32"), lambda line: None)
    report = quantize(plain, folder, images=12, say=lambda line: None)
    assert report.compared == PICTURES
    assert report.mean_change < 0.05
    assert 0 < report.largest <= report.bundle.drift
    return open_bundle(directory, precision="f32")


def score(bundle: Bundle, precision: str, pictures: Pixels) -> Probabilities:
    return factory.build("openvino", EngineOptions(bundle=replace(bundle, precision=precision))).score(pictures)


@pytest.fixture(scope="module")
def exact(bundle: Bundle, pictures: Pixels) -> Probabilities:
    return score(bundle, "f32", pictures)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_verdicts_are_those_of_full_precision(
    precision: str, bundle: Bundle, pictures: Pixels, exact: Probabilities
) -> None:
    try:
        quick = score(bundle, precision, pictures)
    except EngineError as error:
        assert "set precision = f32" in str(error)  # a processor without such instructions says so
        return
    judge = Judge({"nsfw": bundle})

    def verdicts(scores: Probabilities) -> list[str]:
        return [judge.judge({"nsfw": one}).verdict for one in scores.tolist()]

    served = replace(bundle, precision=precision)
    engine = factory.build("openvino", EngineOptions(bundle=served))
    options = EngineOptions(bundle=served)
    assert len(set(verdicts(exact))) == 3, "the pictures should reach every tier"
    again = score_again(factory.build_exact(engine, options), pictures, quick, Recheck(served.drift, *borders(bundle)))
    assert 0 < again < PICTURES
    assert verdicts(quick) == verdicts(exact)


def test_the_network_of_8_bits_is_part_of_the_bundle(bundle: Bundle) -> None:
    assert {
        f"{INT8_FOLDER}/{name}" for name in (openvino_ir.NETWORK, openvino_ir.WEIGHTS, openvino_ir.RECORD)
    } <= bundle.manifest.files.keys()
    for path in bundle.manifest.files:
        verify_file(bundle, path)
    identities = {open_bundle(bundle.directory, precision=one).model_identity for one in ("f32", "bf16", "int8")}
    assert len(identities) == 3
    assert not list(bundle.directory.glob(".*"))


def test_goldens_agree_at_every_precision(bundle: Bundle) -> None:
    seen = dict(verify_networks(bundle, lambda line: None))
    assert {"f32", "int8"} <= seen.keys()
    for drifts in seen.values():
        assert all(drift.largest <= drift.allowed for drift in drifts)


def test_a_second_pull_keeps_it(bundle: Bundle) -> None:
    said: list[str] = []
    pull(NAME, bundle.directory.parent, say=said.append)
    assert said == [f"{NAME}: already there and verified"]
    assert open_bundle(bundle.directory).manifest.quantized is not None


def test_a_packed_bundle_brings_its_networks(bundle: Bundle, tmp_path: Path) -> None:
    pack(bundle, tmp_path / "packed")
    there = import_packed(tmp_path / "packed", tmp_path / "models")
    for precision, directory in (("f32", NETWORK_FOLDER), ("int8", INT8_FOLDER)):
        assert openvino_ir.obtain(replace(there, precision=precision), None) == there.directory / directory


def test_a_daemon_at_int8_scores_again_and_counts_it(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    flags = ("--precision", "int8")
    with Daemon(
        tmp_path, engine="openvino", model=NAME, models_dir=bundle.directory.parent, root=folder, flags=flags
    ) as daemon:
        requests = [{"id": number, "path": str(folder / f"{number:03}.png")} for number in range(48)]
        with raw_connect(daemon.unix) as connection:
            replies = ndjson(connection, requests)
        assert {reply["status"] for reply in replies} == {"ok"}
        assert all(reply["model"]["nsfw"].endswith("/int8") for reply in replies)
        engine = ask(daemon.unix, {"op": "stats"})["engine"]
        assert engine["precision"] == "int8"
        assert 0 < engine["rechecked"] <= engine["images"]
        assert engine["rechecked_share"] == pytest.approx(engine["rechecked"] / engine["images"], abs=1e-6)


def test_nobody_is_told() -> None:
    assert sys.modules["openvino_telemetry"] is None


def test_too_few_pictures_change_nothing(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"no picture")
    before = bundle.directory.joinpath("bundle.toml").read_bytes()
    with pytest.raises(BundleError, match="0 pictures can be read of 1 files"):
        quantize(bundle, tmp_path, images=12, say=lambda line: None)
    assert bundle.directory.joinpath("bundle.toml").read_bytes() == before
    assert not list(bundle.directory.glob(".*"))


def test_measured_streams_are_used(bundle: Bundle, pictures: Pixels, exact: Probabilities, tmp_path: Path) -> None:
    found = tune(bundle, tmp_path, rounds=1)
    assert openvino_tuning.settle(bundle, tmp_path, 0) == found.chosen
    assert found.chosen.crowd in [one.streams for one in found.crowd]
    engine = OpenVinoEngine(EngineOptions(bundle=bundle, cache=tmp_path))
    assert engine.buckets[-1] == min(
        EngineOptions(bundle=bundle).max_batch, IMAGES_A_STREAM * found.chosen.crowd.streams
    )
    np.testing.assert_allclose(engine.score(pictures[:9]), exact[:9], atol=1e-4)
