"""Networks that OpenVINO cannot take: one line that names the cause and what to do. Needs the pulled bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from nsfwd.bundles.bundle_store import Bundle, hash_file, open_bundle
from nsfwd.bundles.manifest import NETWORK_FOLDER
from nsfwd.engines import openvino_ir
from nsfwd.engines.contract import EngineOptions
from nsfwd.engines.openvino import OpenVinoEngine
from nsfwd.errors import BundleError, EngineError
from nsfwd.model_tools.derived_networks import add_network, add_to_manifest
from tests.integration.harness import MODELS

NAME = "nsfw-mobilenet-v2-140"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A copy of the default bundle with its network, to be spoilt."""
    if not (MODELS / NAME / "bundle.toml").is_file():
        pytest.fail(f"{MODELS / NAME} is missing: run make setup")
    shutil.copytree(MODELS / NAME, tmp_path / NAME)
    return add_network(open_bundle(tmp_path / NAME, precision="f32"), lambda line: None)


def spoil(bundle: Bundle, old: str, new: str) -> Bundle:
    """Change the network, and make its record and the manifest agree."""
    place = openvino_ir.beside(bundle)
    text = (place / openvino_ir.NETWORK).read_text("utf-8")
    assert old in text
    (place / openvino_ir.NETWORK).write_text(text.replace(old, new), "utf-8")
    record = msgspec.json.decode((place / openvino_ir.RECORD).read_bytes(), type=openvino_ir.Record)
    files = {name: hash_file(place / name) for name in record.files}
    (place / openvino_ir.RECORD).write_bytes(msgspec.json.encode(msgspec.structs.replace(record, files=files)))
    add_to_manifest(bundle.directory, bundle.manifest, NETWORK_FOLDER)
    return open_bundle(bundle.directory, precision="f32")


def build(bundle: Bundle) -> OpenVinoEngine:
    return OpenVinoEngine(EngineOptions(bundle=bundle, device="cpu", alone=False))


def test_an_unknown_operator(bundle: Bundle) -> None:
    spoilt = spoil(bundle, 'type="GroupConvolution"', 'type="FoldedConvolution"')
    with pytest.raises(EngineError, match=r"FoldedConvolution.*set engine = keras") as caught:
        build(spoilt)
    assert "\n" not in str(caught.value)


def test_a_network_that_is_cut_short(bundle: Bundle) -> None:
    spoilt = spoil(bundle, "</net>", "")
    with pytest.raises(EngineError, match=r"OpenVINO cannot compile .*set engine = keras") as caught:
        build(spoilt)
    assert "\n" not in str(caught.value)


def test_too_little_memory(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    def refuse(*_: object) -> None:
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(openvino.Core, "compile_model", refuse)
    with pytest.raises(EngineError, match=r"too little memory .*serve a smaller bundle"):
        build(bundle)


def test_no_network_and_nowhere_to_make_one(bundle: Bundle) -> None:
    shutil.rmtree(bundle.directory / NETWORK_FOLDER)
    with pytest.raises(EngineError, match="no exported network and there is no cache directory"):
        build(bundle)


def test_a_network_that_was_replaced_together_with_its_record(bundle: Bundle) -> None:
    """Also what is left of a quantisation that was killed between the network and the manifest."""
    spoil(bundle, "</net>", "</net> ")
    with pytest.raises(BundleError, match=r"model\.xml was altered"):
        build(bundle)


def test_a_network_of_8_bits_that_was_altered_says_how_to_make_it_anew(bundle: Bundle) -> None:
    place = openvino_ir.beside(replace(bundle, precision="int8"))
    shutil.copytree(bundle.directory / NETWORK_FOLDER, place)
    (place / openvino_ir.WEIGHTS).write_bytes(b"altered")
    with pytest.raises(BundleError, match=f"was altered; run: nsfwd models quantize {NAME}"):
        build(replace(bundle, precision="int8"))


SPOIL_AND_LOAD = """
import json, sys
from pathlib import Path
from nsfwd.bundles.bundle_store import read_manifest
from nsfwd.engines import framework_logging, keras_loading
from nsfwd.errors import BundleError

manifest, path, told = read_manifest(Path(sys.argv[1])), Path(sys.argv[2]), {}
with framework_logging.muted():
    import keras

    class Odd(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    layers = {"lambda": lambda: keras.layers.Lambda(lambda tensor: tensor * 2.0), "unknown": Odd}
    for broken in ("whole", "cut", "lambda", "unknown", "inputs", "labels"):
        picture = keras.Input((224, 224, 3))
        tensor = layers[broken]()(picture) if broken in layers else picture
        scores = keras.layers.Dense(4 if broken == "labels" else 5)(keras.layers.GlobalAveragePooling2D()(tensor))
        inputs = [picture, keras.Input((5,))] if broken == "inputs" else [picture]
        keras.Model(inputs, scores + inputs[1] if broken == "inputs" else scores).save(path)
        if broken == "cut":
            path.write_bytes(path.read_bytes()[:-100])
        try:
            keras_loading.load(path, manifest)
        except BundleError as error:
            told[broken] = str(error)
print(json.dumps(told))
"""
"""In a process of its own: a framework that was loaded cannot be given other threads by a later test."""


def test_keras_files_that_cannot_be_served(bundle: Bundle, tmp_path: Path) -> None:
    arguments = [str(bundle.directory), str(tmp_path / "odd.keras")]
    ended = subprocess.run(
        [sys.executable, "-c", SPOIL_AND_LOAD, *arguments], capture_output=True, text=True, check=True
    )
    told = json.loads(ended.stdout)
    expected = {
        "cut": "is not a Keras file, or its end is missing",
        "lambda": "it has a Lambda layer, which is a program and is not run",
        "unknown": "a class that Keras does not know, Odd",
        "inputs": "has 2 inputs, not one",
        "labels": "returns (4,) for a picture, its manifest has 5 labels",
    }
    assert told.keys() == expected.keys()
    for broken, words in expected.items():
        assert words in told[broken]
        assert "\n" not in told[broken]
