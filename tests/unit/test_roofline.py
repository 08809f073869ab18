"""The work of a network, counted from its own description, and the least time it can take. No framework is loaded."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bench.roofline import Peaks, Work, count


def layer(kind: str, name: str, config: dict[str, Any], *sources: tuple[str, list[int]]) -> dict[str, Any]:
    tensors = [
        {"class_name": "__keras_tensor__", "config": {"shape": [None, *shape], "keras_history": [source, 0, 0]}}
        for source, shape in sources
    ]
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": [{"args": tensors}] if tensors else []}


def keras_file(path: Path, *layers: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps({"config": {"layers": layers}}))
    return path


def test_a_small_network(tmp_path: Path) -> None:
    path = keras_file(
        tmp_path / "model.keras",
        layer("InputLayer", "in", {"batch_shape": [None, 8, 8, 3]}),
        layer("Conv2D", "conv", {"kernel_size": [3, 3], "groups": 1}, ("in", [8, 8, 3])),
        layer("ReLU", "relu", {}, ("conv", [4, 4, 6])),
        layer("DepthwiseConv2D", "depth", {"kernel_size": [3, 3]}, ("relu", [4, 4, 6])),
        layer("Add", "add", {}, ("relu", [4, 4, 6]), ("depth", [4, 4, 6])),
        layer("Flatten", "flat", {}, ("add", [4, 4, 6])),
        layer("Dense", "dense", {"units": 5}, ("flat", [96])),
    )
    convolved, deep, dense = 96 * 27, 96 * 9, 5 * 96
    values = (192 + 96) + (96 + 96) + 96 + (96 + 5)
    assert count(path) == Work(2 * (convolved + deep + dense), values, 27 * 6 + 9 * 6 + 96 * 5, 192)


def test_a_model_inside_a_model_is_not_guessed_at(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "model.keras", layer("Functional", "base", {"layers": []}))
    with pytest.raises(SystemExit, match="base is a model inside the model"):
        count(path)


@pytest.mark.parametrize(
    ("peaks", "batch", "expected"),
    [
        (Peaks(1e3, 1e9, 1e9), 1, 1.0),
        (Peaks(1e9, 1e2, 1e9), 1, 2 * (50 + 100) / 1e2),
        (Peaks(1e9, 1e2, 1e9), 10, 2 * (50 + 10) / 1e2),
        (Peaks(1e9, 1e9, 1e1), 1, 20.0),
    ],
)
def test_what_takes_longest_is_the_roof(peaks: Peaks, batch: int, expected: float) -> None:
    work = Work(operations=1e3, values=50, weights=100, pixels=200)
    assert peaks.seconds(work, batch, 2) == pytest.approx(expected)
