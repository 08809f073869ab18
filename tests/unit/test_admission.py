from __future__ import annotations

import asyncio

import pytest

from nsfwd.errors import CodedError
from nsfwd.pipeline.queueing.admission import RESTART, Admission
from nsfwd.pipeline.queueing.tickets import Claim
from nsfwd.protocol.messages import Lane
from tests.unit.manual import ManualLoop, run, settle


def claim(**options: float | None) -> Claim:
    return Claim(("client",), Lane.NORMAL, **options)  # type: ignore[arg-type]  # floats only, whatever the key


def test_beyond_the_queue_is_busy_with_a_time_to_retry() -> None:
    async def test(loop: ManualLoop) -> None:
        admission = Admission(2, loop)
        mine = claim()
        first = admission.admit(mine)
        admission.admit(mine)
        with pytest.raises(CodedError) as refusal:
            admission.admit(mine)
        assert refusal.value.code == "busy"
        assert refusal.value.retry_after is not None and refusal.value.retry_after > 0
        admission.leave(first)
        admission.admit(mine)
        assert admission.refused == {"busy": 1, "draining": 0}

    run(test)


def test_draining_refuses_and_empty_waits_for_the_last() -> None:
    async def test(loop: ManualLoop) -> None:
        admission = Admission(8, loop)
        ticket = admission.admit(claim())
        admission.draining = True
        admission.rate.value = 0.01
        with pytest.raises(CodedError, match="draining") as refused:
            admission.admit(claim())
        assert refused.value.retry_after == RESTART, "its queue says nothing about the daemon that comes next"
        waiting = asyncio.ensure_future(admission.empty())
        await settle()
        assert not waiting.done()
        admission.leave(ticket)
        await settle()
        assert waiting.done()

    run(test)


def test_the_allowance_ends_a_ticket_by_its_own_timer() -> None:
    async def test(loop: ManualLoop) -> None:
        admission = Admission(8, loop)
        ticket = admission.admit(claim(time_limit=5.0))
        waiting = asyncio.ensure_future(ticket.wait())
        await loop.advance(4.9)
        assert not waiting.done()
        await loop.advance(0.2)
        assert isinstance(waiting.exception(), CodedError)
        assert ticket.settled is not None and ticket.settled.code == "deadline"

    run(test)


def test_the_deadline_of_a_claim_bounds_images_admitted_late() -> None:
    async def test(loop: ManualLoop) -> None:
        admission = Admission(8, loop)
        mine = claim(deadline=loop.time() + 5.0)
        await loop.advance(4.0)
        ticket = admission.admit(mine)
        await loop.advance(1.1)
        assert ticket.settled is not None and ticket.settled.code == "deadline"

    run(test)


def test_the_first_outcome_wins() -> None:
    async def test(loop: ManualLoop) -> None:
        admission = Admission(8, loop)
        ticket = admission.admit(claim(time_limit=5.0))
        waiting = asyncio.ensure_future(ticket.wait())
        await settle()
        ticket.resolve("pixels")
        ticket.fail(CodedError("cancelled"))
        assert await waiting == "pixels"
        with pytest.raises(CodedError, match="cancelled"):
            await ticket.wait()

    run(test)


def test_a_cancelled_claim_ends_what_is_under_way_and_what_comes_later() -> None:
    async def test(loop: ManualLoop) -> None:
        admission = Admission(8, loop)
        mine = claim()
        early = admission.admit(mine)
        mine.cancel("cancelled")
        late = admission.admit(mine)
        for ticket in (early, late):
            with pytest.raises(CodedError, match="cancelled"):
                await ticket.wait()

    run(test)


def test_retry_after_follows_the_measured_rate() -> None:
    async def test(loop: ManualLoop) -> None:
        admission = Admission(1000, loop)
        mine = claim()
        for _ in range(10):
            for _ in range(100):
                admission.leave(admission.admit(mine))
            await loop.advance(1.0)
            admission.leave(admission.admit(mine))
        assert admission.rate.value == pytest.approx(100, rel=0.05)
        for _ in range(500):
            admission.admit(mine)
        assert admission.retry_after() == pytest.approx(5.0, rel=0.1)

    run(test)


def test_a_crowd_of_one_peer_leaves_places_for_another() -> None:
    async def test(loop: ManualLoop) -> None:
        admission = Admission(800, loop)
        hog, other = claim(), Claim(("other",), Lane.NORMAL)
        with pytest.raises(CodedError, match="busy"):
            while True:
                admission.admit(hog)
        assert len(admission.tickets) == 700
        ticket = admission.admit(other)
        admission.leave(ticket)
        assert admission.budget.stats()["used"] == admission.budget.stats()["largest"] == 700
        for held in tuple(admission.tickets):
            admission.leave(held)
        assert admission.budget.used == 0

    run(test)


def test_retry_after_is_of_the_last_second_of_work_whatever_was_before() -> None:
    async def test(loop: ManualLoop) -> None:
        admission = Admission(1000, loop)
        mine = claim()
        for _ in range(5):  # a quiet time: one image in 20 s, each of which takes 10 ms
            ticket = admission.admit(mine)
            await loop.advance(0.01)
            admission.leave(ticket)
            await loop.advance(20.0)
        flood = [admission.admit(mine) for _ in range(400)]
        assert admission.retry_after() == pytest.approx(4.0, rel=0.1)
        for _ in range(100):  # 200 a second, as it turns out
            await loop.advance(0.005)
            admission.leave(flood.pop())
        assert admission.retry_after() == pytest.approx(1.5, rel=0.1)

    run(test)


def test_those_refused_at_once_are_to_come_back_one_after_the_other() -> None:
    async def test(loop: ManualLoop) -> None:
        admission = Admission(1, loop)
        admission.admit(claim())
        told = set()
        for _ in range(50):
            with pytest.raises(CodedError) as refusal:
                admission.admit(claim())
            told.add(refusal.value.retry_after)
        assert len(told) > 10
        assert all(seconds is not None and 0.7 < seconds < 1.3 for seconds in told)

    run(test)
