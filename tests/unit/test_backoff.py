"""Schedules of waits: each try waits longer, and the last wait repeats."""

from __future__ import annotations

from itertools import islice

import pytest

from nsfwd import backoff

SCHEDULES = [value for value in vars(backoff).values() if isinstance(value, backoff.Backoff)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_waits_grow_and_the_last_repeats(schedule: backoff.Backoff) -> None:
    waits = list(islice(schedule, len(schedule.seconds) + 3))
    assert waits == sorted(waits) and waits[-4:] == [schedule.longest] * 4
    assert waits == [schedule.delay(failures) for failures in range(len(waits))]
