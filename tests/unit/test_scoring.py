from __future__ import annotations

import asyncio
from array import array
from typing import Any

import pytest

from nsfwd.errors import CodedError, EngineError
from nsfwd.ipc import messages
from nsfwd.pipeline import scoring
from nsfwd.pipeline.admission import Admission
from nsfwd.pipeline.scoring import ScoreStage
from nsfwd.pipeline.slots import Slots
from nsfwd.pipeline.tickets import Claim, Ticket
from nsfwd.protocol.messages import Lane
from tests.unit.fakes import FakeArena, FakeChild
from tests.unit.manual import ManualLoop, run, settle

SETUP = messages.EngineSetup("", "echo", "cpu", "", "f32", 4, 12, "")


@pytest.fixture(autouse=True)
def fake_children(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeChild.born = []
    monkeypatch.setattr(scoring, "Child", FakeChild)


class Bench:
    """A score stage with a fake engine of two labels and batches of up to four."""

    def __init__(self, loop: ManualLoop, *, trusted: bool = True) -> None:
        self.broken: list[EngineError] = []
        self.warmed = 0
        self.slots = Slots(32, lambda: None)
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
        self.trusted = trusted
        self.greet()

    def warm(self) -> None:
        self.warmed += 1

    def greet(self) -> None:
        FakeChild.born[-1].say(messages.EngineReady("echo", "cpu", "f32", [1, 2, 4], 0.0, 0.0))
        if self.trusted:
            self.stage.trust()

    @property
    def engine(self) -> FakeChild:
        return FakeChild.born[-1]

    def submit(self, *, probe: bool = False) -> tuple[Ticket, asyncio.Future[Any]]:
        ticket = self.admission.admit(self.claim)
        ticket.lease = self.slots.lease()
        waiting = asyncio.ensure_future(self.stage.score(ticket, probe=probe))
        return ticket, waiting


def scores(batch: messages.Batch) -> messages.Scores:
    """Each image's first score is its slot's number."""
    rows = array("f", [value for slot in batch.slots for value in (slot, 1.0)])
    return messages.Scores(batch.number, rows.tobytes(), 0.01, "")


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
        bench.engine.say(messages.Scores(1, b"", 0.0, "out of memory"))
        with pytest.raises(CodedError, match="out of memory"):
            await waiting

    run(test)


def test_an_engine_that_cannot_be_built_breaks_the_stage_with_its_reason() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        bench.engine.say(messages.EngineFailed("no AVX2 on this machine"))
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
        await loop.advance(scoring.STUCK - 1)
        bench.engine.say(scores(bench.engine.batches()[-1]))
        await first
        await loop.advance(scoring.STUCK + 1)
        assert not bench.engine.killed, "it holds nothing"
        _, second = bench.submit()
        await settle()
        await loop.advance(scoring.STUCK + 1)
        assert bench.engine.killed
        bench.engine.die()
        await loop.advance(1.0)
        bench.greet()
        bench.engine.say(scores(bench.engine.batches()[-1]))
        assert await second

    run(test)
