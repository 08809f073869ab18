from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nsfwd.errors import CodedError
from nsfwd.ipc import child_messages
from nsfwd.pipeline.decode import decoder_pool
from nsfwd.pipeline.decode.coalescing import MOST_TAKEN, Coalescing
from nsfwd.pipeline.decode.decode_job import DecodeJob
from nsfwd.pipeline.queueing.scored import Hit, Scored
from nsfwd.pipeline.queueing.tickets import Claim, Ticket
from nsfwd.protocol.messages import FileIdentity, Image, Lane
from tests.unit.fakes import FakeChild
from tests.unit.manual import ManualLoop, run, settle
from tests.unit.test_decoding import Bench, done

HIT = Hit("coalesced", Scored((), 1, 1, True), FileIdentity(1, 2, 3, 4, 5, "ab"))


@pytest.fixture(autouse=True)
def fake_children(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeChild.born = []
    monkeypatch.setattr(decoder_pool, "Child", FakeChild)


class Room(Bench):
    """A decode stage with one decoder, which shares; tickets leave it as the pipeline's do."""

    def __init__(self, loop: ManualLoop) -> None:
        super().__init__(loop, workers=1)
        self.stage.coalescing = self.coalescing = Coalescing()
        self.answers = 0

    def ask(
        self, path: str, *, lane: Lane = Lane.NORMAL, time_limit: float | None = None, probe: int = 0, **claims: Any
    ) -> tuple[Ticket, asyncio.Future[Any]]:
        """One request of a connection of its own."""
        claim = Claim((object(),), lane, time_limit=time_limit, **claims)
        ticket = self.admission.admit(claim)
        return ticket, asyncio.ensure_future(self._scan(Image(path.encode()), ticket, probe))

    async def _scan(self, image: Image, ticket: Ticket, probe: int) -> str:
        try:
            found = await self.stage.decode(image, ticket, probe=probe)
            if isinstance(found, Hit):
                return found.by
            assert isinstance(found, child_messages.Decoded)
            self.coalescing.share(ticket, HIT)
            return "decoded"
        except CodedError as error:
            return error.code
        finally:
            self.answers += 1
            self.stage.leave(ticket)
            if ticket.lease is not None:
                self.slots.release(ticket.lease)
            self.admission.leave(ticket)

    async def busy(self) -> asyncio.Future[Any]:
        """Give the decoder all that it may hold."""
        asked = [self.ask(f"/busy{number}")[1] for number in range(self.stage._depth())]
        await settle()
        return asyncio.gather(*asked)

    async def answer(self, code: str = "") -> list[bytes]:
        """Let the decoder finish all that it has; return their paths."""
        (child,) = (child for child in FakeChild.born if child.alive)
        jobs = child.jobs()
        child.received.clear()
        for job in jobs:
            child.say(done(job, code))
        await settle()
        return [job.path for job in jobs]

    async def end(self) -> None:
        """Everybody has left, with everything."""
        await settle()
        assert self.slots.free == self.slots.count
        assert not self.admission.tickets
        assert not len(self.stage.queue)
        assert not (self.coalescing._waiting or self.coalescing._taken or self.coalescing._leaders)
        assert self.answers == self.admission.admitted


def test_those_who_wait_share_one_decode() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        await room.busy()
        asked = [room.ask("/a")[1] for _ in range(3)]
        asked += [room.ask("/b")[1], room.ask("/a", frames=4)[1], room.ask("/a", roots=(b"/a",))[1]]
        await room.answer()
        paths = await room.answer()
        while more := await room.answer():
            paths += more
        assert [await one for one in asked] == ["decoded", "coalesced", "coalesced", *["decoded"] * 3]
        assert sorted(paths) == [b"/a", b"/a", b"/a", b"/b"], "what differs in frames or roots is not shared"
        assert room.coalescing.shared == 2
        await room.end()

    run(test)


def test_a_further_view_goes_alone() -> None:
    """It is one of the bytes that its first view was decoded from, whatever lies there by now."""

    async def test(loop: ManualLoop) -> None:
        room, first = Room(loop), child_messages.Decoded(0, 0, 0, "", "", 0.0)
        tickets = [room.admission.admit(Claim((object(),), Lane.NORMAL)) for _ in range(3)]
        further, *others = (
            DecodeJob(Image(b"/a"), ticket, after) for ticket, after in zip(tickets, (first, None, None), strict=True)
        )
        for job in (further, *others):
            room.coalescing.wait(job)
        assert room.coalescing.begin(further) == []
        assert room.coalescing.begin(others[0]) == others[1:]

    run(test)


def test_nobody_joins_a_decode_that_has_begun() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        _, first = room.ask("/a")
        await settle()
        _, second = room.ask("/a")
        await settle()
        assert await room.answer() == [b"/a", b"/a"]
        assert (await first, await second) == ("decoded", "decoded")
        await room.end()

    run(test)


def test_one_who_only_looks_is_taken_along_but_takes_nobody() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        await room.busy()
        asked = [
            room.ask("/a", probe=child_messages.STAT)[1],
            room.ask("/a")[1],
            room.ask("/a", probe=child_messages.HASH)[1],
        ]
        await room.answer()
        await room.answer()
        assert [await one for one in asked] == ["decoded", "decoded", "coalesced"]
        await room.end()

    run(test)


def test_a_better_lane_waits_for_no_worse_one() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        coalescing = Coalescing()
        quick, normal, late = (
            DecodeJob(Image(b"/a"), room.admission.admit(Claim(("client",), lane)))
            for lane in (Lane.INTERACTIVE, Lane.NORMAL, Lane.BACKGROUND)
        )
        for job in (quick, normal, late):
            coalescing.wait(job)
        assert coalescing.begin(normal) == [late]
        assert coalescing.begin(quick) == []

    run(test)


def test_the_best_lane_leads_those_who_must_try_again() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        await room.busy()
        (leader, first), (_, late), (_, normal) = (
            room.ask("/a", lane=lane) for lane in (Lane.INTERACTIVE, Lane.BACKGROUND, Lane.NORMAL)
        )
        await room.answer()
        leader.claim.cancel("cancelled")
        await settle()
        assert await room.answer() == [b"/a", b"/a"]
        assert (await first, await normal, await late) == ("cancelled", "decoded", "coalesced")
        await room.end()

    run(test)


def test_one_takes_only_so_many_along() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        await room.busy()
        asked = [room.ask("/a")[1] for _ in range(MOST_TAKEN + 2)]
        while await room.answer():
            pass
        ways = [await one for one in asked]
        assert (ways.count("decoded"), ways.count("coalesced")) == (2, MOST_TAKEN)
        await room.end()

    run(test)


def test_all_who_give_up_leave_nothing_behind() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        await room.busy()
        asked = [room.ask("/a") for _ in range(5)]
        await room.answer()
        for ticket, one in asked:
            ticket.claim.cancel("cancelled")
            assert await one == "cancelled"
        while await room.answer():
            pass
        await room.end()

    run(test)


@pytest.mark.parametrize("begun", [False, True])
def test_a_leader_that_is_cancelled_leaves_the_others_to_the_next(begun: bool) -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        await room.busy()
        (leader, first), (_, second), (_, third) = (room.ask("/a") for _ in range(3))
        if begun:
            await room.answer()
        leader.claim.cancel("cancelled")
        await settle()
        assert await first == "cancelled"
        while await room.answer():
            pass
        assert (await second, await third) == ("decoded", "coalesced")
        await room.end()

    run(test)


def test_everybody_has_a_deadline_of_his_own() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        await room.busy()
        asked = [room.ask("/a", time_limit=time_limit)[1] for time_limit in (2.0, 1.0, None)]
        await room.answer()
        await loop.advance(1.5)
        assert await asked[1] == "deadline"
        assert not asked[0].done()
        await loop.advance(1.0)
        assert await asked[0] == "deadline"
        assert not asked[2].done()
        await room.answer()
        assert await asked[2] == "decoded"
        await room.end()

    run(test)


def test_what_is_wrong_with_the_file_is_so_for_all() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        await room.busy()
        asked = [room.ask("/a")[1] for _ in range(3)]
        await room.answer()
        assert await room.answer("corrupt") == [b"/a"]
        assert [await one for one in asked] == ["corrupt"] * 3
        assert room.coalescing.shared == 0
        await room.end()

    run(test)


def test_a_fault_of_the_daemon_is_not_shared() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        await room.busy()
        (leader, first), (_, second) = room.ask("/a"), room.ask("/a")
        await room.answer()
        leader.fail(CodedError("engine_died"))
        await settle()
        assert await room.answer() == [b"/a", b"/a"]
        assert (await first, await second) == ("engine_died", "decoded")
        await room.end()

    run(test)


def test_a_death_of_the_decoder_loses_nobody() -> None:
    async def test(loop: ManualLoop) -> None:
        room = Room(loop)
        (leader, first), (_, second) = room.ask("/a"), room.ask("/a")
        await settle()
        room.arena.notes[0] = (leader.number, 0.0)
        FakeChild.born[0].die()
        await settle()
        FakeChild.born[1].say(child_messages.Hello([], []))
        await settle()
        assert await room.answer() == [b"/a"], "tried again, alone, for both"
        assert (await first, await second) == ("decoded", "coalesced")
        await room.end()

    run(test)
