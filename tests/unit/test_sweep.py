"""A sweep from end to end, with a daemon that is scripted: what is asked, what is recorded, what is acted on."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nsfwd.errors import BreakerOpen, DaemonUnreachable, IndexFailure, NsfwdError
from nsfwd.scanning.index import file_table
from nsfwd.scanning.index.database import Index
from nsfwd.scanning.index.file_result import Judged
from nsfwd.scanning.sweeps import change_detector
from nsfwd.scanning.trees import walk
from nsfwd.scanning.trees.file_entry import FileEntry
from nsfwd.scanning.trees.file_io import FileHasher
from tests.unit.scripted import Script, policy, serving
from tests.unit.sweeping import Place


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def place(tmp_path: Path, script: Script) -> Iterator[Place]:
    with serving(tmp_path, script) as address:
        yield Place(tmp_path, address)


@pytest.fixture
def filled(place: Place, script: Script) -> Place:
    """A tree of ten pictures in two directories, an alarm and a text, swept once."""
    for number in range(10):
        place.write(f"{number % 2}/{number}.jpg", b"picture %d" % number)
    place.write("alarm.png", b"alarm")
    place.write("notes.txt", b"text")
    place.sweep()
    script.asked.clear()
    return place


class Recorder:
    """An actor that keeps what it was told to act on."""

    def __init__(self, *, done: bool = False) -> None:
        self.acted = self.failed = 0
        self.judged: list[Judged] = []
        self._done = done

    def wants(self, verdict: str, alarm: bool) -> bool:
        return alarm

    def done(self, path: bytes, digest: bytes) -> bool:
        return self._done

    async def act(self, judged: Judged) -> None:
        if judged.alarm:
            self.acted += 1
            self.judged.append(judged)

    async def finish(self) -> None:
        pass


def test_every_file_is_asked_about_once_and_is_in_the_index(place: Place, script: Script) -> None:
    odd = os.fsdecode(b"caf\xe9\n.jpg")
    place.write(odd, b"odd")
    place.write("a/b/c/deep.gif", b"deep")
    place.write("alarm.png", b"alarm")
    place.write("notes.txt", b"text")
    place.write("empty", b"")
    progress = place.sweep()
    rows = place.rows("status, code, alarm, digest IS NOT NULL")
    assert rows[odd] == rows["a/b/c/deep.gif"] == ("ok", None, 0, 1)
    assert rows["alarm.png"] == ("ok", None, 1, 1)
    assert rows["notes.txt"] == ("skipped", "not_an_image", 0, 1)
    assert set(script.asked.values()) == {1} and len(script.asked) == 5
    counts = progress.counts
    assert (counts.found, counts.ok, counts.skipped, counts.alarms) == (5, 4, 1, 1)
    assert (progress.why, progress.alarming, progress.unscored) == ("finished", 1, 0)


def test_the_run_is_a_row(filled: Place) -> None:
    with Index(filled.path) as index:
        row = index.one("SELECT kind, roots, why, daemon, models, policy, found, ok, skipped, alarms FROM run")
        assert row == (
            *("sweep", str(filled.tree).encode(), "finished", f"{filled.address} 0", '{"nsfw":1}', 1),
            *(12, 11, 1, 1),
        )
        assert list(index.read("SELECT DISTINCT run, code FROM directory")) == [(1, None)]


def test_what_has_not_changed_is_not_asked_about_again(filled: Place, script: Script) -> None:
    progress = filled.sweep()
    assert not script.asked
    assert (progress.counts.unchanged, progress.counts.found) == (12, 12)
    assert progress.alarming == 1 and progress.counts.alarms == 0


def test_known_content_is_not_scored_again(filled: Place, script: Script) -> None:
    (filled.tree / "0/0.jpg").rename(filled.tree / "moved.jpg")
    shutil.copy(filled.tree / "0/2.jpg", filled.tree / "copy.jpg")
    os.link(filled.tree / "0/4.jpg", filled.tree / "link.jpg")
    (filled.tree / "alarm.png").chmod(0o600)
    progress = filled.sweep()
    assert not script.asked
    rows = filled.rows("digest, verdict, score")
    assert rows["copy.jpg"] == rows["0/2.jpg"] and rows["link.jpg"] == rows["0/4.jpg"]
    assert rows["moved.jpg"] == filled.rows("digest, verdict, score", gone=True)["0/0.jpg"]
    assert (progress.counts.known, progress.gone) == (5, 1)  # a new link changes the ctime of the old name's file too
    assert filled.sweep().counts.unchanged == 14


def test_a_moved_file_is_not_even_read(filled: Place, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsfwd.scanning.trees.file_io.digest_of", None)
    (filled.tree / "0").rename(filled.tree / "renamed")
    progress = filled.sweep()
    assert (progress.counts.known, progress.gone) == (5, 5) and not script.asked


def test_changed_content_is_asked_about_again(filled: Place, script: Script) -> None:
    changed = filled.write("0/2.jpg", b"alarm, now")
    progress = filled.sweep()
    assert list(script.asked) == [str(changed).encode()]
    assert filled.rows()["0/2.jpg"] == ("ok", None, "sensitive")
    assert progress.counts.alarms == 1 and progress.alarming == 2


def test_a_new_model_scores_everything_again(filled: Place, script: Script) -> None:
    script.model = "echo@000000000002/f32"
    progress = filled.sweep()
    assert len(script.asked) == 12 and progress.counts.ok == 11
    assert filled.value("SELECT count(*) FROM score") == 22
    script.asked.clear()
    assert filled.sweep().counts.unchanged == 12 and not script.asked


def test_a_new_policy_judges_what_was_scored_and_opens_nothing(filled: Place, script: Script) -> None:
    script.policy = policy(0.05)
    progress = filled.sweep()
    assert not script.asked
    assert progress.rejudged == 10 and progress.counts.unchanged == 12 and progress.alarming == 11
    assert {verdict for _, _, verdict in filled.rows().values()} == {"sensitive", None}
    assert filled.value("SELECT count(DISTINCT policy) FROM file WHERE status = 'ok'") == 1


def test_a_policy_changed_while_a_sweep_runs_is_noted(place: Place, script: Script) -> None:
    for number in range(200):
        place.write(f"{number}.jpg", b"picture %d" % number)

    def change(path: bytes) -> None:
        if sum(script.asked.values()) == 100:
            script.policy, script.model = policy(0.5), "echo@000000000002/f32"

    script.hook = change
    place.sweep()
    assert place.value("SELECT count(DISTINCT models) FROM file") == 2
    script.asked.clear()
    place.sweep()
    assert 99 <= len(script.asked) <= 199  # those of the old model, and no others
    assert place.value("SELECT count(DISTINCT models) FROM file") == 1


def test_an_error_fails_the_run_that_finds_it_and_no_other(filled: Place, script: Script) -> None:
    script.errors[filled.write("bad.jpg", b"bad").as_posix().encode()] = ("corrupt", False)
    assert filled.sweep().unscored == 1
    progress = filled.sweep()
    assert (progress.unscored, progress.counts.errors, progress.counts.unchanged) == (0, 0, 13)
    assert sum(script.asked.values()) == 1


def test_an_error_that_may_pass_is_tried_in_three_runs(filled: Place, script: Script) -> None:
    slow = filled.write("slow.jpg", b"slow").as_posix().encode()
    script.errors[slow] = ("decode_timeout", True)
    for run in range(5):
        filled.sweep()
        assert script.asked[slow] == min(run + 1, 3)
    assert filled.rows("attempts, code")["slow.jpg"] == (3, "decode_timeout")
    del script.errors[slow]
    filled.sweep(again=True)
    assert filled.rows()["slow.jpg"][0] == "ok"


def test_what_is_no_longer_there_is_marked(filled: Place) -> None:
    (filled.tree / "0/0.jpg").unlink()
    shutil.rmtree(filled.tree / "1")
    assert filled.sweep().gone == 6
    assert set(filled.rows(gone=True)) == {"0/0.jpg", *(f"1/{number}.jpg" for number in (1, 3, 5, 7, 9))}
    assert filled.sweep().gone == 0


def test_a_file_that_is_back_counts_again(filled: Place, script: Script) -> None:
    (filled.tree / "0/0.jpg").rename(filled.tree.parent / "0.jpg")
    filled.sweep()
    (filled.tree.parent / "0.jpg").rename(filled.tree / "0/0.jpg")
    assert filled.sweep().counts.known == 1 and not script.asked
    assert "0/0.jpg" in filled.rows()


def test_a_large_directory_comes_in_parts(place: Place, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "PART", 7)
    monkeypatch.setattr(change_detector, "NAMES", 3)
    for number in range(50):
        place.write(f"{number}.jpg", b"picture %d" % number)
    place.sweep()
    assert len(script.asked) == 50
    for number in (3, 30):
        (place.tree / f"{number}.jpg").unlink()
    place.write("new.jpg", b"new")
    script.asked.clear()
    progress = place.sweep()
    assert (progress.counts.unchanged, progress.counts.ok, progress.gone) == (48, 1, 2)
    assert set(place.rows(gone=True)) == {"3.jpg", "30.jpg"}


def test_excluded_files_are_counted_and_not_asked_about(place: Place, script: Script) -> None:
    for name in ("a.jpg", "b.tmp", ".cache/c.jpg", "keep/d.jpg"):
        place.write(name, name.encode())
    progress = place.sweep(exclude=("*.tmp", ".cache"))
    assert set(place.rows()) == {"a.jpg", "keep/d.jpg"} and progress.counts.excluded == 1


def test_links_are_followed_only_when_asked_for(place: Place, script: Script) -> None:
    place.write("real/a.jpg", b"a")
    (place.tree / "loop").symlink_to(place.tree)
    (place.tree / "real/self").symlink_to("self")
    (place.tree / "link.jpg").symlink_to("real/a.jpg")
    progress = place.sweep()
    assert set(place.rows()) == {"real/a.jpg"} and progress.links == 3
    place.sweep(follow=True)
    assert set(place.rows()) == {"real/a.jpg", "link.jpg"} and sum(script.asked.values()) == 1


def test_refusals_lose_no_file(place: Place, script: Script) -> None:
    for number in range(100):
        place.write(f"{number}.jpg", b"picture %d" % number)
    script.refusals = 150
    progress = place.sweep()
    assert progress.counts.ok == 100 and set(script.asked.values()) == {1}


def test_a_daemon_that_goes_away_is_waited_for(place: Place, script: Script) -> None:
    for number in range(30):
        place.write(f"{number}.jpg", b"picture %d" % number)
    gone = threading.Event()

    def leave(path: bytes) -> None:
        """Close this connection and the next ones, until somebody has waited."""
        if sum(script.asked.values()) == 10:
            script.hook, script.closings, script.away = None, 2, gone
            place.heard = lambda text: gone.set() if "waiting for the daemon" in text else None

    script.hook = leave
    progress = place.sweep()
    assert progress.counts.ok == 30 and progress.counts.errors == 0 and set(script.asked.values()) == {1}
    assert [text.partition(":")[0] for text in place.said] == ["waiting for the daemon", "the daemon is there"]


def test_a_sweep_that_waits_for_the_daemon_can_be_stopped(place: Place, script: Script) -> None:
    for number in range(30):
        place.write(f"{number}.jpg", b"picture %d" % number)
    halt: list[Callable[[], None]] = []

    def leave(path: bytes) -> None:
        script.hook, script.away = None, threading.Event()
        script.closings = 1
        place.heard = lambda text: halt[0]()

    script.hook = leave
    progress = place.sweep(stop=halt.append)
    assert progress.why == "interrupted" and progress.counts.found < 30
    script.away = None
    assert place.sweep().why == "finished" and len(place.rows()) == 30


def test_a_sweep_that_waits_for_a_stalled_daemon_can_be_stopped(
    place: Place, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsfwd.scanning.submission.submitter.PATIENCE", 0.0)
    for number in range(3):
        place.write(f"{number}.jpg", b"picture %d" % number)
    stalled, asked = threading.Event(), threading.Event()

    def stall(path: bytes) -> None:
        asked.set()
        stalled.wait(50)

    def stop(halt: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(target=lambda: (asked.wait(), loop.call_soon_threadsafe(halt)), daemon=True).start()

    script.hook = stall
    progress = place.sweep(stop=stop)
    assert not stalled.is_set() and progress.why == "interrupted" and not place.rows()
    script.hook = None
    stalled.set()
    assert place.sweep().why == "finished" and len(place.rows()) == 3


def test_without_a_daemon_nothing_is_done(tmp_path: Path) -> None:
    place = Place(tmp_path, f"unix:{tmp_path}/nowhere")
    place.write("a.jpg", b"a")
    with pytest.raises(DaemonUnreachable):
        place.sweep()
    assert place.value("SELECT why FROM run") == "failed" and not place.rows()


def test_a_sweep_that_waits_for_a_daemon_at_its_start_is_paused_in_time(tmp_path: Path) -> None:
    place = Place(tmp_path, f"unix:{tmp_path}/nowhere")
    place.write("a.jpg", b"a")
    progress = place.sweep(wait=True, seconds=0.0)
    assert progress.why == place.value("SELECT why FROM run") == "paused" and not place.rows()


def test_a_sweep_that_waits_for_a_daemon_at_its_start_can_be_stopped(tmp_path: Path) -> None:
    place = Place(tmp_path, f"unix:{tmp_path}/nowhere")
    halts: list[Callable[[], None]] = []
    place.heard = lambda text: halts[0]()  # it says that it waits
    assert place.sweep(wait=True, stop=halts.append).why == "interrupted"


def test_a_stopped_sweep_is_gone_on_with(place: Place, script: Script) -> None:
    for number in range(500):
        place.write(f"{number % 5}/{number}.jpg", b"picture %d" % number)
    enough = threading.Event()
    script.hook = lambda path: enough.set() if sum(script.asked.values()) > 100 else None

    def stop(halt: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        def wait() -> None:
            enough.wait()
            loop.call_soon_threadsafe(halt)

        threading.Thread(target=wait).start()

    progress = place.sweep(stop=stop)
    assert progress.why == "interrupted" and 100 <= progress.counts.ok < 500
    assert place.value("SELECT why FROM run") == "interrupted"
    assert len(place.rows()) == progress.counts.ok
    place.sweep()
    assert len(place.rows()) == 500 and set(script.asked.values()) == {1}


def test_a_window_of_time_pauses_it(place: Place, script: Script) -> None:
    for number in range(20):
        place.write(f"{number}.jpg", b"picture %d" % number)
    progress = place.sweep(seconds=0.6, rate=10)
    assert progress.why == "paused" and 0 < progress.counts.ok < 20
    assert place.sweep().why == "finished" and len(place.rows()) == 20


def test_an_alarm_that_was_not_acted_on_is_asked_about_until_it_is(filled: Place, script: Script) -> None:
    alarm = str(filled.tree / "alarm.png").encode()
    recorder = Recorder()
    progress = filled.sweep(recorder)
    assert [judged.found.path for judged in recorder.judged] == [alarm] and progress.counts.acted == 1
    assert script.asked == {alarm: 1}
    done = Recorder(done=True)
    filled.sweep(done)
    assert not done.judged and script.asked == {alarm: 1}


def test_an_override_made_meanwhile_keeps_a_file_from_being_acted_on(filled: Place, script: Script) -> None:
    digest = filled.rows("hex(digest)")["alarm.png"][0].lower()
    script.overrides[digest] = "safe"
    recorder = Recorder()
    filled.sweep(recorder)
    assert not recorder.judged
    assert filled.rows("verdict, alarm, override")["alarm.png"] == ("safe", 0, '{"verdict":"safe"}')


def test_a_breaker_ends_the_run(filled: Place) -> None:
    class Breaker(Recorder):
        async def act(self, judged: Judged) -> None:
            raise BreakerOpen("too many; max_actions")

    filled.write("new.jpg", b"new")
    with pytest.raises(BreakerOpen):
        filled.sweep(Breaker())
    assert filled.value("SELECT why || ': ' || message FROM run WHERE id = 2") == "breaker: too many; max_actions"


def test_a_file_that_changes_before_the_daemon_opens_it_is_what_was_scored(place: Place, script: Script) -> None:
    path = place.write("a.jpg", b"before")

    def change(asked: bytes) -> None:
        script.hook = None
        path.write_bytes(b"alarm, after")

    script.hook = change
    place.sweep()
    assert place.rows("verdict, size")["a.jpg"] == ("sensitive", 12)
    assert place.sweep().counts.unchanged == 1


def test_a_file_that_vanishes_is_no_error(place: Place, script: Script) -> None:
    path = place.write("a.jpg", b"a")
    script.hook = lambda asked: path.unlink(missing_ok=True)
    progress = place.sweep()
    assert (progress.counts.found, progress.unscored) == (0, 0) and not place.rows()


def test_a_file_that_the_daemon_may_not_open_is_passed_to_it(place: Place, script: Script) -> None:
    path = place.write("closed.jpg", b"closed")
    script.errors[str(path).encode()] = ("permission", False)
    place.sweep(send="never")
    assert place.rows()["closed.jpg"] == ("error", "permission", None)
    place.sweep(again=True)
    assert script.passed == [str(path)] and place.rows()["closed.jpg"][0] == "ok"


def test_two_sweeps_of_one_tree(filled: Place, script: Script) -> None:
    inside = filled.tree / "0"
    outcome: list[BaseException] = []

    def second(path: bytes) -> None:
        script.hook = None
        other = Place(filled.tree.parent, filled.address)
        other.tree = inside
        try:
            other.sweep()
        except NsfwdError as error:
            outcome.append(error)

    script.hook = second
    filled.write("0/new.jpg", b"new")
    assert filled.sweep().why == "finished"
    assert "runs already" in str(outcome[0])
    assert filled.sweep().why == "finished"


def test_an_unreadable_directory_is_recorded_and_told_once(filled: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: object, *rest: int, **keys: object) -> int:
        if path == str(filled.tree / "1").encode():
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr("nsfwd.scanning.trees.walk.os.open", refuse)
    progress = filled.sweep()
    assert (progress.unreadable, progress.unscored, progress.gone) == (1, 1, 0)
    assert filled.value("SELECT count(*) FROM directory WHERE code = 'permission' AND run = 1") == 1
    assert filled.sweep().unscored == 0
    monkeypatch.setattr("nsfwd.scanning.trees.walk.os.open", real)
    filled.sweep()
    assert filled.value("SELECT count(*) FROM directory WHERE code IS NULL AND run = 4") == 3


def test_a_full_disk_ends_the_run_and_breaks_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3000):
        place.write(f"{number}.jpg", b"picture %d" % number)
    prepare = Index._prepare

    def small(index: Index) -> None:
        prepare(index)
        index._db.execute("PRAGMA max_page_count = 60")

    with monkeypatch.context() as patch:
        patch.setattr(Index, "_prepare", small)
        with pytest.raises(IndexFailure, match="full"):
            place.sweep()
    written = len(place.rows())
    assert 0 < written < 3000
    with sqlite3.connect(place.path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    progress = place.sweep()
    assert progress.counts.unchanged == written and len(place.rows()) == 3000


def test_every_question_about_a_file_is_answered_by_an_index_that_tells_few_apart(filled: Place) -> None:
    plans = {
        file_table._BY_NAME: "sqlite_autoindex_file_1 (directory=? AND name=?)",
        file_table._BY_INODE: "file_by_inode (dev=? AND ino=?)",
        file_table._BY_DIGEST: "file_by_digest (digest=?)",
    }
    with sqlite3.connect(filled.path) as database:
        for query, index in plans.items():
            values = dict.fromkeys(re.findall(r":(\w+)", query), 1)
            plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {query}", values)]
            assert plan[0] == f"SEARCH file USING INDEX {index}"
        hints = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {file_table._HINTS}", (1,) * 5)]
    searched = [re.sub(r"COVERING |USING |INDEX ", "", step) for step in hints if step.startswith("SEARCH file")]
    assert searched == [
        "SEARCH file sqlite_autoindex_file_1 (directory=? AND name=?)",
        "SEARCH file file_by_inode (dev=? AND ino=?)",
        "SEARCH file file_by_size (size=?)",
    ]


def test_digests_are_read_several_at_a_turn_and_a_failure_is_its_askers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []

    def read(files: Sequence[FileEntry]) -> list[bytes | None]:
        turns.append(len(files))
        if any(found.name == b"bad" for found in files):
            raise MemoryError
        return [found.name for found in files]

    monkeypatch.setattr("nsfwd.scanning.trees.file_io._digests_of", read)

    async def ask(*names: bytes) -> list[Any]:
        digests = FileHasher()
        files = [FileEntry(b"/", name, 1, 1, 1, 1, 1) for name in names]
        return await asyncio.gather(*map(digests.digest, files), return_exceptions=True)

    names = [b"%d" % number for number in range(64)]
    assert asyncio.run(ask(*names)) == names and len(turns) < 16 and max(turns) <= 16
    (failure,) = asyncio.run(ask(b"bad"))
    assert isinstance(failure, MemoryError)
