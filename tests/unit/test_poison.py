from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from nsfwd.pipeline.decode import poison_list
from nsfwd.pipeline.decode.poison_list import FILE, LIFETIME, MOST_ENTRIES, PoisonList


def test_an_entry_outlives_the_daemon_but_not_a_week(tmp_path: Path) -> None:
    now = [1000.0]
    first = PoisonList(tmp_path / "new", clock=lambda: now[0])
    first.add(5, "ab", signal.SIGSEGV)
    later = PoisonList(tmp_path / "new", clock=lambda: now[0])
    assert later.digests() == ((5, "ab"),)
    assert later.describe()[0]["signal"] == "SIGSEGV"
    now[0] += LIFETIME + 1
    assert later.digests() == ()
    assert PoisonList(tmp_path / "new", clock=lambda: now[0]).digests() == ()


def test_a_new_pillow_is_given_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PoisonList(tmp_path).add(5, "ab", signal.SIGBUS)
    monkeypatch.setattr(poison_list, "version", lambda _: "999.0")
    assert PoisonList(tmp_path).digests() == ()


def test_clearing_is_kept(tmp_path: Path) -> None:
    entries = PoisonList(tmp_path)
    entries.add(5, "ab", signal.SIGILL)
    entries.add(6, "cd", signal.SIGSYS)
    assert entries.clear() == 2
    assert entries.digests() == PoisonList(tmp_path).digests() == ()
    assert json.loads((tmp_path / FILE).read_text()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff"])
def test_a_damaged_file_is_a_new_list(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    entries = PoisonList(tmp_path)
    assert entries.digests() == ()
    entries.add(5, "ab", signal.SIGABRT)
    assert PoisonList(tmp_path).digests() == ((5, "ab"),)


def test_the_list_is_bounded_and_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poison_list, "MOST_ENTRIES", 2)
    assert MOST_ENTRIES > 2
    entries = PoisonList(tmp_path)
    for size in (1, 2, 3):
        entries.add(size, str(size), signal.SIGSEGV)
    assert entries.digests() == ((2, "2"), (3, "3"))


def test_a_directory_that_takes_nothing_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "there"
    directory.touch()  # a file, where no directory can be made
    entries = PoisonList(directory)
    for digest in ("ab", "cd"):
        entries.add(5, digest, signal.SIGSEGV)
    assert len(entries.digests()) == 2
    assert caplog.text.count("cannot be written") == 1
    directory.unlink()
    entries.add(5, "ef", signal.SIGSEGV)
    assert len(PoisonList(directory).digests()) == 3
