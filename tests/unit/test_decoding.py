from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from nsfwd.backoff import SPAWN
from nsfwd.errors import CodedError, EngineError
from nsfwd.ipc import child_messages
from nsfwd.ipc.child import SCARCE_DELAY
from nsfwd.ipc.link import MAX_PACKET
from nsfwd.pipeline.decode import decoder_pool
from nsfwd.pipeline.decode.decode_stage import DEATHS_BEFORE_BLAME, LOSSES_BEFORE_SUSPICION, MOST_PENDING, DecodeStage
from nsfwd.pipeline.decode.poison_list import PoisonList
from nsfwd.pipeline.queueing.admission import Admission
from nsfwd.pipeline.queueing.slots import NO_SLOT, Lease, Slots
from nsfwd.pipeline.queueing.tickets import Claim, Ticket
from nsfwd.protocol.messages import Image, Lane
from tests.unit.fakes import FakeArena, FakeChild
from tests.unit.manual import ManualLoop, run, settle

SETUP = child_messages.DecoderSetup(0, 12, [], (b"/",), child_messages.ImageLimits(1, 1, 1, 1, 1))


@pytest.fixture(autouse=True)
def fake_children(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeChild.born = []
    monkeypatch.setattr(decoder_pool, "Child", FakeChild)


class Bench:
    """A decode stage with two fake decoders, and tickets to send through it."""

    def __init__(self, loop: ManualLoop, *, slots: int = 8, workers: int = 2) -> None:
        self.arena = FakeArena()
        self.broken: list[EngineError] = []
        self.poison = PoisonList(Path("/dev/null/nowhere"))
        self.slots = Slots(slots, lambda: self.stage.slot_freed(), own=1)
        plan = decoder_pool.DecoderPlan(self.arena, self.slots, SETUP, workers, 10.0, self.poison)  # type: ignore[arg-type]  # notes only
        self.stage = DecodeStage(plan, on_broken=self.broken.append)
        self.stage.start()
        for child in FakeChild.born:
            child.say(child_messages.Hello([], []))
        self.admission = Admission(1000, loop)
        self.claim = Claim(("client",), Lane.NORMAL)
        self.own = Claim(("client",), Lane.NORMAL, reserved_slot=0)

    def submit(self, path: str) -> tuple[Ticket, asyncio.Future[Any]]:
        ticket = self.admission.admit(self.claim)
        return ticket, asyncio.ensure_future(self.stage.decode(Image(path.encode()), ticket))


def done(job: child_messages.Job, code: str = "") -> child_messages.DecodedGroup:
    return child_messages.DecodedGroup([child_messages.Decoded(job.number, job.slot, job.lease_id, code, "", 0.01)])


def test_pixels_arrive_with_the_slot_they_lie_in() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        ticket, waiting = bench.submit("/a")
        await settle()
        child = next(child for child in FakeChild.born if child.jobs())
        (job,) = child.jobs()
        assert job.path == b"/a"
        child.say(done(job))
        decoded = await waiting
        assert decoded.number == ticket.number
        assert ticket.lease == Lease(job.slot, job.lease_id)

    run(test)


def test_a_defect_in_a_decoder_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        _, waiting = bench.submit("/a")
        await settle()
        child = next(child for child in FakeChild.born if child.jobs())
        child.say(done(child.jobs()[0], "internal"))
        with pytest.raises(CodedError, match="internal"):
            await waiting
        assert "while it read /a: its last words" in caplog.text

    run(test)


def test_a_further_view_is_asked_for_as_the_one_before_it_said() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        bench.claim.frames, bench.claim.identity = 5, True
        ticket, waiting = bench.submit("/a")
        await settle()
        child = next(child for child in FakeChild.born if child.jobs())
        stamp = (1, 2, 3, (4, 0), (5, 0))
        first = child_messages.Decoded(ticket.number, *ticket_slot(child), "", "", 0.5, next=2, frames=9, stamp=stamp)
        child.say(child_messages.DecodedGroup([first]))
        decoded = await waiting
        bench.slots.release(ticket.lease)  # type: ignore[arg-type]  # scored
        ticket.lease = None
        waiting = asyncio.ensure_future(bench.stage.decode_next(Image(b"/a"), ticket, decoded))
        await settle()
        (one, other) = (job for child in FakeChild.born for job in child.jobs())
        assert (one.view, one.frames, one.stamp, one.identity) == (0, 5, None, True)
        assert (other.view, other.frames, other.stamp, other.identity) == (2, 5, stamp, False)
        child = next(child for child in FakeChild.born if other in child.jobs())
        child.say(done(other))
        assert (await waiting).next == 0
        assert ticket.time.decode == 0.51

    run(test)


async def first_view(bench: Bench, seconds: float) -> tuple[Ticket, child_messages.Decoded, FakeChild]:
    """An animation whose first view took this long, with the decoder that has it open."""
    ticket, waiting = bench.submit("/moving.gif")
    await settle()
    child = next(child for child in FakeChild.born if child.jobs())
    first = child_messages.Decoded(
        ticket.number, *ticket_slot(child), "", "", seconds, next=2, stamp=(1, 2, 3, (4, 0), (5, 0))
    )
    child.say(child_messages.DecodedGroup([first]))
    decoded = await waiting
    assert ticket.lease is not None
    bench.slots.release(ticket.lease)
    ticket.lease = None
    return ticket, decoded, child


def test_a_further_view_goes_to_the_decoder_that_has_the_image_open() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        ticket, decoded, child = await first_view(bench, 0.5)
        other = next(other for other in FakeChild.born if other is not child)
        bench.submit("/b")
        await settle()
        if not child.jobs()[1:]:  # make the one that has it the busier of the two
            bench.submit("/c")
            await settle()
        waiting = asyncio.ensure_future(bench.stage.decode_next(Image(b"/moving.gif"), ticket, decoded))
        await settle()
        assert child.jobs()[-1].view == 2
        child.say(done(child.jobs()[-1]))
        await waiting
        assert all(job.view == 0 for job in other.jobs())

    run(test)


def test_all_views_of_an_image_have_one_time_limit() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        ticket, decoded, child = await first_view(bench, 9.0)
        waiting = asyncio.ensure_future(bench.stage.decode_next(Image(b"/moving.gif"), ticket, decoded))
        await settle()
        number = FakeChild.born.index(child)
        bench.arena.notes[number] = (ticket.number, time.monotonic() - 2)
        await loop.advance(0.3)
        assert child.killed
        with pytest.raises(CodedError, match="decode_timeout"):
            await waiting

    run(test)


def test_a_view_for_which_no_time_is_left_is_not_begun() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        ticket, decoded, child = await first_view(bench, 10.5)
        with pytest.raises(CodedError, match="decode_timeout"):
            await bench.stage.decode_next(Image(b"/moving.gif"), ticket, decoded)
        assert len(child.jobs()) == 1

    run(test)


def number_of(job: child_messages.Job) -> int:
    return job.number


def ticket_slot(child: FakeChild) -> tuple[int, int]:
    return child.jobs()[-1].slot, child.jobs()[-1].lease_id


def test_two_images_go_to_two_decoders() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        bench.submit("/a")
        bench.submit("/b")
        await settle()
        assert [len(child.jobs()) for child in FakeChild.born] == [1, 1]

    run(test)


def test_an_error_of_the_file_gives_the_slot_back() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        _, waiting = bench.submit("/a")
        await settle()
        child = next(child for child in FakeChild.born if child.jobs())
        child.say(done(child.jobs()[0], "corrupt"))
        with pytest.raises(CodedError, match="corrupt"):
            await waiting
        assert bench.slots.free == bench.slots.count

    run(test)


def test_a_settled_ticket_keeps_its_slot_until_the_decoder_reports() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop)
        ticket, waiting = bench.submit("/a")
        await settle()
        ticket.expire()
        with pytest.raises(CodedError, match="deadline"):
            await waiting
        assert bench.slots.free == bench.slots.count - 1
        child = next(child for child in FakeChild.born if child.jobs())
        child.say(done(child.jobs()[0]))
        assert bench.slots.free == bench.slots.count
        assert ticket.lease is None

    run(test)


def test_without_slots_images_wait_and_then_go_on() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, slots=1)
        ticket, first = bench.submit("/a")
        _, second = bench.submit("/b")
        await settle()
        child = next(child for child in FakeChild.born if child.jobs())
        child.say(done(child.jobs()[0]))
        await first
        assert len(bench.stage.queue) == 1
        assert ticket.lease is not None
        bench.slots.release(ticket.lease)
        await settle()
        assert len(bench.stage.queue) == 0
        assert not second.done()

    run(test)


def test_a_dead_decoder_is_replaced_and_only_the_noted_file_is_suspected() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        _, first = bench.submit("/a")
        _, second = bench.submit("/b")
        await settle()
        old = FakeChild.born[0]
        jobs = old.jobs()
        bench.arena.notes[0] = (jobs[0].number, 0.0)
        old.die()
        assert bench.slots.free == bench.slots.count
        await settle()
        new = FakeChild.born[1]
        assert [job.path for job in new.jobs()] == [b"/a"], "the suspect goes alone"
        new.say(done(new.jobs()[0]))
        await settle()
        assert [job.path for job in new.jobs()] == [b"/a", b"/b"]
        new.say(done(new.jobs()[1]))
        await asyncio.gather(first, second)
        assert bench.stage.pool.restarts == 1

    run(test)


def test_a_file_that_ends_two_decoders_is_to_blame() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        _, waiting = bench.submit("/bad")
        await settle()
        for number in range(2):
            child = FakeChild.born[number]
            child.say(child_messages.Hello([], []))
            bench.arena.notes[0] = (child.jobs()[-1].number, 0.0)
            child.die(11)
            await settle()
        with pytest.raises(CodedError, match="decoder_died"):
            await waiting
        assert bench.slots.free == bench.slots.count

    run(test)


async def end_with_its_jobs(loop: ManualLoop) -> None:
    """The decoder that was started last ends between two notes, with all that it holds."""
    child = FakeChild.born[-1]
    child.say(child_messages.Hello([], []))
    await settle()
    assert child.jobs()
    child.die()
    await settle()
    await loop.advance(SPAWN.longest)


def test_a_decoder_that_died_between_two_jobs_blames_nobody() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        _, waiting = bench.submit("/a")
        await settle()
        await end_with_its_jobs(loop)
        last = FakeChild.born[-1]
        last.say(child_messages.Hello([], []))
        await settle()
        assert not last.jobs()[-1].suspect
        last.say(done(last.jobs()[-1]))
        await waiting

    run(test)


def test_a_file_that_ends_decoders_without_a_note_is_to_blame_in_the_end() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        _, bad = bench.submit("/bad")
        _, behind = bench.submit("/behind")
        await settle()
        for _ in range(LOSSES_BEFORE_SUSPICION):
            await end_with_its_jobs(loop)
        for _ in range(DEATHS_BEFORE_BLAME):
            child = FakeChild.born[-1]
            child.say(child_messages.Hello([], []))
            await settle()
            assert len(child.jobs()) == 1, "a suspect goes alone"
            if child.jobs()[0].path == b"/behind":
                child.say(done(child.jobs()[0]))
            await end_with_its_jobs(loop)
        with pytest.raises(CodedError, match="decoder_died"):
            await bad
        assert (await behind).code == ""
        assert bench.slots.free == bench.slots.count - 1, "one has pixels"

    run(test)


def test_decoders_that_end_while_idle_are_not_started_without_pause() -> None:
    async def test(loop: ManualLoop) -> None:
        Bench(loop, workers=1)
        for _ in range(20):
            child = FakeChild.born[-1]
            if child.alive:
                child.say(child_messages.Hello([], []))
                child.die()
            await loop.advance(0.05)
        assert len(FakeChild.born) <= 6

    run(test)


def test_a_decoder_that_does_not_greet_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(loop: ManualLoop) -> None:
        Bench(loop, workers=1)
        FakeChild.born[0].die()
        await settle()
        stopped = FakeChild.born[-1]
        later = time.monotonic() + decoder_pool.START_PATIENCE + 1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        await loop.advance(0.3)
        assert stopped.killed

    run(test)


@pytest.mark.parametrize("others", [False, True])
def test_images_do_not_wait_long_for_a_decoder_that_was_stopped_while_it_started(
    monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1 + others)
        _, first = bench.submit("/first")
        await settle()
        FakeChild.born[0].say(done(FakeChild.born[0].jobs()[0]))
        await first
        FakeChild.born[0].die()
        await settle()
        stopped = FakeChild.born[-1]
        waiting = [bench.submit(f"/{number}")[1] for number in range(1 + others)]
        await settle()
        assert len(stopped.jobs()) == 1
        if others:
            FakeChild.born[1].say(done(FakeChild.born[1].jobs()[0]))
        later = time.monotonic() + 11
        monkeypatch.setattr(time, "monotonic", lambda: later)
        await loop.advance(0.3)
        assert stopped.killed == others, "where none works the machine may only be slow"
        if others:
            stopped.die()
            await settle()
            number = stopped.jobs()[0].number
            again = next(
                child for child in FakeChild.born[1:] if child.alive and number in map(number_of, child.jobs())
            )
            again.say(done(again.jobs()[-1]))
            await asyncio.gather(*waiting)

    run(test)


def test_a_decoder_that_notes_what_it_was_not_given_is_timed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        bench.submit("/a")
        await settle()
        bench.arena.notes[0] = (999, time.monotonic() + 1e6)
        later = time.monotonic() + 11
        monkeypatch.setattr(time, "monotonic", lambda: later)
        await loop.advance(0.3)
        assert FakeChild.born[0].killed

    run(test)


def test_a_stale_answer_changes_nothing() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        _, waiting = bench.submit("/a")
        await settle()
        old = FakeChild.born[0]
        (job,) = old.jobs()
        old.die()
        await settle()
        new = FakeChild.born[1]
        new.say(child_messages.Hello([], []))
        old.say(done(job))
        await settle()
        assert not waiting.done()
        new.say(done(new.jobs()[0]))
        await waiting

    run(test)


def test_an_overdue_decoder_is_killed_and_the_file_told() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        _, waiting = bench.submit("/slow")
        await settle()
        child = FakeChild.born[0]
        bench.arena.notes[0] = (child.jobs()[0].number, time.monotonic() - 11)
        await loop.advance(0.3)
        assert child.killed
        child.die()
        with pytest.raises(CodedError, match="decode_timeout"):
            await waiting

    run(test)


def test_a_decoder_that_does_not_begin_is_killed_and_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        _, waiting = bench.submit("/a")
        await settle()
        stuck = FakeChild.born[0]
        await loop.advance(0.3)
        assert not stuck.killed
        later = time.monotonic() + 11
        monkeypatch.setattr(time, "monotonic", lambda: later)
        await loop.advance(0.3)
        assert stuck.killed
        stuck.die()
        await settle()
        successor = FakeChild.born[-1]
        (job,) = successor.jobs()
        successor.say(done(job))
        assert (await waiting).code == ""

    run(test)


def test_decoders_that_never_greet_break_the_stage() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        FakeChild.born[-1].die()
        await settle()
        for _ in range(decoder_pool.EARLY_DEATHS):
            assert bench.broken == []
            FakeChild.born[-1].die()
            await loop.advance(1.0)
        assert len(bench.broken) == 1
        assert "gone" in str(bench.broken[0])

    run(test)


def test_early_deaths_do_not_count_while_another_decoder_works() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, slots=3 * decoder_pool.EARLY_DEATHS, workers=2)
        healthy = FakeChild.born[1]
        FakeChild.born[0].die()
        for number in range(3 * decoder_pool.EARLY_DEATHS):
            FakeChild.born[-1].die()
            _, waiting = bench.submit(f"/{number}")
            await settle()
            healthy.say(done(healthy.jobs()[-1]))
            await waiting
            await loop.advance(1.0)
        assert bench.broken == []

    run(test)


def test_a_decoder_that_speaks_nonsense_is_killed() -> None:
    async def test(loop: ManualLoop) -> None:
        Bench(loop, workers=1)
        FakeChild.born[0].on_message(b"\xc1nonsense")
        assert FakeChild.born[0].killed

    run(test)


def test_a_settled_ticket_in_the_queue_is_never_sent() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, slots=1)
        bench.submit("/a")
        ticket, waiting = bench.submit("/b")
        await settle()
        ticket.expire()
        with pytest.raises(CodedError):
            await waiting
        assert len(bench.stage.queue) == 0

    run(test)


def crash(bench: Bench, child: FakeChild, number: int, signal: int) -> None:
    """The decoder was on this job and ends by this signal."""
    bench.arena.notes[0] = (number, 0.0)
    child.say(child_messages.Hello([], []))
    child.die(signal)


@pytest.mark.parametrize(("first", "second", "listed"), [(11, 6, True), (31, 7, True), (9, 11, False), (11, 9, False)])
def test_only_crashes_are_put_on_the_poison_list(first: int, second: int, listed: bool) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        ticket, waiting = bench.submit("/a")
        await settle()
        assert not FakeChild.born[0].jobs()[0].suspect
        crash(bench, FakeChild.born[0], ticket.number, first)
        await settle()
        (job,) = FakeChild.born[1].jobs()
        assert job.suspect
        FakeChild.born[1].say(child_messages.Suspected(job.number, 5, "ab"))
        crash(bench, FakeChild.born[1], ticket.number, second)
        with pytest.raises(CodedError, match="decoder_died"):
            await waiting
        assert bench.poison.digests() == (((5, "ab"),) if listed else ())
        assert FakeChild.born[2].received[0].poison == bench.poison.digests(), "the next one knows"

    run(test)


def test_a_decoder_that_cannot_be_killed_is_abandoned_with_its_slot() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        ticket, stuck = bench.submit("/stalled")
        _, behind = bench.submit("/behind")
        await settle()
        old = FakeChild.born[0]
        bench.arena.notes[0] = (ticket.number, time.monotonic() - 11.0)
        await loop.advance(decoder_pool.WATCH_INTERVAL)
        await settle()
        assert old.killed
        assert len(FakeChild.born) == 1, "it may still end"
        for _ in range(6):
            await loop.advance(decoder_pool.WATCH_INTERVAL)
            await settle()
        with pytest.raises(CodedError, match="decode_timeout"):
            await stuck
        assert len(bench.stage.pool.abandoned) == 1
        new = FakeChild.born[1]
        assert [job.path for job in new.jobs()] == [b"/behind"]
        new.say(done(new.jobs()[0]))
        await behind
        assert bench.slots.free == bench.slots.count - 2, "what the kernel holds and what was just decoded"
        old.die()
        assert bench.slots.free == bench.slots.count - 1
        assert bench.stage.pool.abandoned == []
        assert len(FakeChild.born) == 2

    run(test)


def test_only_so_many_are_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(loop: ManualLoop) -> None:
        monkeypatch.setattr(decoder_pool, "most_abandoned", lambda: 1)
        bench = Bench(loop, workers=2)
        tickets = [bench.submit(f"/{name}") for name in "ab"]
        await settle()
        for number, (ticket, _) in enumerate(tickets):
            bench.arena.notes[number] = (ticket.number, time.monotonic() - 11.0)
        for _ in range(8):
            await loop.advance(decoder_pool.WATCH_INTERVAL)
            await settle()
        assert len(bench.stage.pool.abandoned) == 1
        assert len(FakeChild.born) == 3
        assert all(waiting.done() for _, waiting in tickets), "both have their answer all the same"
        for _, waiting in tickets:
            assert isinstance(waiting.exception(), CodedError)

    run(test)


def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        monkeypatch.setattr(FakeChild, "refusals", 3)
        FakeChild.born[0].die()
        for _ in range(3):
            assert len(FakeChild.born) == 1
            assert not bench.broken
            await loop.advance(1.0)
            await settle()
        assert len(FakeChild.born) == 2
        assert FakeChild.born[1].received, "it was set up"

    run(test)


def test_the_last_slots_are_kept_for_who_only_begins_to_ask() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, slots=32, workers=2)
        for number in range(40):
            bench.submit(f"/crowd{number}")
        answered: set[int] = set()
        for _ in range(40):
            await settle()
            for child in FakeChild.born:
                for job in child.jobs():
                    if job.number not in answered:
                        answered.add(job.number)
                        child.say(done(job))
        assert (len(answered), bench.slots.free) == (30, 2)
        bench.claim = Claim(("another",), Lane.NORMAL)
        bench.submit("/single")
        await settle()
        assert b"/single" in [job.path for child in FakeChild.born for job in child.jobs()]

    run(test)


def test_a_suspect_that_waits_for_a_slot_gets_the_next_though_nothing_else_waits() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, slots=1, workers=1)
        ticket, waiting = bench.submit("/a")
        await settle()
        bench.arena.notes[0] = (ticket.number, 0.0)
        FakeChild.born[0].die()
        taken = bench.slots.lease()  # by what waits for the engine
        assert taken is not None
        await settle()
        assert FakeChild.born[1].jobs() == []
        bench.slots.release(taken)
        await settle()
        (job,) = FakeChild.born[1].jobs()
        FakeChild.born[1].say(done(job))
        assert await waiting

    run(test)


async def end_on_golden(loop: ManualLoop, bench: Bench, sign: int) -> None:
    """The decoder that has the self-test's picture ends while it is at it."""
    child = FakeChild.born[-1]
    child.say(child_messages.Hello([], []))
    await settle()
    (job,) = child.jobs()
    child.say(child_messages.Suspected(job.number, 10, "00" * 32))
    bench.arena.notes[0] = (job.number, 0.0)
    child.die(sign)
    await settle()
    await loop.advance(SPAWN.longest)


def test_killed_decoders_are_never_the_fault_of_the_self_tests_picture() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        ticket = bench.admission.own_ticket(bench.own)
        waiting = asyncio.ensure_future(bench.stage.decode(Image(descriptor=7), ticket))
        await settle()
        for _ in range(20):
            await end_on_golden(loop, bench, 9)
            assert not waiting.done()
        child = FakeChild.born[-1]
        child.say(child_messages.Hello([], []))
        await settle()
        child.say(done(child.jobs()[0]))
        assert await waiting

    run(test)


def test_the_self_tests_picture_never_gets_onto_the_poison_list() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        waiting = asyncio.ensure_future(bench.stage.decode(Image(descriptor=7), bench.admission.own_ticket(bench.own)))
        await settle()
        for _ in range(2):
            await end_on_golden(loop, bench, 11)
        with pytest.raises(CodedError, match="decoder_died"):
            await waiting
        assert bench.poison.describe() == []

    run(test)


def test_the_self_test_is_decoded_without_a_free_slot_and_by_decoders_that_have_enough() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, slots=2, workers=1)
        for name in "abcd":
            bench.submit(f"/{name}")
        await settle()
        decoder = FakeChild.born[0]
        held = decoder.jobs()
        assert (len(held), bench.slots.free) == (2, 0)
        ticket = bench.admission.own_ticket(bench.own)
        waiting = asyncio.ensure_future(bench.stage.decode(Image(descriptor=7), ticket))
        await settle()
        golden = decoder.jobs()[-1]
        assert (golden.slot, golden.descriptor) == (bench.slots.count, True)
        bench.arena.notes[0] = (ticket.number, 0.0)
        decoder.die()  # by chance: the golden is tried again alone, in its own slot
        await settle()
        again = FakeChild.born[1].jobs()
        assert [job.slot for job in again] == [bench.slots.count]
        FakeChild.born[1].say(done(again[0]))
        assert await waiting
        assert ticket.lease is not None

    run(test)


def test_probes_go_on_while_every_slot_is_taken() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, slots=1, workers=1)
        await settle()
        child = FakeChild.born[0]
        pixels, first = bench.submit("/a")
        await settle()
        child.say(done(child.jobs()[-1]))
        assert (await first).code == ""
        assert bench.slots.free == 0
        bench.submit("/waits")
        ticket = bench.admission.admit(bench.claim)
        probe = asyncio.ensure_future(bench.stage.decode(Image(b"/known"), ticket, probe=child_messages.STAT))
        await settle()
        assert [(job.path, job.slot) for job in child.jobs()[1:]] == [(b"/known", NO_SLOT)]
        child.say(done(child.jobs()[-1]))
        assert isinstance(await probe, child_messages.Decoded)
        assert (ticket.lease, bench.slots.free) == (None, 0)
        assert pixels.lease is not None
        bench.slots.release(pixels.lease)
        await settle()
        assert child.jobs()[-1].path == b"/waits"

    run(test)


def test_files_that_cannot_be_passed_now_are_passed_later_and_hold_up_nobody() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        (child,) = FakeChild.born
        child.scarce = True
        ticket = bench.admission.admit(bench.claim)
        passed: asyncio.Future[Any] = asyncio.ensure_future(bench.stage.decode(Image(b"", 77), ticket))
        await settle()
        _, other = bench.submit("/b")
        await settle()
        assert [job.path for job in child.jobs()] == [b"/b"]
        assert bench.slots.free == bench.slots.count - 1, "a slot is not held while its file waits"
        child.say(done(child.jobs()[-1]))
        await other
        await loop.advance(2 * SCARCE_DELAY)
        child.scarce = False
        await loop.advance(2 * SCARCE_DELAY)
        assert child.descriptors == [77]
        child.say(done(child.jobs()[-1]))
        assert (await passed).code == ""

    run(test)


def test_a_file_that_can_never_be_passed_is_let_go_with_its_request() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=1)
        FakeChild.born[0].scarce = True
        ticket = bench.admission.admit(bench.claim)
        passed: asyncio.Future[Any] = asyncio.ensure_future(bench.stage.decode(Image(b"", 77), ticket))
        await loop.advance(SCARCE_DELAY / 2)
        ticket.fail(CodedError("deadline"))
        with pytest.raises(CodedError, match="deadline"):
            await passed
        FakeChild.born[0].scarce = False
        await loop.advance(2 * SCARCE_DELAY)
        assert FakeChild.born[0].descriptors == []
        assert bench.slots.free == bench.slots.count and not len(bench.stage.queue)

    run(test)


def test_the_longest_paths_of_a_peer_with_long_roots_travel_in_several_packets() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, slots=64, workers=1)
        bench.claim.roots = tuple(b"/%0300d" % number for number in range(200))
        bench.stage._mean_seconds = 1e-6
        waiting: list[asyncio.Future[Any]] = [
            bench.submit("/" + "x" * 4000 + str(number))[1] for number in range(MOST_PENDING)
        ]
        await settle()
        (child,) = FakeChild.born
        packets = [message for message in child.received if isinstance(message, child_messages.Decode)]
        assert max(len(child_messages.encode(packet)) for packet in packets) <= MAX_PACKET
        assert len(child.jobs()) == MOST_PENDING
        child.say(child_messages.DecodedGroup([one for job in child.jobs() for one in done(job).results]))
        assert [(await one).code for one in waiting] == [""] * MOST_PENDING

    run(test)


def test_decoders_killed_from_outside_before_they_are_ready_do_not_end_the_daemon_while_one_works() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=2)
        FakeChild.born[0].die()
        for _ in range(3 * decoder_pool.EARLY_DEATHS):
            FakeChild.born[-1].die()
            await loop.advance(SPAWN.longest)
        assert bench.broken == []

    run(test)


def test_many_decoders_killed_at_once_before_they_are_ready_do_not_end_the_daemon() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=2 * decoder_pool.EARLY_DEATHS)
        for _ in range(2):
            for child in [child for child in FakeChild.born if child.alive]:
                child.die()
            await settle()
        assert bench.broken == []

    run(test)


def test_a_defect_at_the_start_of_decoders_ends_the_daemon_though_an_older_one_works() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, workers=2)
        FakeChild.born[0].die()
        for _ in range(decoder_pool.EARLY_DEATHS):
            assert bench.broken == []
            FakeChild.born[-1].die(11)
            await loop.advance(SPAWN.longest)
        assert len(bench.broken) == 1

    run(test)
