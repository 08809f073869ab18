"""How one generation follows another: beside it, after its end, and back when the new one cannot serve."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from nsfwd.errors import BundleError, CodedError, EngineError
from nsfwd.pipeline.queueing.admission import Admission
from nsfwd.pipeline.queueing.tickets import Claim, Ticket
from nsfwd.pipeline.reload.reload_coordinator import ReloadCoordinator
from nsfwd.pipeline.stats import LONGEST_LOAD
from nsfwd.protocol.messages import Lane
from tests.unit import manual


class Generation:
    """Its processes start when they are told to; what comes of them is the test's to say."""

    def __init__(self, site: Site, settings: Any) -> None:
        self.site, self.settings, self.bundles = site, settings, ()
        self.alive = False
        self.left = asyncio.Event()
        self.left.set()

    def processes(self) -> list[int]:
        return [7, 7]

    def inherit_counters(self, former: Generation) -> None: ...

    def start(self) -> None:
        self.alive = True
        self.site.most = max(self.site.most, sum(generation.alive for generation in self.site.made))

    async def stop(self, timeout: float) -> None:
        self.alive = False

    async def empty(self) -> None:
        await self.left.wait()


class Lister:
    def start(self) -> None: ...

    async def unused(self) -> None: ...

    async def stop(self, timeout: float) -> None: ...


class Handover(ReloadCoordinator):
    """Its generations are the test's."""

    def __init__(self, site: Site) -> None:
        self.site = site
        settings: Any = SimpleNamespace(reload_mode="auto", name="first", overrides="none", queue=100)
        super().__init__(settings, (), site.admission, None, None)  # type: ignore[arg-type]

    def build(self, settings: Any, bundles: Any) -> Any:
        self.site.made.append(Generation(self.site, settings))
        return self.site.made[-1]

    def build_lister(self, settings: Any) -> Any:
        return Lister()


class Site:
    """The reloads of a pipeline without one."""

    def __init__(self, loop: manual.ManualLoop) -> None:
        self.loop = loop
        self.made: list[Generation] = []
        self.most = 0
        self.admission = Admission(100, loop)
        self.handover = Handover(self)
        self.generation.start()
        self.ready.set()

    @property
    def generation(self) -> Any:
        return self.handover.generation

    @property
    def ready(self) -> asyncio.Event:
        return self.handover.ready

    @property
    def fault(self) -> Any:
        return self.handover.failed.exception() if self.handover.failed.done() else None

    def reload(self, mode: str) -> asyncio.Task[str]:
        settings: Any = SimpleNamespace(reload_mode=mode, name="second", queue=100)
        return asyncio.ensure_future(self.handover.reload(settings, ()))

    def ask(self, time_limit: float | None = None) -> tuple[Ticket, asyncio.Task[Any]]:
        """An image that is asked for while the gate is closed."""
        ticket = self.admission.admit(Claim(("someone",), Lane.NORMAL, time_limit=time_limit))
        return ticket, asyncio.ensure_future(self.handover.enter(ticket))


def test_beside_the_old_one_serves_until_the_new_one_is_proved() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        first = site.generation
        first.left.clear()
        task = site.reload("beside")
        await manual.settle()
        assert site.generation is first
        assert site.handover.gate is None
        assert site.handover.settle(site.made[1])  # type: ignore[arg-type]
        assert await task == "beside"
        assert site.generation is site.made[1]
        assert first.alive
        first.left.set()
        await manual.settle()
        assert not first.alive
        assert (site.most, site.handover.done) == (2, 1)

    manual.run(scenario)


@pytest.mark.parametrize("mode", ["beside", "drain"])
def test_an_engine_that_is_never_ready_is_given_up(mode: str) -> None:
    """Then what served before serves, at once or started again."""

    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        task = site.reload(mode)
        await manual.settle()
        await loop.advance(LONGEST_LOAD - 1)
        assert not task.done()
        await loop.advance(2)
        if mode == "drain":
            site.handover.settle(site.made[2])  # type: ignore[arg-type]
        with pytest.raises(EngineError, match="was not ready within 600 s"):
            await task
        assert not site.made[1].alive
        assert site.generation.settings.name == "first"
        assert (site.handover.done, site.fault) == (0, None)

    manual.run(scenario)


def test_after_the_old_one_whatever_is_asked_waits_and_two_never_live() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        first = site.generation
        first.left.clear()
        task = site.reload("drain")
        await manual.settle()
        _, asked = site.ask()
        await manual.settle()
        assert first.alive
        first.left.set()
        await manual.settle()
        assert not first.alive
        assert not asked.done()
        assert not site.ready.is_set()
        site.handover.settle(site.made[1])  # type: ignore[arg-type]
        assert await task == "drain"
        assert await asked is site.made[1]
        assert (site.most, site.handover.done, site.handover.gate) == (1, 1, None)

    manual.run(scenario)


def test_who_waits_has_a_deadline() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        task = site.reload("drain")
        await manual.settle()
        _, asked = site.ask(time_limit=5.0)
        _, patient = site.ask()
        await loop.advance(10.0)
        with pytest.raises(CodedError, match="deadline"):
            await asked
        site.handover.settle(site.made[1])  # type: ignore[arg-type]
        await task
        assert await patient is site.made[1]

    manual.run(scenario)


def test_where_the_new_one_cannot_serve_the_old_settings_come_back() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        task = site.reload("drain")
        await manual.settle()
        _, asked = site.ask()
        site.handover.settle(site.made[1], BundleError("goldens drift"))  # type: ignore[arg-type]
        await manual.settle()
        assert not site.made[1].alive
        assert site.made[2].settings.name == "first"
        site.handover.settle(site.made[2])  # type: ignore[arg-type]
        with pytest.raises(BundleError, match="goldens drift"):
            await task
        assert await asked is site.made[2]
        assert site.generation is site.made[2]
        assert (site.most, site.handover.done, site.fault) == (1, 0, None)
        assert site.ready.is_set()

    manual.run(scenario)


def test_where_neither_can_serve_the_daemon_has_to_end() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        task = site.reload("drain")
        await manual.settle()
        site.handover.settle(site.made[1], BundleError("bad"))  # type: ignore[arg-type]
        await manual.settle()
        site.handover.settle(site.made[2], BundleError("worse"))  # type: ignore[arg-type]
        with pytest.raises(BundleError, match="worse"):
            await task
        assert str(site.fault) == "worse"

    manual.run(scenario)


def test_a_stop_answers_who_waits_and_starts_nothing_again() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        task = site.reload("drain")
        await manual.settle()
        ticket, asked = site.ask()
        await manual.settle()
        site.admission.draining = True
        site.handover.drain()
        with pytest.raises(CodedError, match="draining"):
            await task
        with pytest.raises(CodedError):
            await asked
        assert ticket.settled is not None
        assert ticket.settled.code == "draining"
        await site.handover.stop()
        assert len(site.made) == 2
        assert not any(generation.alive for generation in site.made)

    manual.run(scenario)


def test_a_stop_while_the_old_one_still_works_lets_it_finish() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        first = site.generation
        first.left.clear()
        task = site.reload("drain")
        await manual.settle()
        _, asked = site.ask()
        await manual.settle()
        site.admission.draining = True
        site.handover.drain()
        first.left.set()
        with pytest.raises(CodedError, match="draining"):
            await task
        assert await asked is first
        assert first.alive
        assert site.most == 1

    manual.run(scenario)


@pytest.mark.parametrize(("room", "mode"), [(True, "beside"), (False, "drain")])
def test_memory_decides_where_no_setting_does(monkeypatch: pytest.MonkeyPatch, room: bool, mode: str) -> None:
    asked: list[list[int]] = []

    def holds_two(pids: list[int]) -> bool:
        asked.append(pids)
        return room

    monkeypatch.setattr("nsfwd.pipeline.reload.reload_coordinator.memory_headroom.holds_two", holds_two)

    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        task = site.reload("auto")
        await manual.settle()
        site.handover.settle(site.made[1])  # type: ignore[arg-type]
        assert await task == mode
        assert asked == [[7, 7]]

    manual.run(scenario)
