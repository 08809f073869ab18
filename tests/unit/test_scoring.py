from __future__ import annotations

import asyncio
from array import array
from typing import Any

import pytest

from nsfwd.errors import CodedError, EngineError
from nsfwd.ipc import child_messages
from nsfwd.pipeline.infer import engine_supervisor, score_stage
from nsfwd.pipeline.infer.score_stage import ScoreStage
from nsfwd.pipeline.queueing.admission import Admission
from nsfwd.pipeline.queueing.slots import Slots
from nsfwd.pipeline.queueing.tickets import Claim, Ticket
from nsfwd.protocol.messages import Lane
from tests.unit.fakes import FakeArena, FakeChild
from tests.unit.manual import ManualLoop, run, settle

SETUP = child_messages.EngineSetup("", "echo", "cpu", "", "f32", 4, 12, "")


@pytest.fixture(autouse=True)
def fake_children(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeChild.born = []
    monkeypatch.setattr(engine_supervisor, "Child", FakeChild)


class Bench:
    """A score stage with a fake engine of two labels and batches of up to four."""

    def __init__(self, loop: ManualLoop, *, trusted: bool = True) -> None:
        self.broken: list[EngineError] = []
        self.warmed = 0
        self.slots = Slots(32, lambda: None, own=1)
        self.stage = ScoreStage(
            FakeArena(),  # type: ignore[arg-type]  # only its descriptor is used
            self.slots,
            SETUP,
            labels=2,
            on_warm=self.warm,
            on_broken=self.broken.append,
        )
        self.stage.start()
        self.admission = Admission(1000, loop)
        self.claim = Claim(("client",), Lane.NORMAL)
        self.own = Claim(("client",), Lane.NORMAL, reserved_slot=0)
        self.trusted = trusted
        self.greet()

    def warm(self) -> None:
        self.warmed += 1

    def greet(self) -> None:
        FakeChild.born[-1].say(child_messages.EngineReady("echo", "cpu", "f32", [1, 2, 4], 0.0, 0.0))
        if self.trusted:
            self.stage.trust()

    @property
    def engine(self) -> FakeChild:
        return FakeChild.born[-1]

    def submit(self, *, probe: bool = False) -> tuple[Ticket, asyncio.Future[Any]]:
        ticket = self.admission.own_ticket(self.own) if probe else self.admission.admit(self.claim)
        ticket.lease = self.slots.lease_own(0) if probe else self.slots.lease()
        waiting = asyncio.ensure_future(self.stage.score(ticket))
        return ticket, waiting


def scores(batch: child_messages.Batch) -> child_messages.Scores:
    """Each image's first score is its slot's number."""
    rows = array("f", [value for slot in batch.slots for value in (slot, 1.0)])
    return child_messages.Scores(batch.number, rows.tobytes(), 0.01, "")


def test_a_lone_image_goes_at_once_and_its_slot_comes_back() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        ticket, waiting = bench.submit()
        assert ticket.lease is not None
        slot = ticket.lease.slot
        await settle()
        (batch,) = bench.engine.batches()
        bench.engine.say(scores(batch))
        assert list(await waiting) == [slot, 1.0]
        assert bench.slots.free == bench.slots.count

    run(test)


def test_two_batches_are_in_flight_and_the_rest_gathers() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        waiting = []
        for _ in range(8):
            waiting.append(bench.submit()[1])
            await settle()
        assert [len(batch.slots) for batch in bench.engine.batches()] == [1, 1]
        bench.engine.say(scores(bench.engine.batches()[0]))
        assert [len(batch.slots) for batch in bench.engine.batches()] == [1, 1, 4]
        for batch in bench.engine.batches()[1:]:
            bench.engine.say(scores(batch))
        bench.engine.say(scores(bench.engine.batches()[-1]))
        assert len({float((await future)[0]) for future in waiting}) == 8

    run(test)


def test_nothing_but_probes_is_scored_before_the_engine_is_trusted() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, trusted=False)
        bench.submit()
        await settle()
        assert bench.engine.batches() == []
        _, golden = bench.submit(probe=True)
        await settle()
        (batch,) = bench.engine.batches()
        bench.engine.say(scores(batch))
        await golden
        bench.stage.trust()
        assert len(bench.engine.batches()) == 2

    run(test)


def test_the_company_of_a_dead_engine_is_scored_alone_by_the_next() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        waiting = [bench.submit()[1] for _ in range(3)]
        await settle()
        bench.engine.die()
        await loop.advance(0.01)
        bench.greet()
        for _ in range(3):
            batch = bench.engine.batches()[-1]
            assert len(batch.slots) == 1
            bench.engine.say(scores(batch))
            await settle()
        await asyncio.gather(*waiting)
        assert len(bench.engine.batches()) == 3

    run(test)


def test_only_an_image_alone_in_a_dying_engine_is_blamed() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        waiting = [bench.submit()[1] for _ in range(2)]
        await settle()
        bench.engine.die()
        await loop.advance(0.01)
        bench.greet()
        bench.engine.die(11)
        await loop.advance(1.1)
        bench.greet()
        bench.engine.say(scores(bench.engine.batches()[-1]))
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(result, CodedError) for result in results] == [True, False]
        assert "engine_died" in str(results[0])
        assert bench.slots.free == bench.slots.count - 1, "the blamed ticket still holds its slot until it leaves"

    run(test)


def test_restarts_back_off_and_too_many_deaths_break_the_stage() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        for deaths, delay in enumerate((0.0, 1.0, 2.0, 4.0, 4.0), start=1):
            bench.engine.die()
            await loop.advance(max(delay - 0.1, 0.0))
            assert len(FakeChild.born) == deaths + (delay == 0.0)
            await loop.advance(0.11)
            assert len(FakeChild.born) == deaths + 1
        assert bench.broken == []
        bench.engine.die()
        assert len(bench.broken) == 1
        assert "6 times" in str(bench.broken[0])

    run(test)


def test_engines_that_were_of_use_may_be_killed_for_ever() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        for _ in range(20):
            _, waiting = bench.submit()
            await settle()
            bench.engine.say(scores(bench.engine.batches()[-1]))
            await waiting
            bench.engine.die()
            await loop.advance(4.0)
            bench.greet()
        assert bench.broken == []

    run(test)


def test_deaths_long_ago_are_forgotten() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        for _ in range(10):
            bench.engine.die()
            await loop.advance(30.0)
        assert bench.broken == []

    run(test)


def test_a_settled_ticket_in_a_batch_keeps_its_slot_until_the_engine_answers() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        ticket, waiting = bench.submit()
        await settle()
        ticket.expire()
        with pytest.raises(CodedError, match="deadline"):
            await waiting
        assert ticket.lease is None
        assert bench.slots.free == bench.slots.count - 1
        bench.engine.say(scores(bench.engine.batches()[0]))
        assert bench.slots.free == bench.slots.count

    run(test)


def test_a_failed_batch_fails_its_images_only() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        _, waiting = bench.submit()
        await settle()
        bench.engine.say(child_messages.Scores(1, b"", 0.0, "out of memory"))
        with pytest.raises(CodedError, match="out of memory"):
            await waiting

    run(test)


def test_an_engine_that_cannot_be_built_breaks_the_stage_with_its_reason() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        bench.engine.say(child_messages.EngineFailed("no AVX2 on this machine"))
        bench.engine.die()
        assert [str(error) for error in bench.broken] == ["no AVX2 on this machine"]
        await loop.advance(10.0)
        assert len(FakeChild.born) == 1

    run(test)


def test_the_goldens_of_a_dead_engine_are_abandoned() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, trusted=False)
        _, golden = bench.submit(probe=True)
        await settle()
        bench.engine.die()
        with pytest.raises(CodedError, match="engine_died"):
            await golden

    run(test)


def test_an_engine_that_does_not_answer_is_killed_and_its_image_scored_by_the_next() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        _, first = bench.submit()
        await settle()
        await loop.advance(engine_supervisor.STUCK - 1)
        bench.engine.say(scores(bench.engine.batches()[-1]))
        await first
        await loop.advance(engine_supervisor.STUCK + 1)
        assert not bench.engine.killed, "it holds nothing"
        _, second = bench.submit()
        await settle()
        await loop.advance(engine_supervisor.STUCK + 1)
        assert bench.engine.killed
        bench.engine.die()
        await loop.advance(1.0)
        bench.greet()
        bench.engine.say(scores(bench.engine.batches()[-1]))
        assert await second

    run(test)


def test_the_company_of_an_image_that_fails_its_batch_is_scored() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        _, first = bench.submit()
        _, second = bench.submit()
        await settle()
        others = [bench.submit()[1] for _ in range(3)]
        await settle()
        bench.engine.say(scores(bench.engine.batches()[0]))
        bench.engine.say(scores(bench.engine.batches()[1]))
        failed = bench.engine.batches()[2]
        assert len(failed.slots) == 3
        bench.engine.say(child_messages.Scores(failed.number, b"", 0.01, "a poisonous picture"))
        poisonous = failed.slots[1]
        for _ in failed.slots:
            batch = bench.engine.batches()[-1]
            assert len(batch.slots) == 1, "each is tried alone, and only once"
            fails = batch.slots[0] == poisonous
            bench.engine.say(child_messages.Scores(batch.number, b"", 0.01, "poison") if fails else scores(batch))
        results = await asyncio.gather(first, second, *others, return_exceptions=True)
        assert [isinstance(result, CodedError) for result in results].count(True) == 1
        assert len(bench.engine.batches()) == 6
        assert not bench.stage.busy

    run(test)


def test_an_image_that_ends_every_engine_is_blamed_after_two_whatever_else_is_asked() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        ticket, _ = bench.submit()
        assert ticket.lease is not None
        poisonous = ticket.lease.slot
        others = [bench.submit()[1] for _ in range(9)]
        await settle()
        ends, answered = 0, set()
        while ticket.settled is None or bench.stage.busy:
            batch = next(batch for batch in bench.engine.batches() if batch.number not in answered)
            answered.add(batch.number)
            if poisonous in batch.slots:
                ends += 1
                bench.engine.die(11)
                await loop.advance(5.0)
                bench.greet()
            else:
                bench.engine.say(scores(batch))
            await settle()
        assert ticket.settled.code == "engine_died"
        assert ends == 2
        assert len(await asyncio.gather(*others)) == 9

    run(test)


@pytest.mark.parametrize(
    "nonsense",
    [
        child_messages.Scores(1, b"12345", 0.01, ""),
        child_messages.Scores(1, b"", float("nan"), ""),
        child_messages.Scores(1, b"", float("inf"), ""),
        child_messages.Scores(1, b"", -1.0, ""),
    ],
)
def test_scores_that_make_no_sense_lose_no_image(nonsense: child_messages.Scores) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        waiting = [bench.submit()[1] for _ in range(3)]
        await settle()
        stray = bench.engine
        stray.say(nonsense)
        if stray.killed:
            stray.die()
            await loop.advance(1.0)
            bench.greet()
        answered: set[int] = {nonsense.number} if not stray.killed else set()
        while not all(future.done() for future in waiting):
            for batch in bench.engine.batches():
                if batch.number not in answered:
                    answered.add(batch.number)
                    bench.engine.say(scores(batch))
            await settle()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(result, CodedError) for result in results) == (0 if stray.killed else 1)

    run(test)


def test_suspects_that_gave_up_keep_nobody_waiting() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        given_up = [bench.submit() for _ in range(2)]
        await settle()
        bench.engine.die()
        for ticket, _ in given_up:
            ticket.expire()
        _, waiting = bench.submit()
        await loop.advance(1.0)
        bench.greet()
        bench.engine.say(scores(bench.engine.batches()[-1]))
        assert await waiting
        for _, gone in given_up:
            with pytest.raises(CodedError, match="deadline"):
                await gone

    run(test)


def test_a_batch_has_no_more_images_than_a_reply_has_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_stage, "MOST_SCORES", 5)

    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        waiting = [bench.submit()[1] for _ in range(9)]
        await settle()
        while not all(future.done() for future in waiting):
            batch = bench.engine.batches()[-1]
            assert len(batch.slots) <= 2
            for batch in bench.engine.batches()[-2:]:
                bench.engine.say(scores(batch))
            await settle()

    run(test)


def test_an_engine_that_was_of_use_is_followed_at_once_however_often() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        for number in range(1, 20):
            bench.engine.die()  # while it loads, or idle: once is forgiven
            await loop.advance(0.01)
            bench.greet()
            _, waiting = bench.submit()
            await settle()
            bench.engine.say(scores(bench.engine.batches()[-1]))
            await waiting
            bench.engine.die()
            await loop.advance(0.01)
            assert len(FakeChild.born) == 1 + 2 * number
            bench.greet()
        assert bench.broken == []

    run(test)
