"""The window of requests in flight: halves with a refusal, grows with replies, and lets nobody wait for ever."""

from __future__ import annotations

import asyncio

from nsfwd.scanning.submission.submitter import CongestionWindow, RateLimit


def test_a_refusal_halves_it_and_replies_bring_it_back() -> None:
    window = CongestionWindow(64)
    window.shrink(0)
    window.shrink(1)
    assert window.limit == 16
    for _ in range(17):
        window.grow()
    assert window.limit == 17
    for _ in range(5000):
        window.grow()
    assert window.limit == 64


def test_it_never_closes() -> None:
    window = CongestionWindow(4)
    for times in range(10):
        window.shrink(times)
    assert window.limit == 1


def test_refusals_of_what_went_out_together_count_as_one() -> None:
    window = CongestionWindow(64)
    for _ in range(64):
        window.shrink(0)
    assert window.limit == 32
    window.shrink(window.shrunk)
    assert window.limit == 16


def test_who_waits_gets_the_place_that_is_given_back() -> None:
    async def play() -> list[str]:
        window, told = CongestionWindow(1), []
        await window.acquire()
        waiting = asyncio.create_task(window.acquire())
        await asyncio.sleep(0)
        told.append("waits" if not waiting.done() else "went")
        window.release()
        await waiting
        told.append("went")
        return told

    assert asyncio.run(play()) == ["waits", "went"]


def test_one_that_shrank_gives_no_place_before_enough_came_back() -> None:
    async def play() -> bool:
        window = CongestionWindow(4)
        for _ in range(4):
            await window.acquire()
        window.shrink(0)
        waiting = asyncio.create_task(window.acquire())
        await asyncio.sleep(0)
        window.release()
        window.release()
        await asyncio.sleep(0)
        early = waiting.done()
        window.release()
        await waiting
        return early

    assert asyncio.run(play()) is False


def test_a_waiter_that_leaves_costs_no_place() -> None:
    async def play() -> None:
        window = CongestionWindow(1)
        await window.acquire()
        waiting = asyncio.create_task(window.acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        window.release()
        await asyncio.wait_for(window.acquire(), 10)

    asyncio.run(play())


def test_no_rate_is_no_limit() -> None:
    async def play() -> None:
        limit = RateLimit(None)
        for _ in range(1000):
            await limit.wait()

    asyncio.run(play())
