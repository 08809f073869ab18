"""A GPU that is lost while running: the end, or the CPU, but never in silence."""

from __future__ import annotations

import pytest

from nsfwd.errors import EngineError
from nsfwd.ipc import child_messages
from nsfwd.pipeline.infer import engine_supervisor
from nsfwd.pipeline.infer.score_stage import ScoreStage
from nsfwd.pipeline.queueing.slots import Slots
from tests.unit.fakes import FakeArena, FakeChild
from tests.unit.manual import ManualLoop, run

SETUP = child_messages.EngineSetup("", "auto", "auto", "", "bf16", 4, 12, "")
GPU = child_messages.EngineReady("keras/jax", "gpu H9000", "bf16", [1, 4], 0.0, 0.0)
CPU = child_messages.EngineReady("openvino", "cpu", "bf16", [1, 4], 0.0, 0.0)
LOST = child_messages.EngineLost("CUDA_ERROR_ECC_UNCORRECTABLE")


@pytest.fixture(autouse=True)
def fake_children(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeChild.born = []
    monkeypatch.setattr(engine_supervisor, "Child", FakeChild)


class Bench:
    """A score stage whose first engine is warm on a GPU."""

    def __init__(self, loop: ManualLoop, on_device_loss: str, first: child_messages.EngineReady = GPU) -> None:
        self.loop = loop
        self.broken: list[EngineError] = []
        self.stage = ScoreStage(
            FakeArena(),  # type: ignore[arg-type]  # only its descriptor is used
            Slots(8, lambda: None),
            SETUP,
            labels=2,
            on_device_loss=on_device_loss,
            on_warm=lambda: None,
            on_broken=self.broken.append,
        )
        self.stage.start()
        self.engine.say(first)

    @property
    def engine(self) -> FakeChild:
        return FakeChild.born[-1]

    @property
    def asked_for(self) -> str:
        """The device that the youngest engine was told."""
        setup = self.engine.received[0]
        assert isinstance(setup, child_messages.EngineSetup)
        return setup.device

    async def restart(self) -> None:
        self.engine.die()
        await self.loop.advance(1.0)


def test_a_lost_gpu_is_tried_once_more_and_nothing_is_trusted_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, "refuse")
        bench.stage.trust()
        bench.engine.say(LOST)
        assert bench.engine.killed
        assert not bench.stage.trusted
        assert "CUDA_ERROR_ECC_UNCORRECTABLE; the engine is started again" in caplog.text
        await bench.restart()
        assert (len(FakeChild.born), bench.asked_for) == (2, "gpu")
        bench.engine.say(GPU)
        assert not bench.broken

    run(test)


def test_refuse_ends_with_the_cause_and_what_to_set() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, "refuse")
        bench.engine.say(LOST)
        await bench.restart()
        bench.engine.say(child_messages.EngineFailed("CUDA_ERROR_NO_DEVICE"))
        assert "CUDA_ERROR_NO_DEVICE" in str(bench.broken[0])
        assert "on_device_loss = cpu" in str(bench.broken[0])
        await bench.restart()
        assert len(FakeChild.born) == 2

    run(test)


def test_cpu_goes_on_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, "cpu")
        bench.engine.say(LOST)
        await bench.restart()
        assert bench.asked_for == "cpu"
        bench.engine.say(CPU)
        assert bench.stage.supervisor.engine is not None
        assert "the GPU was lost (CUDA_ERROR_ECC_UNCORRECTABLE)" in bench.stage.supervisor.engine.note
        assert "running on the CPU" in caplog.text
        assert not bench.broken

    run(test)


def test_a_dead_engine_is_followed_by_one_on_the_same_device() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, "refuse")
        await bench.restart()
        assert bench.asked_for == "gpu"  # auto would take the CPU in silence
        bench.engine.say(GPU)
        assert not bench.broken

    run(test)


@pytest.mark.parametrize(("setting", "ends"), [("refuse", True), ("cpu", False)])
def test_a_gpu_that_the_next_engine_does_not_find_is_lost(setting: str, *, ends: bool) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, setting)
        await bench.restart()
        bench.engine.say(child_messages.EngineFailed("TensorFlow sees no GPU"))
        assert bool(bench.broken) is ends
        await bench.restart()
        assert len(FakeChild.born) == (2 if ends else 3)

    run(test)


def test_an_engine_that_was_never_on_a_gpu_stays_where_it_is() -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, "refuse", first=CPU)
        await bench.restart()
        assert bench.asked_for == "auto"
        bench.engine.say(child_messages.EngineFailed("no memory"))
        assert [str(error) for error in bench.broken] == ["no memory"]

    run(test)


def test_what_gets_worse_while_it_works_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, "cpu")
        bench.engine.say(child_messages.EngineNote("out of memory at 4 images", [1, 2]))
        assert "engine: out of memory at 4 images" in caplog.text
        engine = bench.stage.supervisor.engine
        assert engine is not None
        assert (engine.note, engine.buckets) == ("out of memory at 4 images", [1, 2])

    run(test)


def test_what_takes_long_at_the_start_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def test(loop: ManualLoop) -> None:
        bench = Bench(loop, "cpu")
        await bench.restart()
        bench.engine.say(child_messages.EngineNote("making a network", []))
        assert "engine: making a network" in caplog.text
        assert bench.stage.supervisor.engine is None

    run(test)
