from __future__ import annotations

from nsfwd.pipeline.queueing.deadlines import TICK, Deadlines
from nsfwd.pipeline.queueing.tickets import Claim, Ticket
from nsfwd.protocol.messages import Lane
from tests.unit.manual import ManualLoop, run


def ticket(loop: ManualLoop, number: int = 1) -> Ticket:
    return Ticket(Claim(("client",), Lane.NORMAL), number, loop)


def test_no_deadline_is_early_and_none_is_late_by_more_than_a_tick() -> None:
    async def test(loop: ManualLoop) -> None:
        deadlines = Deadlines(loop)
        one = ticket(loop)
        deadlines.add(one, loop.time() + 1.0)
        await loop.advance(0.999)
        assert one.settled is None
        await loop.advance(0.001 + TICK)
        assert one.settled is not None and one.settled.code == "deadline"

    run(test)


def test_an_earlier_deadline_that_comes_later_is_kept_too() -> None:
    async def test(loop: ManualLoop) -> None:
        deadlines = Deadlines(loop)
        late, early, later = (ticket(loop, number) for number in range(3))
        deadlines.add(late, loop.time() + 5.0)
        deadlines.add(early, loop.time() + 1.0)
        deadlines.add(later, loop.time() + 9.0)
        await loop.advance(1.1)
        assert early.settled is not None and late.settled is None
        await loop.advance(4.0)
        assert late.settled is not None and later.settled is None
        await loop.advance(4.0)
        assert later.settled is not None

    run(test)


def test_a_discarded_ticket_does_not_expire_and_leaves_nothing_behind() -> None:
    async def test(loop: ManualLoop) -> None:
        deadlines = Deadlines(loop)
        answered, waiting, endless = (ticket(loop, number) for number in range(3))
        deadlines.add(answered, loop.time() + 1.0)
        deadlines.add(waiting, loop.time() + 1.0)
        deadlines.discard(answered)
        deadlines.discard(endless)
        await loop.advance(1.1)
        assert answered.settled is None and waiting.settled is not None
        assert len(deadlines) == 0
        for number in range(100):
            one = ticket(loop, number)
            deadlines.add(one, loop.time() + number)
            deadlines.discard(one)
        assert len(deadlines) == 0

    run(test)


def test_a_deadline_that_has_passed_expires_at_the_next_tick() -> None:
    async def test(loop: ManualLoop) -> None:
        deadlines = Deadlines(loop)
        one = ticket(loop)
        deadlines.add(one, loop.time() - 3.0)
        await loop.advance(TICK)
        assert one.settled is not None

    run(test)
