"""A generation with two models: who decodes what, who scores it, and what is told of whom."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsfwd.bundles.bundle_store import Bundle, open_bundle
from nsfwd.bundles.manifest import FrameSampling
from nsfwd.config import Settings
from nsfwd.errors import CodedError, NsfwdError, SettingsError
from nsfwd.ipc import child_messages
from nsfwd.overrides.override_watcher import OverrideWatcher
from nsfwd.pipeline.decode import decoder_pool
from nsfwd.pipeline.decode.poison_list import PoisonList
from nsfwd.pipeline.generation import Generation
from nsfwd.pipeline.infer import engine_supervisor
from nsfwd.pipeline.pipeline import Pipeline
from nsfwd.pipeline.queueing.admission import Admission
from nsfwd.pipeline.queueing.tickets import Claim
from nsfwd.pipeline.self_test import SelfTest
from nsfwd.pipeline.stats import PipelineStatus
from nsfwd.protocol.messages import Frame, Image, Judgement, Lane
from tests.echo_bundle import LABELS, echo_bundle
from tests.unit.fakes import FakeChild
from tests.unit.manual import ManualLoop, run, settle

STAMP: child_messages.Stamp = (1, 2, 3, (4, 0), (5, 0))
SAFE = [0.1, 0.1, 0.6, 0.1, 0.1]
EXPLICIT = [0.0, 0.0, 0.1, 0.9, 0.0]


@pytest.fixture(autouse=True)
def fake_children(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeChild.born = []
    monkeypatch.setattr(engine_supervisor, "Child", FakeChild)
    monkeypatch.setattr(decoder_pool, "Child", FakeChild)


class Bench:
    """A generation of two models, whose decoder and engines do at once what they are asked."""

    def __init__(self, loop: ManualLoop, bundles: list[Bundle], **settings: Any) -> None:
        self.proven = 0
        self.broken: list[NsfwdError] = []
        self.admission = Admission(1000, loop)
        self.generation = Generation(
            Settings(max_batch=4, **settings),
            bundles,
            workers=1,
            poison=PoisonList(Path("/dev/null/nowhere")),
            overriding=OverrideWatcher("none"),
            self_test=partial(SelfTest, own_ticket=self.admission.own_ticket),
            on_proven=self._proven,
            on_broken=lambda _, error: self.broken.append(error),
        )
        self.scores = [SAFE, EXPLICIT]
        self.frames = [1, 1]
        self.jobs: list[child_messages.Job] = []
        self.batches: list[tuple[int, list[int]]] = []

    def _proven(self, _generation: Generation) -> None:
        self.proven += 1

    async def start(self) -> None:
        self.generation.start()
        await settle()
        self.decoder, *self.engines = sorted(FakeChild.born, key=lambda child: child.name == "engine")
        (self.setup,) = (one for one in self.decoder.received if isinstance(one, child_messages.DecoderSetup))
        for engine in self.engines:
            engine.say(child_messages.EngineReady("echo", "cpu", "f32", [1, 4], 0.0, 0.0))
        await self.work()
        self.jobs.clear()
        self.batches.clear()

    async def work(self) -> None:
        """Let the children do all that they are asked."""
        busy = True
        while busy:
            await settle()
            jobs, batches = self.decoder.jobs(), [engine.batches() for engine in self.engines]
            for child in (self.decoder, *self.engines):
                child.received.clear()
            for job in jobs:
                self._decode(job)
            for number, theirs in enumerate(batches):
                for batch in theirs:
                    self._score(number, batch)
            busy = bool(jobs or any(batches))

    def _decode(self, job: child_messages.Job) -> None:
        self.jobs.append(job)
        view, frames = job.view, self.frames[job.recipe]
        result = child_messages.Decoded(
            job.number,
            job.slot,
            job.lease_id,
            "",
            "",
            0.01,
            next=view + 1 if view + 1 < frames else 0,
            frame=view,
            frames=max(self.frames),
            sampled=frames,
            stamp=STAMP,
        )
        self.decoder.say(child_messages.DecodedGroup([result]))

    def _score(self, number: int, batch: child_messages.Batch) -> None:
        self.batches.append((number, batch.slots))
        model, rows = self.generation.models[number], array("f")
        for slot in batch.slots:
            golden = slot - self.generation.slots.count - model.first_slot
            if 0 <= golden <= len(model.goldens):
                pinned = model.goldens[golden % len(model.goldens)][0].scores
                rows.extend(pinned[label] for label in LABELS)
            else:
                rows.extend(self.scores[number])
        self.engines[number].say(child_messages.Scores(batch.number, rows.tobytes(), 0.01, ""))

    async def scan(self, *models: str) -> tuple[Judgement, Frame | None]:
        claim = Claim(("client",), Lane.NORMAL, models=models)
        ticket = self.admission.admit(claim)
        generation = self.generation
        task = asyncio.ensure_future(self._scan(ticket))
        await self.work()
        try:
            return generation.judge(await task)
        finally:
            generation.leave(ticket)
            self.admission.leave(ticket)
            assert generation.slots.free == generation.slots.count

    async def _scan(self, ticket: Any) -> Any:
        image = Image(b"/a")
        decoded = await self.generation.cached_or_decoded(image, ticket)
        assert isinstance(decoded, child_messages.Decoded)
        return await self.generation.infer(image, ticket, decoded)


def bundles(directory: Path, *sides: int) -> list[Bundle]:
    """Echo bundles of pictures of these sides, called ``a``, ``b`` ..."""
    names = "abc"[: len(sides)]
    return [
        replace(open_bundle(echo_bundle(directory, f"echo-{name}", side=side)), name=name)
        for name, side in zip(names, sides, strict=True)
    ]


def test_an_image_is_decoded_once_for_each_recipe_into_slots_that_hold_the_largest(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, bundles(tmp_path, 32, 64))
        await bench.start()
        assert [recipe["width"] for recipe in bench.setup.recipes] == [32, 64]
        assert bench.setup.slot_bytes == 64 * 64 * 3
        judgement, _ = await bench.scan()
        assert [(job.recipe, job.view, job.stamp) for job in bench.jobs] == [(0, 0, None), (1, 0, STAMP)]
        assert [number for number, _ in bench.batches] == [0, 1]
        assert list(judgement.scores) == ["a", "b"]
        assert judgement.scores["b"]["porn"] == pytest.approx(0.9)
        assert (judgement.verdict, judgement.alarm, judgement.because.model) == ("sensitive", True, "b")
        await bench.generation.stop(1.0)

    run(test)


def test_models_of_one_recipe_score_the_same_pixels_in_turn(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, bundles(tmp_path, 32, 32))
        await bench.start()
        judgement, _ = await bench.scan()
        assert len(bench.jobs) == 1
        (first, slots), (second, same) = bench.batches
        assert (first, second) == (0, 1)
        assert slots == same
        assert judgement.verdicts == {"a": "safe", "b": "sensitive"}
        await bench.generation.stop(1.0)

    run(test)


def test_a_claim_may_ask_some_of_the_models(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, bundles(tmp_path, 32, 64))
        await bench.start()
        judgement, _ = await bench.scan("b")
        assert [job.recipe for job in bench.jobs] == [1]
        assert (list(judgement.scores), list(judgement.model), judgement.label) == (["b"], ["b"], "porn")
        judgement, _ = await bench.scan("a")
        assert (list(judgement.scores), judgement.verdict) == (["a"], "safe")
        with pytest.raises(CodedError, match="no such model: c"):
            await bench.scan("c")
        await bench.generation.stop(1.0)

    run(test)


def test_each_model_judges_the_frames_that_it_saw(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, bundles(tmp_path, 32, 64))
        await bench.start()
        bench.frames = [3, 1]
        judgement, frame = await bench.scan()
        assert [(job.recipe, job.view) for job in bench.jobs] == [(0, 0), (0, 1), (0, 2), (1, 0)]
        assert judgement.verdicts == {"a": "safe", "b": "sensitive"}
        assert frame == Frame(0, 3, 3, "")
        await bench.generation.stop(1.0)

    run(test)


def test_images_are_scored_once_every_engine_is_proved(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, bundles(tmp_path, 32, 64))
        await bench.start()
        assert (bench.proven, bench.broken, bench.generation.trusted) == (1, [], True)
        bench.engines[1].die()
        await settle()
        assert not bench.generation.trusted
        assert bench.generation.models[0].scoring.trusted
        await bench.generation.stop(1.0)

    run(test)


def test_a_canary_goes_to_every_model(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, bundles(tmp_path, 32, 64))
        await bench.start()
        test = bench.generation.self_test
        assert isinstance(test, SelfTest)
        sent = asyncio.ensure_future(test.canary.send())
        await bench.work()
        await sent
        assert [(job.recipe, job.descriptor) for job in bench.jobs] == [(0, True), (1, True)]
        assert [number for number, _ in bench.batches] == [0, 1]
        assert test.doubt() == ""
        await bench.generation.stop(1.0)

    run(test)


def test_what_one_set_of_models_said_is_no_answer_for_another(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, bundles(tmp_path, 32, 64), cache="on", cache_dir=str(tmp_path))
        cache = bench.generation.cache
        assert cache is not None
        claims = [Claim(("client",), Lane.NORMAL, models=models) for models in ((), ("a",), ("b",))]
        tickets = [bench.admission.admit(claim) for claim in claims]
        cache.keep("0" * 64, claims[1], Any)  # type: ignore[arg-type]
        found = [cache._hit("digest", (1, 2, 3, (4, 0), (5, 0), "0" * 64), ticket) for ticket in tickets]
        assert [hit is not None for hit in found] == [False, True, False]
        bench.generation.arena.close()

    run(test)


def test_stats_tell_of_every_engine(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, bundles(tmp_path, 32, 64))
        await bench.start()
        await bench.scan("b")
        pipeline = Pipeline(Settings(cache_dir=str(tmp_path)), bundles(tmp_path / "one", 32))
        pipeline.serving.generation = bench.generation
        status: PipelineStatus = pipeline.status
        stats = status.stats()
        assert [engine["model"] for engine in stats["engines"]] == ["a", "b"]
        assert [engine["images"] for engine in stats["engines"]] == [2, 3], "goldens, and one image"
        assert stats["engine"] == stats["engines"][0]
        assert list(status.work()) == ["decoders", "engine of a", "engine of b"]
        await bench.generation.stop(1.0)

    run(test)


def test_a_daemon_serves_one_so_far(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        with pytest.raises(SettingsError, match="exactly one bundle"):
            Pipeline(Settings(cache_dir=str(tmp_path)), bundles(tmp_path, 32, 64))

    run(test)


def test_recipes_that_differ_only_behind_the_pixels_are_decoded_once(tmp_path: Path) -> None:
    async def test(loop: ManualLoop) -> None:
        one, other = bundles(tmp_path, 32, 32)
        recipe = msgspec.structs.replace(
            other.manifest.recipe, scale=2.0, channels="bgr", frames=FrameSampling(sample=1, combine="mean")
        )
        other = replace(other, manifest=msgspec.structs.replace(other.manifest, recipe=recipe))
        bench = Bench(loop, [one, other])
        assert [model.recipe for model in bench.generation.models] == [0, 0]
        bench.generation.arena.close()

    run(test)
