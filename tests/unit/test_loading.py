"""Why a network cannot be loaded or taken over: the cause in one line, out of a framework's many. None is loaded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nsfwd.engines import openvino, openvino_ir
from nsfwd.engines.contract import require_probabilities
from nsfwd.engines.keras_loading import LONGEST, cause, check_archive, check_shapes
from nsfwd.engines.openvino_export import obstacle
from nsfwd.errors import BundleError, EngineError
from tests.echo_bundle import LABELS
from tests.unit.shelf import make_bundle, manifest

PICTURE, SCORES = (None, 8, 8, 3), (None, len(LABELS))

LAMBDA = (
    "Requested the deserialization of a `Lambda` layer whose `function` is a Python lambda. This carries a potential "
    "risk; you can override this error by passing `safe_mode=False` to the loading function."
)
UNKNOWN = (
    "<class 'keras.src.models.functional.Functional'> could not be deserialized properly.\n\nconfig={'a': 1}.\n\n"
    "Exception encountered: Could not locate class 'Odd'. Make sure custom classes are decorated. Full config: {}"
)
CONVERSION = """Check 'false' failed at src/frontends/common_translators/src/unconverted_ops_report.cpp:151:
Model wasn't fully converted. Failed operations detailed log:
-- FFT2D with a message:
FFT op input element type must be f32, f16, or bf16
Summary:
-- No conversion rule found for operations: Qr
-- Conversion is failed for: FFT2D, Imag
To facilitate the conversion of unsupported operations, refer to the documentation"""


def model(*, inputs: tuple[Any, ...] = (PICTURE,), outputs: tuple[Any, ...] = (SCORES,)) -> SimpleNamespace:
    """The part of a Keras model that is looked at."""
    tensors = [[SimpleNamespace(shape=shape) for shape in shapes] for shapes in (inputs, outputs)]
    return SimpleNamespace(inputs=tensors[0], outputs=tensors[1])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (LAMBDA, "it has a Lambda layer, which is a program and is not run"),
        (UNKNOWN, "a class that Keras does not know, Odd; make the model of Keras's own layers"),
        ("could not\n\nException encountered: bad shape\nmore", "bad shape"),
        ("\n first \n second", "first"),
        ("x" * 1000, "x" * LONGEST),
        ("", "it does not say why"),
    ],
)
def test_the_cause_out_of_many_words(words: str, told: str) -> None:
    assert told in cause(words)
    assert "\n" not in cause(words)


def test_operators_that_openvino_lacks_are_named() -> None:
    assert obstacle(RuntimeError(CONVERSION)) == "it has no counterpart of: Qr, FFT2D, Imag"
    assert obstacle(RuntimeError("in user code:\n\n  File x\n\n ValueError: two inputs\n")) == "ValueError: two inputs"


@pytest.mark.parametrize("size", [PICTURE, (None, None, None, 3), (1, 8, 8, 3)])
def test_shapes_that_fit(size: tuple[int | None, ...]) -> None:
    check_shapes(model(inputs=(size,)), Path("model.keras"), manifest())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (model(inputs=(PICTURE, PICTURE)), "has 2 inputs, not one"),
        (model(outputs=(SCORES, SCORES)), "has 2 outputs, not one"),
        (model(inputs=((None, 9, 8, 3),)), r"takes pictures of \(9, 8, 3\), its manifest says \(8, 8, 3\)"),
        (model(inputs=((None, 8, 8, 1),)), r"takes pictures of \(8, 8, 1\)"),
        (model(outputs=((None, 4),)), r"returns \(4,\) for a picture, its manifest has 5 labels"),
        (model(outputs=((None, 2, 2, 5),)), r"returns \(2, 2, 5\)"),
    ],
)
def test_shapes_that_do_not(wrong: SimpleNamespace, told: str) -> None:
    with pytest.raises(BundleError, match=f"model.keras {told}"):
        check_shapes(wrong, Path("model.keras"), manifest())


def test_scores_that_are_no_probabilities(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    require_probabilities(np.full((2, 5), 0.2, np.float32), bundle)
    for bad in ([-1.0, 2.0, 0.0, 0.0, 0.0], [np.nan] * 5, [0.9] * 5):
        with pytest.raises(BundleError, match="the network must end with the softmax of its manifest"):
            require_probabilities(np.array([bad], np.float32), bundle)


@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        (1, EngineError, r"^cannot export .*: no counterpart of: Qr; or set engine = keras$"),
        (openvino_ir.BAD_BUNDLE, BundleError, "^no counterpart of: Qr$"),
    ],
)
def test_another_engine_is_advised_only_where_one_may_do(
    code: int, error: type[Exception], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = SimpleNamespace(returncode=code, stderr=b"chatter\nno counterpart of: Qr\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: ended)
    said: list[str] = []
    with pytest.raises(error, match=told):
        openvino_ir.obtain(make_bundle(tmp_path / "models"), tmp_path / "cache", said.append)
    assert len(said) == 1 and "making one in" in said[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("std::bad_alloc", "too little memory (std::bad_alloc); free some, or serve a smaller bundle"),
        ("Exception from src/core.cpp:1:\ncan't alloc", "too little memory (can't alloc); free some,"),
        ("x.so: failed to map segment from shared object", "too little memory ("),
        ("Resource temporarily unavailable", "too little memory ("),
        ("Unsupported operation", "Unsupported operation; set engine = keras"),
    ],
)
def test_openvino_has_many_words_for_too_little_memory(words: str, told: str) -> None:
    assert openvino._cause(RuntimeError(words), "set engine = keras").startswith(told)


def _zip(path: Path, method: int, *entries: tuple[str, int]) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, size in entries:
            with archive.open(name, "w", force_zip64=True) as entry:
                for at in range(0, size, 1 << 20):
                    entry.write(bytes(min(1 << 20, size - at)))
    return path


@pytest.mark.parametrize(
    "entries",
    [
        [("model.weights.h5", 200 << 20)],
        [("config.json", 40 << 20), ("model.weights.h5", 10)],
        [(f"assets/{number}", 1) for number in range(1001)],
    ],
    ids=["weights", "configuration", "files"],
)
def test_a_file_that_would_grow_is_not_unpacked(tmp_path: Path, entries: list[tuple[str, int]]) -> None:
    path = _zip(tmp_path / "model.keras", zipfile.ZIP_DEFLATED, *entries)
    with pytest.raises(BundleError, match=r"model.keras: [0-9]+ bytes that would be unpacked to [0-9]+ bytes"):
        check_archive(path)


def test_a_file_as_keras_writes_it_is_taken(tmp_path: Path) -> None:
    entries = [("metadata.json", 100), ("config.json", 200_000), ("model.weights.h5", 90 << 20)]
    check_archive(_zip(tmp_path / "model.keras", zipfile.ZIP_STORED, *entries))
