"""The self-test proves engines while images hold every slot, descriptors are short, or the daemon stops."""

from __future__ import annotations

import asyncio
import errno
import os
from array import array
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nsfwd.bundles.bundle_store import open_bundle
from nsfwd.config import Settings
from nsfwd.errors import BundleError, CodedError, NsfwdError
from nsfwd.ipc import child_messages
from nsfwd.overrides.override_watcher import OverrideWatcher
from nsfwd.pipeline import self_test
from nsfwd.pipeline.decode import decoder_pool
from nsfwd.pipeline.decode.poison_list import PoisonList
from nsfwd.pipeline.generation import Generation
from nsfwd.pipeline.infer import engine_supervisor
from nsfwd.pipeline.infer.served_model import ServedModel
from nsfwd.pipeline.queueing.admission import Admission
from nsfwd.pipeline.queueing.tickets import Claim
from nsfwd.protocol.messages import Image, Lane
from tests.echo_bundle import LABELS, echo_bundle
from tests.unit.fakes import FakeChild
from tests.unit.manual import ManualLoop, run, settle

GOLDENS = 2


@pytest.fixture(autouse=True)
def fake_children(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeChild.born = []
    monkeypatch.setattr(engine_supervisor, "Child", FakeChild)
    monkeypatch.setattr(decoder_pool, "Child", FakeChild)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return echo_bundle(tmp_path_factory.mktemp("models"))


class Bench:
    """A generation with one decoder and an engine, whose parts the test plays."""

    def __init__(self, loop: ManualLoop, directory: Path) -> None:
        self.loop = loop
        self.proven = 0
        self.broken: list[NsfwdError] = []
        self.admission = Admission(1000, loop)
        self.generation = Generation(
            Settings(max_batch=4),
            [open_bundle(directory)],
            workers=1,
            poison=PoisonList(Path("/dev/null/nowhere")),
            overriding=OverrideWatcher("none"),
            self_test=partial(self_test.SelfTest, own_ticket=self.admission.own_ticket),
            on_proven=self._proven,
            on_broken=lambda _, error: self.broken.append(error),
        )
        self.images: list[asyncio.Task[Any]] = []
        self._decoded = 0
        self._batches: dict[int, int] = {}

    @property
    def test(self) -> self_test.SelfTest:
        assert isinstance(self.generation.self_test, self_test.SelfTest)
        return self.generation.self_test

    def _proven(self, _generation: Generation) -> None:
        self.proven += 1

    @property
    def model(self) -> ServedModel:
        return self.generation.models[0]

    @property
    def engine(self) -> FakeChild:
        return [child for child in FakeChild.born if child.name == "engine"][-1]

    @property
    def decoder(self) -> FakeChild:
        return [child for child in FakeChild.born if child.name != "engine"][-1]

    @property
    def free(self) -> int:
        return self.generation.slots.free

    async def started(self) -> None:
        """Started, and trusted once both parts have done what they are for."""
        self.generation.start()
        await settle()
        self.greet()
        await self.decode()
        await self.prove()
        assert (self.proven, self.broken) == (1, [])

    def greet(self) -> None:
        self.engine.say(child_messages.EngineReady("echo", "cpu", "f32", [1, 4], 0.0, 0.0))

    async def decode(self, code: str = "") -> None:
        """Have the decoder do what it was given and what it is given then."""
        while self._decoded < len(self.decoder.jobs()):
            jobs = self.decoder.jobs()[self._decoded :]
            self._decoded += len(jobs)
            for job in jobs:
                done = child_messages.Decoded(job.number, job.slot, job.lease_id, code, "", 0.01)
                self.decoder.say(child_messages.DecodedGroup([done]))
            await settle()

    async def prove(self) -> None:
        """Answer the goldens, one after the other, as they must be scored."""
        await settle()
        for golden in self.model.bundle.manifest.goldens:
            batch = self.next_batch()
            assert batch.slots[0] >= self.generation.slots.count, "a slot that no image ever gets"
            rows = array("f", [golden.scores[label] for label in LABELS])
            self.engine.say(child_messages.Scores(batch.number, rows.tobytes(), 0.01, ""))
            await settle()

    def next_batch(self) -> child_messages.Batch:
        at = self._batches.get(id(self.engine), 0)
        batch = self.engine.batches()[at]
        self._batches[id(self.engine)] = at + 1
        return batch

    def answer(self, batch: child_messages.Batch) -> None:
        rows = array("f", [0.2] * len(LABELS) * len(batch.slots))
        self.engine.say(child_messages.Scores(batch.number, rows.tobytes(), 0.01, ""))

    async def fill(self) -> None:
        """Ask for images, which have no deadline, until they hold every slot."""
        for number in range(self.generation.slots.count + 8):
            self.images.append(asyncio.ensure_future(self._scan(f"/{number}")))
        while self.free:
            before = self.free
            await settle()
            await self.decode()
            claim = Claim((f"new{self.free}",), Lane.NORMAL)  # the last slots are kept for who only begins to ask
            self.images.append(asyncio.ensure_future(self._scan("/new", claim)))
            assert self.free < before or not self.free

    async def _scan(self, path: str, claim: Claim | None = None) -> Any:
        ticket = self.admission.admit(claim or Claim(("crowd",), Lane.NORMAL))
        try:
            await self.generation.decoding.decode(Image(path.encode()), ticket)
            return await self.generation.models[0].scoring.score(ticket)
        finally:
            self.generation.leave(ticket)
            self.admission.leave(ticket)

    async def finish(self) -> None:
        """Let every image come to its end."""
        while not all(image.done() for image in self.images):
            await self.decode()
            while self._batches.get(id(self.engine), 0) < len(self.engine.batches()):
                self.answer(self.next_batch())
            await settle()

    async def stop(self) -> None:
        for image in self.images:
            image.cancel()
        await asyncio.gather(*self.images, return_exceptions=True)
        await self.generation.stop(1.0)
        await settle()


def test_an_engine_is_proved_while_waiting_images_hold_every_slot(directory: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        await bench.started()
        await bench.fill()
        asked = len(bench.decoder.jobs())
        for _ in range(3):  # before it is proved, and while it is
            bench.engine.die()
            await loop.advance(5.0)
            bench.greet()
            await settle()
            assert bench.free == 0
        await bench.prove()
        assert bench.proven == 2
        assert len(bench.decoder.jobs()) == asked, "the goldens' pixels are kept"
        await bench.finish()
        assert [list(image.result()) for image in bench.images] == [pytest.approx([0.2] * 5)] * len(bench.images)
        assert bench.free == bench.generation.slots.count
        await bench.stop()

    run(test)


def test_the_canary_comes_through_while_waiting_images_hold_every_slot(directory: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        await bench.started()
        await bench.fill()
        canary = asyncio.ensure_future(bench.test.send_canary(bench.model))
        await settle()
        await bench.decode()
        held = [bench.next_batch(), bench.next_batch()]
        bench.answer(held[0])
        golden = bench.model.bundle.manifest.goldens[0]
        batch = bench.next_batch()
        assert batch.slots == [bench.generation.slots.count + GOLDENS], "before all that wait, alone"
        rows = array("f", [golden.scores[label] for label in LABELS])
        bench.engine.say(child_messages.Scores(batch.number, rows.tobytes(), 0.01, ""))
        await canary
        await bench.stop()

    run(test)


def test_a_canary_behind_decoders_that_hang_keeps_no_engine_from_being_proved(directory: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        await bench.started()
        canary = asyncio.ensure_future(bench.test.send_canary(bench.model))
        await settle()
        assert bench.decoder.jobs()[-1].slot == bench.generation.slots.count + GOLDENS
        bench.engine.die()
        await loop.advance(1.0)
        bench.greet()
        await bench.prove()
        assert bench.proven == 2
        await loop.advance(self_test.PATIENCE)
        with pytest.raises(CodedError, match="deadline"):
            await canary
        await bench.stop()

    run(test)


def test_goldens_wait_for_descriptors_and_never_break_the_generation(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EMFILE]
    make = os.memfd_create

    def scarce(name: str, flags: int) -> int:
        if name == "nsfwd-golden" and refusals:
            raise OSError(refusals[-1], os.strerror(refusals.pop()))
        return make(name, flags)

    monkeypatch.setattr(os, "memfd_create", scarce)

    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        bench.generation.start()
        for _ in range(5):
            await loop.advance(self_test.RETRY)
        assert not refusals
        bench.greet()
        await bench.decode()
        await bench.prove()
        assert (bench.proven, bench.broken) == (1, [])
        await bench.stop()

    run(test)


def test_a_restart_needs_no_descriptor(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        await bench.started()

        def none_left(*_: Any) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as short:
            for name in ("memfd_create", "open", "dup"):
                short.setattr(os, name, none_left)
            bench.engine.die()
            await loop.advance(1.0)
            bench.greet()
            await bench.prove()
        assert (bench.proven, bench.broken) == (2, [])
        await bench.stop()

    run(test)


def test_a_golden_that_a_decoder_failed_on_by_chance_is_tried_again(directory: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        bench.generation.start()
        await settle()
        bench.greet()
        await bench.decode("decode_timeout")
        await loop.advance(self_test.RETRY)
        await bench.decode()
        await bench.prove()
        assert (bench.proven, bench.broken) == (1, [])
        await bench.stop()

    run(test)


@pytest.mark.parametrize(("code", "tries"), [("corrupt", 1), ("decoder_died", self_test.TRIES)])
def test_a_golden_that_cannot_be_decoded_breaks_the_generation(directory: Path, code: str, tries: int) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        bench.generation.start()
        await settle()
        for _ in range(tries):
            assert bench.broken == []
            await bench.decode(code)
            await loop.advance(self_test.RETRY)
        assert len(bench.broken) == 1
        assert "golden photo90" in str(bench.broken[0])
        await bench.stop()

    run(test)


def test_a_missing_golden_breaks_the_generation(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, echo_bundle(tmp_path))
        (tmp_path / "echo" / "goldens" / "photo902.png").unlink()
        bench.generation.start()
        await settle()
        assert "photo902.png: No such file" in str(bench.broken[0])
        await bench.stop()

    run(test)


def test_an_engine_that_died_between_two_goldens_is_not_trusted_for_the_next_ones_sake(directory: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        bench.generation.start()
        await settle()
        bench.greet()
        await bench.decode()
        golden = bench.model.bundle.manifest.goldens[0]
        rows = array("f", [golden.scores[label] for label in LABELS])
        bench.engine.say(child_messages.Scores(bench.next_batch().number, rows.tobytes(), 0.01, ""))
        bench.engine.die()  # before anybody has heard of the scores
        await loop.advance(1.0)
        bench.greet()
        await bench.prove()
        assert bench.proven == 1
        assert len(bench.engine.batches()) == GOLDENS, "all of them, once"
        await bench.stop()

    run(test)


def test_an_engine_that_fails_on_the_goldens_is_restarted_but_not_for_ever(directory: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        bench.generation.start()
        await settle()
        await bench.decode()
        for _ in range(self_test.TRIES):
            assert bench.broken == []
            bench.greet()
            await settle()
            bench.engine.say(child_messages.Scores(bench.next_batch().number, b"", 0.01, "out of memory"))
            await settle()
            if bench.engine.killed:
                bench.engine.die()
            await loop.advance(100.0)
        assert [str(error) for error in bench.broken] == ["nsfw: the goldens cannot be scored: out of memory"]
        await bench.stop()

    run(test)


def test_wrong_scores_break_the_generation(directory: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        bench.generation.start()
        await settle()
        bench.greet()
        await bench.decode()
        bench.answer(bench.next_batch())
        await settle()
        assert isinstance(bench.broken[0], BundleError)
        assert "photo901.png scored 0.2000 for" in str(bench.broken[0])
        assert not bench.generation.models[0].scoring.trusted
        await bench.stop()

    run(test)


def test_an_engine_is_proved_while_the_daemon_drains(directory: Path) -> None:
    """The images that were admitted before are scored by it."""

    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, directory)
        await bench.started()
        await bench.fill()
        bench.admission.draining = True
        bench.engine.die()
        await loop.advance(1.0)
        bench.greet()
        await bench.prove()
        await bench.finish()
        assert bench.proven == 2
        await bench.stop()

    run(test)
