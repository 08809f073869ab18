"""Files that crash real decoders: suspected, hashed alone, listed, known after a restart, forgiven when cleared."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import uvloop

from nsfwd.bundles.manifest import Recipe
from nsfwd.errors import CodedError
from nsfwd.ipc import child_messages
from nsfwd.ipc.arena import Arena
from nsfwd.pipeline.decode.decode_stage import DecodeStage
from nsfwd.pipeline.decode.decoder_pool import DecoderPlan
from nsfwd.pipeline.decode.poison_list import PoisonList
from nsfwd.pipeline.queueing.admission import Admission
from nsfwd.pipeline.queueing.slots import Slots
from nsfwd.pipeline.queueing.tickets import Claim
from nsfwd.protocol.messages import Image, Lane
from tests import pictures

SIDE = 32
SLOT = SIDE * SIDE * 3
LIMITS = child_messages.ImageLimits(1 << 26, 100_000_000, 16, 100, 1 << 31)


class Daemon:
    """A decode stage with one real decoder, and the poison list of a directory."""

    def __init__(self, directory: Path) -> None:
        loop = asyncio.get_running_loop()
        self.poison = PoisonList(directory / "state")
        self.arena = Arena.create(8, SLOT, 1)
        self.slots = Slots(8, lambda: None)
        recipe = msgspec.to_builtins(Recipe(width=SIDE, height=SIDE))
        setup = child_messages.DecoderSetup(0, SLOT, [recipe], (os.fsencode(directory),), LIMITS)
        self.stage = DecodeStage(
            DecoderPlan(self.arena, self.slots, setup, 1, 30.0, self.poison),
            on_broken=lambda error: loop.call_exception_handler({"message": str(error)}),
        )
        self.admission = Admission(100, loop)

    async def __aenter__(self) -> Daemon:
        self.stage.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stage.stop(5.0)
        self.arena.close()

    async def decode(self, path: Path) -> str:
        """Decode one file; tell what it came to."""
        ticket = self.admission.admit(Claim(("test",), Lane.NORMAL))
        try:
            await self.stage.decode(Image(os.fsencode(path)), ticket)
        except CodedError as error:
            return f"{error.code}: {error.message}"
        finally:
            if ticket.lease is not None:
                self.slots.release(ticket.lease)
            self.admission.leave(ticket)
        return ""

    async def crash(self, path: Path, number: int) -> str:
        """Decode a file whose decoders are ended by this signal while they are on it."""
        decoding = asyncio.ensure_future(self.decode(path))
        while not decoding.done():
            job = next(iter(self.stage.pool.workers[0].jobs.values()), None)
            if job is not None and self.arena.note(0) is not None and (job.deaths == 0 or job.digest is not None):
                for pid in self.stage.pool.processes():
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
            await asyncio.sleep(0.002)
        return decoding.result()


@pytest.mark.parametrize(("number", "listed"), [(signal.SIGSEGV, True), (signal.SIGSYS, True), (signal.SIGKILL, False)])
def test_what_crashes_decoders_is_not_met_again(tmp_path: Path, number: int, listed: bool) -> None:
    async def story() -> None:
        slow, other = tmp_path / "slow.png", tmp_path / "other.png"
        slow.write_bytes(pictures.encoded(pictures.solid((1, 2, 3), (6000, 6000)), "PNG", compress_level=1))
        other.write_bytes(pictures.encoded(pictures.solid((4, 5, 6)), "PNG"))
        async with Daemon(tmp_path) as daemon:
            assert (await daemon.crash(slow, number)).startswith("decoder_died")
            assert daemon.stage.pool.restarts == 2
            assert len(daemon.poison.digests()) == listed
        if not listed:
            return
        async with Daemon(tmp_path) as daemon:
            (tmp_path / "copy.png").write_bytes(slow.read_bytes())
            assert "poison list" in await daemon.decode(tmp_path / "copy.png")
            assert await daemon.decode(other) == ""
            assert daemon.stage.pool.restarts == 0
            daemon.poison.clear()
            daemon.stage.spread_poison()
            assert await daemon.decode(slow) == ""

    async def main() -> None:
        async with asyncio.timeout(60):
            await story()

    uvloop.run(main())
