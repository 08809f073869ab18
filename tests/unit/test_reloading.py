"""Which changes a reload takes, and what the accounts say of batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from nsfwd.bundles.bundle_store import Bundle
from nsfwd.config import Settings
from nsfwd.errors import CodedError, SettingsError
from nsfwd.pipeline.infer.cost_curve import CostCurve
from nsfwd.server.context import ServerContext
from nsfwd.server.reloading import Reloader, check_reloadable
from nsfwd.systemd import Notifier


def test_a_setting_that_only_a_restart_changes_is_refused_by_name() -> None:
    check_reloadable(Settings(queue=5), Settings(queue=6, roots=("/srv",)))
    with pytest.raises(SettingsError, match="listen: a reload cannot change this"):
        check_reloadable(Settings(), Settings(listen=("tcp:127.0.0.1:1",)))


class SlowPipeline:
    """Takes up settings when it is let."""

    def __init__(self) -> None:
        self.ready, self.let, self.taken = asyncio.Event(), asyncio.Event(), 0

    async def reload(self, settings: Settings, bundles: Sequence[Bundle]) -> str:
        await self.let.wait()
        self.taken += 1
        if settings.queue == 13:
            raise SettingsError("not that one")
        return "beside"


def test_who_asks_while_a_reload_waits_for_its_turn_shares_it_and_what_is_there_when_it_begins() -> None:
    async def storm() -> tuple[int, int, list[Any]]:
        pipeline: Any = SlowPipeline()
        service = ServerContext(asyncio.get_running_loop(), Settings(), pipeline)
        written, read = [1], 0

        def reread() -> tuple[Settings, list[Bundle]]:
            nonlocal read
            read += 1
            return Settings(queue=written[-1]), []

        reloader = Reloader(reread, service, pipeline, Notifier({}), str)
        asked = [asyncio.ensure_future(reloader.reload())]
        while reloader.since is None:
            await asyncio.sleep(0)
        for queue in (*range(2, 9), 13):
            written.append(queue)
            asked.append(asyncio.ensure_future(reloader.reload()))
            await asyncio.sleep(0)
        pipeline.let.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        written.append(14)
        outcomes.append(await reloader.reload())
        assert service.settings.queue == 14
        return read, pipeline.taken, outcomes

    read, taken, outcomes = asyncio.run(asyncio.wait_for(storm(), 30))
    assert (read, taken) == (3, 3)
    assert [isinstance(outcome, CodedError) for outcome in outcomes] == [False] + [True] * 8 + [False]


def test_the_cost_of_batches_is_a_line() -> None:
    curve = CostCurve()
    assert curve.fit() is None
    for size in (1, 1, 8):
        curve.add(size, 0.01 + 0.002 * size)
    assert curve.fit() == pytest.approx((0.01, 0.002))


def test_one_size_is_no_line() -> None:
    curve = CostCurve()
    for _ in range(1000):
        curve.add(3, 0.1)
    assert curve.fit() is None
