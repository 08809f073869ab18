"""The overrides that a daemon knows: how it learns of changes, what it keeps, and what they do to a judgement."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nsfwd.bundles.verdict import Judge, overruled, verdicts
from nsfwd.config import Settings
from nsfwd.errors import OverridesFailure, Status
from nsfwd.overrides import override_watcher as module
from nsfwd.overrides.override_store import NONE, Changes, OverrideStore
from nsfwd.overrides.override_watcher import OverrideWatcher
from nsfwd.pipeline.pipeline import Pipeline
from nsfwd.protocol.messages import FileIdentity, Outcome, Override, Timing
from nsfwd.protocol.replies import outcome_line
from nsfwd.protocol.text import Block
from tests.unit.shelf import make_bundle

ONE, TWO = hashlib.sha256(b"1").digest(), hashlib.sha256(b"2").digest()


def identity(digest: bytes) -> FileIdentity:
    return FileIdentity(1, 2, 3, 4, 5, digest.hex())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "overrides.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[OverrideStore]:
    with OverrideStore(path) as opened:
        yield opened


def test_what_is_decided_is_known_at_the_next_look(store: OverrideStore, path: Path) -> None:
    store.add(ONE, "safe")
    known = OverrideWatcher.load(str(path))
    assert known.find(identity(ONE)) is not None
    assert known.find(identity(TWO)) is None
    assert known.find(None) is None
    store.add(TWO, "sensitive")
    store.remove(ONE)
    known.look()
    assert known.find(identity(ONE)) is None
    found = known.find(identity(TWO))
    assert found is not None
    assert found.verdict == "sensitive"
    assert known.stats() == {"known": 1, "failures": 0, "trouble": ""}


def test_what_has_expired_no_longer_decides(store: OverrideStore, path: Path) -> None:
    store.add(ONE, "safe", expires=1000.0)
    now = 999.0
    known = OverrideWatcher(str(path), clock=lambda: now)
    known.look()
    assert known.find(identity(ONE)) is not None
    now = 1000.0
    assert known.find(identity(ONE)) is None


def test_a_file_that_stays_as_it_is_is_not_read_again(
    store: OverrideStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED", 0)
    store.add(ONE, "safe")
    known = OverrideWatcher.load(str(path))
    known.look()  # reading has made the companions of the store anew

    def changes(_store: OverrideStore, _identity: str, _after: int) -> Changes:
        raise AssertionError

    monkeypatch.setattr(OverrideStore, "changes", changes)
    known.look()
    store.add(TWO, "safe")
    with pytest.raises(AssertionError):
        known.look()


def test_a_store_that_is_removed_while_it_is_read_is_missing(
    store: OverrideStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(ONE, "safe")
    known = OverrideWatcher.load(str(path))

    def changes(_store: OverrideStore, _identity: str, _after: int) -> Changes:
        path.unlink()
        raise OverridesFailure("unable to open database file")

    monkeypatch.setattr(OverrideStore, "changes", changes)
    with pytest.raises(OverridesFailure, match="is no longer there"):
        known.look()


def test_a_store_may_be_missing_and_come_later(path: Path) -> None:
    known = OverrideWatcher.load(str(path))
    with OverrideStore(path) as store:
        store.add(ONE, "safe")
    known.look()
    assert known.find(identity(ONE)) is not None


@pytest.mark.parametrize("off", ["", NONE])
def test_without_a_store_nothing_is_looked_for(off: str) -> None:
    known = OverrideWatcher.load(off)
    known.start(1)
    known.look()
    assert known.find(identity(ONE)) is None
    known.stop(1)


def test_a_store_that_is_there_and_cannot_be_read_refuses_the_start(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(OverridesFailure, match=r"overrides\.sqlite: file is not a database; .*overrides = \"none\""):
        OverrideWatcher.load(str(path))


def wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


def _lose(path: Path) -> None:
    path.unlink()


def _damage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [_lose, _damage, _empty])
def test_what_was_known_stays_in_force_while_the_store_cannot_be_read(
    path: Path, harm: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK", 0.001)
    with OverrideStore(path) as store:
        store.add(ONE, "safe")
    shutil.copy(path, path.with_name("copy"))
    known = OverrideWatcher.load(str(path))
    for companion in path.parent.glob(f"{path.name}-*"):
        companion.unlink()
    harm(path)
    known.start(1)
    try:
        wait(lambda: known.trouble)
        assert known.find(identity(ONE)) is not None
        assert known.stats()["failures"] == 1
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert "the 1 known before stay in force" in errors[0].getMessage()
        path.with_name("copy").rename(path)
        wait(lambda: not known.trouble)
        assert known.find(identity(ONE)) is not None
    finally:
        known.stop(1)


def test_another_store_in_its_place_is_read_as_a_whole(store: OverrideStore, path: Path) -> None:
    store.add(ONE, "safe")
    known = OverrideWatcher.load(str(path))
    with OverrideStore(path.with_name("other")) as other:
        other.add(TWO, "safe")
        other.add(TWO, "review")
    store.close()
    for companion in path.parent.glob(f"{path.name}-*"):
        companion.unlink()
    path.with_name("other").rename(path)
    known.look()
    assert known.known.keys() == {TWO}


def test_a_disk_that_hangs_is_said(store: OverrideStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = OverrideWatcher.load(str(path))
    monkeypatch.setattr(module, "LOOK", 1000.0)
    known.start(1)
    assert known.trouble == ""
    monkeypatch.setattr(module, "STALE", -1.0)
    assert "has not answered" in known.trouble
    known.stop(1)
    assert known.trouble == ""


def test_generations_share_what_is_known_of_the_same_store(store: OverrideStore, path: Path) -> None:
    known = OverrideWatcher.load(str(path))
    assert known.at(str(path)) is known
    other = known.at(NONE)
    assert other is not known
    assert other.find(identity(ONE)) is None


def test_a_reload_takes_up_another_store_or_refuses_what_cannot_be_read(
    store: OverrideStore, path: Path, tmp_path: Path
) -> None:
    store.add(ONE, "safe")
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"no database at all" * 100)

    async def reload() -> None:
        bundles = [make_bundle(tmp_path)]
        pipeline = Pipeline(Settings(overrides=NONE, cache_dir=str(tmp_path)), bundles).serving
        assert not pipeline.generation.decoding.identify()
        with pytest.raises(OverridesFailure, match="not a database"):
            pipeline.build(Settings(overrides=str(wrong), cache_dir=str(tmp_path)), bundles)
        successor = pipeline.build(Settings(overrides=str(path), cache_dir=str(tmp_path)), bundles)
        assert successor.overriding.find(identity(ONE)) is not None
        assert successor.decoding.identify()
        assert pipeline.generation.overriding.find(identity(ONE)) is None

    asyncio.run(reload())


def test_a_store_that_another_is_writing_to_is_read_meanwhile(store: OverrideStore, path: Path) -> None:
    store.add(ONE, "safe")
    with store.transaction():
        store.write("DELETE FROM override")
        assert OverrideWatcher.load(str(path)).known.keys() == {ONE}


# -- what it does to a judgement ---------------------------------------------------------------------------------------


def test_a_decision_wins_and_leaves_scores_as_they_are(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    alarms = verdicts([bundle])
    judgement = Judge({bundle.name: bundle}).judge({bundle.name: [0.0, 0.0, 0.0, 1.0, 0.0]})
    assert judgement.alarm
    override = Override(ONE, next(name for name, alarm in alarms.items() if not alarm), "a statue", "eva", 5.0)
    held = overruled(judgement, override, alarms)
    assert (held.verdict, held.alarm, held.override) == (override.verdict, False, override)
    assert (held.scores, held.groups, held.verdicts, held.label) == (
        judgement.scores,
        judgement.groups,
        judgement.verdicts,
        judgement.label,
    )
    line = outcome_line(7, Outcome(b"/a.jpg", Status.OK, Timing(), held))
    assert f'"because":{{"override":"{ONE.hex()}"}}'.encode() in line
    assert b'"override":{"verdict":"safe","reason":"a statue","by":"eva","time":5.0,"expires":null}' in line
    block = Block(b"/a.jpg", labels=False, compact=True, colour=False)
    assert b'"override":"safe"' in block.entry(Outcome(b"/a.jpg", Status.OK, Timing(), held))


def test_a_verdict_that_no_policy_has_is_an_alarm(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    judgement = Judge({bundle.name: bundle}).judge({bundle.name: [0.0, 0.0, 1.0, 0.0, 0.0]})
    assert not judgement.alarm
    assert overruled(judgement, Override(ONE, "fine"), verdicts([bundle])).alarm
