"""Peers take turns, and a turn of the loop holds a bounded amount of work."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from nsfwd.server.step_scheduler import SLICE, TURN, StepScheduler


class Loop:
    """Runs what was called soon, a turn at a time."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], Any]] = []

    def call_soon(self, callback: Callable[[], Any]) -> None:
        self._soon.append(callback)

    def turn(self) -> None:
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()


class Greedy:
    """A connection whose every step is as long as it may be, and which wants another one."""

    def __init__(self, scheduler: StepScheduler, peer: str, events: int) -> None:
        self._scheduler, self._peer, self._events = scheduler, peer, events
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        self._scheduler.left -= self._events
        self._scheduler.add(self._peer, self)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock takes half of what a turn may last."""
    seconds = itertools.count(1.0, SLICE / 2)
    monkeypatch.setattr("nsfwd.server.step_scheduler.perf_counter", lambda: next(seconds))


def test_a_peer_with_many_connections_gets_no_more_turns_than_one_with_one() -> None:
    loop = Loop()
    scheduler = StepScheduler(loop)  # type: ignore[arg-type]
    crowd = [Greedy(scheduler, "crowd", 32) for _ in range(300)]
    single = Greedy(scheduler, "single", 32)
    for connection in (*crowd, single):
        scheduler.add("single" if connection is single else "crowd", connection)
    for _ in range(600):
        loop.turn()
    shares = [connection.steps for connection in crowd]
    assert max(shares) - min(shares) <= 1, "connections of one peer take turns"
    assert abs(single.steps - sum(shares)) <= 1


def test_a_turn_is_used_up_by_work_and_comes_anew_with_the_time() -> None:
    loop = Loop()
    scheduler = StepScheduler(loop)  # type: ignore[arg-type]
    assert scheduler.is_free(1.0)
    scheduler.left -= TURN
    assert not scheduler.is_free(1.0)
    assert scheduler.is_free(2.0)
    scheduler.add("peer", Greedy(scheduler, "peer", TURN))
    assert not scheduler.is_free(3.0), "somebody waits already"
    for _ in range(3):
        loop.turn()
    assert not scheduler.is_free(4.0)
