"""Networks that OpenVINO cannot take: one line that names the cause and what to do. Needs the pulled bundle."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsfwd.bundles.manifest import NETWORK_FOLDER
from nsfwd.bundles.store import Bundle, hash_file, open_bundle
from nsfwd.engines import ir, loading, quiet
from nsfwd.engines.contract import EngineOptions
from nsfwd.engines.openvino import OpenVinoEngine
from nsfwd.errors import BundleError, EngineError
from nsfwd.workshop.networks import add_network, enter
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
    place = ir.beside(bundle)
    text = (place / ir.NETWORK).read_text("utf-8")
    assert old in text
    (place / ir.NETWORK).write_text(text.replace(old, new), "utf-8")
    record = msgspec.json.decode((place / ir.RECORD).read_bytes(), type=ir.Record)
    files = {name: hash_file(place / name) for name in record.files}
    (place / ir.RECORD).write_bytes(msgspec.json.encode(msgspec.structs.replace(record, files=files)))
    enter(bundle.directory, bundle.manifest, NETWORK_FOLDER)
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
    place = ir.beside(replace(bundle, precision="int8"))
    shutil.copytree(bundle.directory / NETWORK_FOLDER, place)
    (place / ir.WEIGHTS).write_bytes(b"altered")
    with pytest.raises(BundleError, match=f"was altered; run: nsfwd models quantize {NAME}"):
        build(replace(bundle, precision="int8"))


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("cut", "is no Keras file, or its end is missing"),
        ("lambda", "it has a Lambda layer, which is a program and is not run"),
        ("unknown", "a class that Keras does not know, Odd"),
        ("inputs", "has 2 inputs, not one"),
        ("labels", r"returns \(4,\) for a picture, its manifest has 5 labels"),
    ],
)
def test_keras_files_that_cannot_be_served(broken: str, told: str, bundle: Bundle, tmp_path: Path) -> None:
    with quiet.muted():
        import keras

        class Odd(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
            def call(self, inputs: Any) -> Any:
                return inputs

        picture = keras.Input((224, 224, 3))
        layers = {"lambda": keras.layers.Lambda(lambda tensor: tensor * 2.0), "unknown": Odd()}
        tensor = layers[broken](picture) if broken in layers else picture
        tensor = keras.layers.GlobalAveragePooling2D()(tensor)
        scores = keras.layers.Dense(4 if broken == "labels" else 5, activation="softmax")(tensor)
        inputs = [picture, keras.Input((5,))] if broken == "inputs" else picture
        outputs = scores + inputs[1] if broken == "inputs" else scores
        path = tmp_path / "odd.keras"
        keras.Model(inputs, outputs).save(path)
        if broken == "cut":
            path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(BundleError, match=told) as caught:
            loading.load(path, bundle.manifest)
    assert "\n" not in str(caught.value)
