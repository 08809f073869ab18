"""The echo engine: scores that anyone can compute, and misbehaviour on demand."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from nsfwd.bundles.bundle_store import open_bundle
from nsfwd.bundles.manifest import WEIGHTS, Licence, Manifest, Output, Recipe, dump_manifest
from nsfwd.engines import factory
from nsfwd.engines.contract import EngineOptions, Pixels
from nsfwd.engines.echo import MARK, VARIABLE, EchoEngine, echo_scores, is_marked, parse_modes
from nsfwd.errors import BundleError, EngineError

LABELS = ("drawings", "hentai", "neutral", "porn", "sexy")
SIDE = 64


def options(directory: Path, backend: str = "") -> EngineOptions:
    """Options over a bundle without a network."""
    weights = b"no network"
    manifest = Manifest(
        name="echo",
        version="1",
        summary="for tests",
        licence=Licence(name="Apache-2.0"),
        recipe=Recipe(width=SIDE, height=SIDE),
        output=Output(labels=LABELS, activation="softmax"),
        files={WEIGHTS: hashlib.sha256(weights).hexdigest()},
    )
    (directory / WEIGHTS).write_bytes(weights)
    (directory / "bundle.toml").write_text(dump_manifest(manifest), "utf-8")
    return EngineOptions(bundle=open_bundle(directory), backend=backend, max_batch=8)


def pictures(count: int) -> Pixels:
    return np.random.default_rng(7).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def marked() -> Pixels:
    return np.full((SIDE, SIDE, 3), MARK, np.uint8)


def test_scores_are_the_pictures_own_in_order(tmp_path: Path) -> None:
    images = pictures(20)
    scores = EchoEngine(options(tmp_path)).score(images)
    assert scores.dtype == np.float32
    assert scores.shape == (20, len(LABELS))
    np.testing.assert_array_equal(scores, [echo_scores(pixels, len(LABELS)) for pixels in images])
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert len({row.tobytes() for row in scores}) == 20


def test_the_formula_is_the_one_documented() -> None:
    flat = np.full((16, 16, 3), 7, np.uint8)  # one sampled pixel: the bytes 7, 7, 7
    digest = hashlib.shake_128(bytes([7, 7, 7])).digest(6)
    weights = [1 + int.from_bytes(digest[at : at + 2], "big") for at in (0, 2, 4)]
    np.testing.assert_allclose(echo_scores(flat, 3), np.array(weights) / sum(weights), rtol=1e-6)
    np.testing.assert_allclose(echo_scores(flat, 3, softmax=False), np.array(weights) / 65537, rtol=1e-6)


@pytest.mark.parametrize(("word", "value"), [("nan", np.nan), ("inf", np.inf), ("zeros", 0.0)])
def test_bad_scores_are_the_marked_pictures_alone(word: str, value: float, tmp_path: Path) -> None:
    sound = pictures(2)
    scores = EchoEngine(options(tmp_path, word)).score([sound[0], marked(), sound[1]])
    np.testing.assert_array_equal(scores[1], np.full(len(LABELS), value, np.float32))
    np.testing.assert_allclose(scores[[0, 2]].sum(axis=1), 1, atol=1e-6)


def test_a_picture_that_is_marked_in_its_middle_only_is_sound() -> None:
    pixels = marked()
    assert is_marked(pixels)
    pixels[0, 0] = (255, 0, 254)
    assert not is_marked(pixels)


def test_the_environment_outranks_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "zeros")
    assert not EchoEngine(options(tmp_path, "tensorflow")).score([marked()]).any()


def test_raise_fails_the_batch_only(tmp_path: Path) -> None:
    engine = EchoEngine(options(tmp_path, "raise"))
    with pytest.raises(EngineError, match="asked to fail"):
        engine.score([marked()])
    engine.score(pictures(1))


def test_die_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    engine = EchoEngine(options(tmp_path, "die"))
    engine.score(pictures(3))
    assert not sent
    engine.score([marked()])
    assert sent == [(os.getpid(), signal.SIGKILL)]


def test_slow_takes_that_long_a_batch(tmp_path: Path) -> None:
    slept: list[float] = []
    EchoEngine(options(tmp_path, "slow:2.5,nan"), sleep=slept.append).score(pictures(4))
    assert slept == [2.5]


def test_unknown_words_are_refused() -> None:
    assert parse_modes("tensorflow") == (set(), 0.0)
    for words in ("nanny", "slow:long", "slow"):
        with pytest.raises(EngineError, match=VARIABLE):
            parse_modes(words)


def test_unbuildable_and_altered_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="unbuildable"):
        factory.build("echo", options(tmp_path, "unbuildable"))
    chosen = options(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(BundleError, match="digest"):
        factory.build("echo", chosen)


@pytest.mark.parametrize(
    ("engine", "device", "words"), [("onnx", "cpu", "unknown engine"), ("echo", "tpu", "unknown device")]
)
def test_unknown_choices_are_refused(engine: str, device: str, words: str, tmp_path: Path) -> None:
    bundle = options(tmp_path).bundle
    with pytest.raises(EngineError, match=words):
        factory.build(engine, EngineOptions(bundle=bundle, device=device))
