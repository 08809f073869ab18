"""The command line of a sweep: exit codes, what it says, times and durations."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nsfwd.cli import main
from nsfwd.cli.options.default_paths import default_index
from nsfwd.cli.options.param_types import Clock, Duration
from nsfwd.cli.sweep import line, summary
from nsfwd.quantities import format_count, format_duration
from nsfwd.scanning.index.runs import RunCounts
from nsfwd.scanning.sweeps.sweep import SweepProgress
from tests.unit.scripted import Script, serving
from tests.unit.sweeping import Place


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def place(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(
        "nsfwd.scanning.sweeps.sweep.lower_priority", lambda: None
    )  # it would be for all tests that follow
    with serving(tmp_path, script) as address:
        yield Place(tmp_path, address)


def sweep(place: Place, *flags: str) -> int:
    return main.run(["sweep", str(place.tree), "--index", str(place.path), "--connect", place.address, *flags])


def test_nothing_found_is_0_and_an_alarm_is_1_as_long_as_it_is_there(place: Place) -> None:
    place.write("a.jpg", b"picture")
    place.write("notes.txt", b"text")
    assert sweep(place) == 0
    place.write("alarm.jpg", b"alarm")
    assert sweep(place) == 1
    assert sweep(place) == 1
    (place.tree / "alarm.jpg").unlink()
    assert sweep(place) == 0


def test_an_image_left_unscored_is_2_once(place: Place, script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.errors[str(place.write("bad.jpg", b"bad")).encode()] = ("corrupt", False)
    place.write("alarm.jpg", b"alarm")
    assert sweep(place) == 1
    script.errors[str(place.write("bad.jpg", b"worse")).encode()] = ("corrupt", False)
    assert sweep(place, "--strict") == 2
    assert "1 alarm (0 new)" in capsys.readouterr().err
    (place.tree / "alarm.jpg").unlink()
    assert sweep(place) == 0


def test_an_error_of_a_run_that_was_killed_is_told_by_the_next(place: Place, script: Script) -> None:
    script.errors[str(place.write("bad.jpg", b"bad")).encode()] = ("corrupt", False)
    place.sweep()
    with sqlite3.connect(place.path) as database:
        database.execute("UPDATE run SET ended = NULL, why = NULL")
    assert sweep(place) == 2
    assert sweep(place) == 0


def test_an_action_that_failed_is_4_until_it_is_done(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.write("alarm.jpg", b"alarm")
    told = ("--action", "hook", "--apply", "--hook")
    assert sweep(place, *told, "false") == 4
    assert "1 actions failed; the next sweep tries again" in capsys.readouterr().err
    assert sweep(place, *told, "false", "--strict") == 4
    assert sweep(place, *told, "true") == 1
    assert sweep(place, *told, "false") == 1  # it was told of


def test_no_daemon_is_69_and_no_directory_64(place: Place) -> None:
    assert main.run(["sweep", str(place.tree), "--index", str(place.path), "--connect", "unix:/nowhere"]) == 69
    assert main.run(["sweep", str(place.tree / "nowhere"), "--index", str(place.path)]) == 64


def test_a_pause_is_0_and_says_how_far_it_came(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(40):
        place.write(f"{number}.jpg", b"picture %d" % number)
    assert sweep(place, "--for", "1", "--rate", "10") == 0
    assert re.search(r"paused, \d+ of 40, ETA \d+ nights?", capsys.readouterr().err)


def test_the_index_may_lie_in_the_tree(place: Place) -> None:
    place.path = place.tree / "[odd] index.db"
    place.write("a.jpg", b"picture")
    assert sweep(place) == sweep(place) == 0
    assert set(place.rows()) == {"a.jpg"}
    assert main.run(["index", "audit", str(place.tree), "--index", str(place.path)]) == 0


def test_it_tells_the_service_manager_how_far_it_is(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("a.jpg", b"picture")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert sweep(place) == 0
        told = [manager.recv(4096).decode(), manager.recv(4096).decode()]
    assert "STATUS=sweeping" in told[0] and "files, " in told[1]


def test_the_summary_says_every_count_once() -> None:
    counts = RunCounts(unchanged=2, known=1, ok=3, skipped=4, errors=5, excluded=6, alarms=1)
    progress = SweepProgress(counts, 7, why="finished", seconds=61, alarming=2, gone=8, unreadable=1, rejudged=9)
    first, second = summary(progress)
    assert first == (
        "run 7: 21 files in 1m 1s: 2 unchanged, 1 of known content, 3 scored, 4 skipped, 5 errors, 6 excluded"
    )
    assert second == (
        "run 7: 2 alarms (1 new); 9 with another verdict by the new policy; 8 no longer exist;"
        " 1 directories that cannot be read"
    )


def test_a_pause_tells_the_nights_that_are_left() -> None:
    counts = RunCounts(unchanged=600_000, ok=600_000)
    *_, last = summary(SweepProgress(counts, 1, total=3_000_000, why="paused"))
    assert last == "paused, 1.2 M of 3.0 M, ETA 3 nights"
    assert "1.2 M of 3.0 M files" in line(SweepProgress(counts, 1, total=3_000_000, seconds=100))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5h", 18000), ("1h30m", 5400), ("90", 90), ("0.5s", 0.5), ("2d", 172800), ("90min", 5400), ("1 h 30 min", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "5x", "-5", "0", "1h30", "5H", "1e3", "9" * 400])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_a_clock_means_the_next_time_it_shows_that() -> None:
    assert Clock().convert("06:00", None, None) == (6, 0)
    for wrong in ("6", "24:00", "06:60", "six"):
        with pytest.raises(click.BadParameter):
            Clock().convert(wrong, None, None)


def test_numbers_as_people_say_them() -> None:
    assert [format_count(number) for number in (0, 9999, 12_345, 1_234_567)] == ["0", "9999", "12.3 k", "1.2 M"]
    assert [format_duration(seconds) for seconds in (0, 59.6, 3661, 90_000)] == ["0s", "1m", "1h 1m", "1d 1h"]


def test_the_index_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_index() == Path("/var/lib/nsfwd/index.db")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/a/.state")
    assert default_index() == Path("/home/a/.state/nsfwd/index.db")


def test_it_stands_back_at_the_disk_and_at_the_processor() -> None:
    code = """if True:
        import ctypes, os, threading
        from nsfwd.scanning.sweeps import sweep
        sweep.lower_priority()
        get = {"x86_64": 252, "aarch64": 31}.get(os.uname().machine)
        found = []
        ask = lambda: found.append((os.nice(0), get and ctypes.CDLL(None).syscall(get, 1, 0) >> 13))
        ask()
        thread = threading.Thread(target=ask); thread.start(); thread.join()
        print(found[0] == found[1], found[0][0] >= 10, found[0][1] in (3, None))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3
