from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing

import pytest

from nsfwd.backoff import SPAWN
from nsfwd.errors import CodedError
from nsfwd.ipc import child_messages
from nsfwd.ipc.process_start import KILL_PATIENCE
from nsfwd.pipeline.decode import list_stage
from nsfwd.pipeline.decode.list_stage import WATCH_INTERVAL, ListStage
from nsfwd.pipeline.queueing.tickets import Claim
from nsfwd.protocol.messages import Lane
from tests.unit.fakes import FakeChild
from tests.unit.manual import ManualLoop, run, settle

SETUP = child_messages.ListerSetup((b"/",), 10, 1000, 2)


@pytest.fixture(autouse=True)
def fake_children(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeChild.born = []
    monkeypatch.setattr(list_stage, "Child", FakeChild)


class Bench:
    """A list stage with a fake lister, and one directory asked for."""

    def __init__(self, *, deadline: float | None = None) -> None:
        self.stage = ListStage(SETUP, patience=10.0)
        self.stage.start()
        self.claim = Claim(("client",), Lane.NORMAL, deadline=deadline)
        self.named: list[bytes] = []
        self.task = asyncio.ensure_future(self._pull())

    async def _pull(self) -> None:
        async with aclosing(self.stage.files(b"/d", self.claim, recursive=False)) as files:
            async for file in files:
                self.named.append(file)

    @property
    def lister(self) -> FakeChild:
        return FakeChild.born[-1]

    def name(self, *paths: bytes, end: bool = False, code: str = "", number: int = 1) -> None:
        self.lister.say(child_messages.Entries(number, list(paths), end, code, ""))

    def again(self, deadline: float | None) -> Bench:
        """Ask for the directory once more, by another request."""
        self.claim = Claim(("client",), Lane.NORMAL, deadline=deadline)
        self.task = asyncio.ensure_future(self._pull())
        return self


def test_chunks_are_asked_for_one_by_one() -> None:
    async def test(_: ManualLoop) -> None:
        bench = Bench()
        await settle()
        bench.name(b"/d/a", b"/d/b")
        await settle()
        bench.name(b"/d/c", end=True)
        await bench.task
        assert bench.named == [b"/d/a", b"/d/b", b"/d/c"]
        kinds = [type(message).__name__ for message in bench.lister.received]
        assert kinds == ["ListerSetup", "List", "More", "Forget"]

    run(test)


def test_a_list_cut_short_names_what_it_has_and_says_why() -> None:
    async def test(_: ManualLoop) -> None:
        bench = Bench()
        await settle()
        bench.name(b"/d/a", end=True, code="too_many_entries")
        with pytest.raises(CodedError, match="too_many_entries"):
            await bench.task
        assert bench.named == [b"/d/a"]

    run(test)


def test_a_dead_lister_is_replaced_and_goes_on_behind_what_was_named() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench()
        await settle()
        bench.name(b"/d/a", b"/d/b")
        await settle()
        bench.lister.die()
        await loop.advance(0.2)
        assert child_messages.List(1, b"/d", False, 2) in bench.lister.received
        bench.name(b"/d/c", end=True)
        await bench.task
        assert bench.named == [b"/d/a", b"/d/b", b"/d/c"]

    run(test)


def test_a_listing_that_ends_while_nobody_waits_ends_in_silence() -> None:
    async def test(loop: ManualLoop) -> None:
        complaints: list[dict[str, object]] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        claim = Claim(("client",), Lane.NORMAL)
        stage = ListStage(SETUP, patience=10.0)
        stage.start()
        files = stage.files(b"/d", claim, recursive=False)
        async with aclosing(files):
            first = asyncio.ensure_future(anext(files))
            await settle()
            FakeChild.born[-1].say(child_messages.Entries(1, [b"/d/a", b"/d/b"], False, "", ""))
            assert await first == b"/d/a"
            claim.cancel("cancelled")
        gc.collect()
        assert complaints == []

    run(test)


def test_a_directory_that_kills_listers_is_given_up() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench()
        await settle()
        for _ in range(list_stage.DEATHS_WITHOUT_PROGRESS):
            bench.lister.die()
            await loop.advance(0.2)
        with pytest.raises(CodedError, match="listing_failed"):
            await bench.task

    run(test)


async def silence(loop: ManualLoop) -> FakeChild:
    """The lister says nothing for longer than it may."""
    await loop.advance(10.1)
    await loop.advance(WATCH_INTERVAL)
    return FakeChild.born[-1]


def test_a_directory_at_which_two_listers_are_stuck_is_unreadable() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench()
        await settle()
        for _ in range(list_stage.DEATHS_WITHOUT_PROGRESS):
            assert not bench.task.done()
            stuck = await silence(loop)
            assert stuck.killed
            stuck.die()
            await loop.advance(SPAWN.longest)
        with pytest.raises(CodedError, match="unreadable"):
            await bench.task

    run(test)


def test_a_stopped_lister_is_replaced_though_no_request_waits_long() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(deadline=loop.time() + 3.0)
        for number in range(4):
            if number:
                bench.again(loop.time() + 3.0)
            await settle()
            await loop.advance(3.1)
            with pytest.raises(CodedError, match="deadline"):
                await bench.task
        stopped = FakeChild.born[0]
        assert stopped.killed, "it was silent for all of them"
        stopped.die()
        await loop.advance(SPAWN.longest)
        bench.again(None)
        await settle()
        bench.name(b"/d/a", end=True, number=5)
        await bench.task
        assert bench.named == [b"/d/a"]

    run(test)


def test_the_first_to_wait_long_for_a_stopped_lister_is_listed_all_the_same() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench()
        await settle()
        (await silence(loop)).die()
        await loop.advance(SPAWN.longest)
        bench.name(b"/d/a", end=True)
        await bench.task
        assert bench.named == [b"/d/a"]

    run(test)


def test_only_the_directory_that_a_lister_was_at_is_blamed() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench()
        bad = bench.task
        await settle()
        bench.again(None)
        await settle()
        for _ in range(list_stage.DEATHS_WITHOUT_PROGRESS):
            lister = bench.lister
            asked = [message.number for message in lister.received if isinstance(message, child_messages.List)]
            if asked[0] == 2:
                bench.name(b"/d/a", number=2)
                await settle()
            lister.die()
            await loop.advance(SPAWN.longest)
        with pytest.raises(CodedError, match="listing_failed"):
            await bad
        assert not bench.task.done()
        bench.name(b"/d/b", end=True, number=2)
        await bench.task
        assert bench.named == [b"/d/a", b"/d/b"]

    run(test)


def test_listers_that_end_at_once_are_started_ever_later() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench()
        await settle()
        for _ in range(40):
            if FakeChild.born[-1].alive:
                FakeChild.born[-1].die()
            await loop.advance(0.1)
        assert len(FakeChild.born) <= 8
        with pytest.raises(CodedError, match="listing_failed"):
            await bench.task

    run(test)


def test_the_deadline_of_the_request_ends_its_listing_without_a_kill() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(deadline=loop.time() + 3.0)
        await settle()
        await loop.advance(3.1)
        with pytest.raises(CodedError, match="deadline"):
            await bench.task
        assert not bench.lister.killed

    run(test)


def test_a_cancel_ends_the_listing() -> None:
    async def test(_: ManualLoop) -> None:
        bench = Bench()
        await settle()
        bench.claim.cancel("cancelled")
        with pytest.raises(CodedError, match="cancelled"):
            await bench.task

    run(test)


def test_a_lister_that_cannot_be_killed_is_abandoned() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench()
        await settle()
        stuck = await silence(loop)
        await loop.advance(KILL_PATIENCE + 0.1)
        await loop.advance(SPAWN.longest)
        assert bench.lister is not stuck
        assert len(bench.stage.abandoned) == 1
        stuck.say(child_messages.Entries(1, [b"/late"], True, "", ""))
        stuck.die()
        assert bench.stage.abandoned == []
        bench.name(b"/d/a", end=True)
        await bench.task
        assert bench.named == [b"/d/a"]
        assert len(FakeChild.born) == 2

    run(test)


def test_a_lister_is_abandoned_as_soon_as_one_more_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(loop: ManualLoop) -> None:
        monkeypatch.setattr(list_stage, "most_abandoned", lambda: 0)
        bench = Bench()
        await settle()
        stuck = await silence(loop)
        await loop.advance(KILL_PATIENCE + 0.1)
        await loop.advance(SPAWN.longest)
        assert bench.lister is stuck
        monkeypatch.setattr(list_stage, "most_abandoned", lambda: 1)
        await loop.advance(SPAWN.longest)
        await loop.advance(SPAWN.longest)
        assert bench.lister is not stuck
        bench.name(end=True)
        await bench.task

    run(test)


def test_a_lister_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench()
        await settle()
        monkeypatch.setattr(FakeChild, "refusals", 1)
        bench.lister.die()
        await loop.advance(0.01)
        assert len(FakeChild.born) == 1
        await loop.advance(1.0)
        assert child_messages.List(1, b"/d", False, 0) in bench.lister.received
        bench.name(b"/d/c", end=True)
        await bench.task

    run(test)
