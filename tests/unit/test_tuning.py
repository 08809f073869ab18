"""Streams and threads: the rule, what was measured, and what is kept of it. No framework is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsfwd.bundles.bundle_store import Bundle
from nsfwd.engines import hardware, openvino_tuning
from nsfwd.engines.openvino_tuning import Streams, Tuning
from nsfwd.errors import EngineError
from nsfwd.model_tools.tune import Measured, choose
from tests.unit.shelf import make_bundle

CHOICE = Tuning(alone=Streams(1, 4), crowd=Streams(2, 8))


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(hardware, "cores", lambda: 8)
    return make_bundle(tmp_path / "models")


def test_the_rule_is_all_cores_for_one_and_one_core_for_each_of_many(bundle: Bundle, tmp_path: Path) -> None:
    expected = Tuning(alone=Streams(1, 8), crowd=Streams(8, 8))
    assert openvino_tuning.settle(bundle, None, 0) == expected
    assert openvino_tuning.settle(bundle, tmp_path / "nothing", 0) == expected


def test_a_stored_choice_is_used(bundle: Bundle, tmp_path: Path) -> None:
    file = openvino_tuning.store(CHOICE, bundle, tmp_path / "cache")
    assert file.is_relative_to(tmp_path / "cache")
    assert openvino_tuning.settle(bundle, tmp_path / "cache", 0) == CHOICE


def test_threads_that_were_asked_for_outrank_it(bundle: Bundle, tmp_path: Path) -> None:
    openvino_tuning.store(CHOICE, bundle, tmp_path)
    assert openvino_tuning.settle(bundle, tmp_path, 3) == openvino_tuning.by_rule(3)


def test_another_processor_or_number_of_cores_has_its_own(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino_tuning.store(CHOICE, bundle, tmp_path)
    monkeypatch.setattr(hardware, "cores", lambda: 4)
    assert openvino_tuning.settle(bundle, tmp_path, 0) == openvino_tuning.by_rule(4)
    monkeypatch.setattr(hardware, "cores", lambda: 8)
    monkeypatch.setattr(hardware, "cpu_key", lambda: "another")
    assert openvino_tuning.settle(bundle, tmp_path, 0) == openvino_tuning.by_rule(8)


def test_a_damaged_choice_is_told(bundle: Bundle, tmp_path: Path) -> None:
    openvino_tuning.store(CHOICE, bundle, tmp_path).write_text('{"alone": 1}')
    with pytest.raises(EngineError, match="remove it"):
        openvino_tuning.settle(bundle, tmp_path, 0)


def test_a_cache_that_cannot_be_written_is_told(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="Not a directory"):
        openvino_tuning.store(CHOICE, bundle, tmp_path / "file")


@pytest.mark.parametrize("cores", [1, 2, 3, 16])
def test_candidates_begin_with_the_rule_and_fit_the_machine(cores: int) -> None:
    alone, crowd = openvino_tuning.candidates(cores)
    assert Tuning(alone=alone[0], crowd=crowd[0]) == openvino_tuning.by_rule(cores)
    for one in (*alone, *crowd):
        assert 1 <= one.streams <= one.threads <= cores
    assert len(set(alone)) == len(alone)
    assert len(set(crowd)) == len(crowd)


@pytest.mark.parametrize(
    ("second", "chosen"), [(0.0099, Streams(2, 2)), (0.0090, Streams(1, 2)), (0.02, Streams(2, 2))]
)
def test_the_rule_stays_unless_another_is_clearly_better(second: float, chosen: Streams) -> None:
    assert choose([Measured(Streams(2, 2), 0.01), Measured(Streams(1, 2), second)]) == chosen
