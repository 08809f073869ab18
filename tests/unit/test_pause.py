"""A sweep pauses when the clock on the wall says so, in nights when it is changed too, and after so long."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from nsfwd.scanning.sweeps.pause import LOOK, Pause


class Clock:
    """A clock on the wall that a test moves: seconds since 1970, shown in the local time zone."""

    def __init__(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).timestamp()

    def shown(self) -> datetime:
        return datetime.fromtimestamp(self.now)

    def paused(self, pause: Pause) -> str:
        """Let time pass until it pauses, and tell what the clock shows then."""
        for _ in range(3 * 24 * 60):
            if not pause.left():
                return self.shown().strftime("%d %H:%M")
            self.now += 60
        return "never"


@pytest.fixture(params=["CET-1CEST,M3.5.0,M10.5.0/3", "UTC0"], ids=["Berlin", "UTC"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("began", "clock", "ends"),
    [
        ("2026-03-01 22:30", (6, 0), "02 06:00"),
        ("2026-03-01 22:30", (22, 30), "02 22:30"),
        ("2026-03-01 22:30", (22, 31), "01 22:31"),
        ("2026-10-24 22:30", (6, 0), "25 06:00"),  # the clock goes back at three
        ("2026-10-25 01:00", (2, 30), "25 02:30"),
        ("2026-03-28 22:30", (6, 0), "29 06:00"),  # it goes forward at two
    ],
)
def test_it_pauses_when_the_clock_shows_the_time(zone: str, began: str, clock: tuple[int, int], ends: str) -> None:
    wall = Clock(began)
    assert wall.paused(Pause(clock, wall=wall.shown)) == ends


def test_a_time_that_a_night_leaves_out_or_has_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        spring, autumn = Clock("2026-03-29 01:00"), Clock("2026-10-25 02:45")
        assert spring.paused(Pause((2, 30), wall=spring.shown)) == "29 03:00"
        assert autumn.paused(Pause((2, 30), wall=autumn.shown)) == "25 02:30"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_clock_that_is_set_and_a_machine_that_slept_are_noticed_at_the_next_look() -> None:
    wall = Clock("2026-06-01 22:00")
    pause = Pause((6, 0), wall=wall.shown)
    assert pause.left() == LOOK
    wall.now += timedelta(hours=9).total_seconds()
    assert pause.left() == 0.0
    back = Clock("2026-06-01 22:00")
    pause = Pause((6, 0), wall=back.shown)
    back.now -= timedelta(hours=20).total_seconds()
    assert back.paused(pause) == "01 06:00"


def test_seconds_count_from_the_beginning_and_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = [100.0]
    pause = Pause(seconds=0.5, elapsed=lambda: passed[0])
    passed[0] = 200.0
    pause.begin()
    assert pause.left() == 0.5
    passed[0] = 200.5
    assert pause.left() == 0.0
    clocks: list[int] = []

    def gettime(which: int) -> float:
        clocks.append(which)
        return 0.0

    monkeypatch.setattr(time, "clock_gettime", gettime)
    Pause(seconds=1.0).begin()
    assert clocks == [time.CLOCK_BOOTTIME]


def test_another_time_zone_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    try:
        hour = datetime.now().hour
        pause = Pause(((hour + 3) % 24, 0))
        assert pause.left() == LOOK
        os.environ["TZ"] = "EAST-4"  # four hours later on the wall
        assert pause.left() == 0.0
    finally:
        monkeypatch.undo()
        time.tzset()
