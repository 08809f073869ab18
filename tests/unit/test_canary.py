"""The canary: what it proves, when its silence is doubt, and what a wrong score does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nsfwd.errors import BundleError, CodedError
from nsfwd.pipeline.self_test import INTERVAL, PATIENCE, Canary
from tests.unit import manual


class Site:
    """A self-test whose engine answers as the test wants."""

    def __init__(self, loop: manual.ManualLoop) -> None:
        self.answers = self.right = True
        self.restarts = self.sent = 0
        self.scoring = SimpleNamespace(trusted=True, restart=self._restart)
        self.provable: list[Any] = [self]
        self.watch = Canary(loop, self)  # type: ignore[arg-type]

    def _restart(self) -> None:
        self.restarts += 1

    async def send_canary(self, model: Any) -> None:
        self.sent += 1
        if not self.answers:
            raise CodedError("deadline")
        if not self.right:
            raise BundleError("0.1, not 0.9")


def test_a_canary_that_comes_through_proves_readiness() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        site.watch.start()
        await manual.settle()
        for _ in range(10):
            await loop.advance(INTERVAL)
            assert site.watch.doubt() == ""
        assert site.sent == 10
        site.watch.stop()

    manual.run(scenario)


def test_its_silence_is_doubt_until_one_comes_through_again() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        site.answers = False
        await loop.advance(PATIENCE + 1)
        await site.watch.send()
        assert "no canary came through" in site.watch.doubt()
        assert "deadline" in site.watch.doubt()
        site.answers = True
        await site.watch.send()
        assert site.watch.doubt() == ""

    manual.run(scenario)


def test_a_wrong_score_restarts_the_engine() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        site.right = False
        await site.watch.send()
        assert site.restarts == 1

    manual.run(scenario)


def test_none_is_sent_without_a_golden_or_before_the_engine_is_trusted() -> None:
    async def scenario(loop: manual.ManualLoop) -> None:
        site = Site(loop)
        site.scoring.trusted = False
        await site.watch.send()
        site.scoring.trusted, site.provable = True, []
        await site.watch.send()
        await loop.advance(PATIENCE + 1)
        assert site.sent == 0
        assert site.watch.doubt() == ""

    manual.run(scenario)
