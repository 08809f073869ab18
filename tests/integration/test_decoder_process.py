"""Decoders and the lister as real processes: fed, killed, starved of memory, and watched for what they gave up."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import tempfile
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from nsfwd.bundles.manifest import Recipe
from nsfwd.ipc import child_messages
from nsfwd.ipc.arena import Arena
from nsfwd.ipc.child import LEAN, Child, Exit
from nsfwd.ipc.child_messages import Decoded, ImageLimits
from tests import pictures
from tests.descriptors import all_closed

MIB = 1 << 20
SIDE = 32
SLOT = SIDE * SIDE * 3
LIMITS = ImageLimits(max_bytes=64 * MIB, max_pixels=100_000_000, min_side=16, max_frames=100, memory=2048 * MIB)
MESSAGES = msgspec.msgpack.Decoder(child_messages.Hello | child_messages.DecodedGroup | child_messages.Entries)


AS_NOBODY = """
import ctypes, os
from nsfwd.imaging.decoder import main
os.setgid(65534)
os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after an exec by that user
main()
"""


def run(story: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await story

    uvloop.run(main())


class Process:
    """A child of imaging and what it said."""

    def __init__(self, module: str, fds: list[int], environment: Mapping[str, str] = LEAN) -> None:
        self.said: asyncio.Queue[Any] = asyncio.Queue()
        self.exits: asyncio.Queue[Exit] = asyncio.Queue()
        self.child = Child(
            module,
            name="test",
            fds=fds,
            environment=environment,
            on_message=lambda packet: self.said.put_nowait(MESSAGES.decode(packet)),
            on_exit=self.exits.put_nowait,
        )

    async def start(self, setup: child_messages.DecoderSetup | child_messages.ListerSetup) -> child_messages.Hello:
        self.child.start()
        self.send(setup)
        said, ended = asyncio.ensure_future(self.said.get()), asyncio.ensure_future(self.exits.get())
        await asyncio.wait((said, ended), return_when=asyncio.FIRST_COMPLETED)
        assert said.done(), ended.result()
        ended.cancel()
        hello = said.result()
        assert isinstance(hello, child_messages.Hello)
        return hello

    def send(self, message: child_messages.Wire, descriptors: list[int] | None = None) -> None:
        self.child.send(child_messages.encode(message), descriptors or [])


class Bench:
    """An arena and one decoder on it."""

    def __init__(self, root: Path, limits: ImageLimits = LIMITS) -> None:
        self.arena = Arena.create(16, SLOT, 1)
        recipe = msgspec.to_builtins(Recipe(width=SIDE, height=SIDE))
        self.setup = child_messages.DecoderSetup(0, SLOT, [recipe], (os.fsencode(root),), limits)

    async def __aenter__(self) -> Bench:
        self.process = Process("nsfwd.imaging.decoder", [self.arena.fd])
        self.hello = await self.process.start(self.setup)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.child.stop(5)
        self.arena.close()

    def send(self, paths: list[Path]) -> None:
        jobs = [child_messages.Job(at, at % 16, 1, os.fsencode(path), False, False) for at, path in enumerate(paths)]
        self.process.send(child_messages.Decode(jobs))

    async def decode(self, paths: list[Path]) -> list[Decoded]:
        """Send one group, and give its results in order."""
        self.send(paths)
        results: list[Decoded] = []
        while len(results) < len(paths):
            results += (await self.process.said.get()).results
        return results


def test_a_group_of_good_and_bad(tmp_path: Path) -> None:
    async def story() -> None:
        expected: dict[str, str] = {}
        for name, content in pictures.every_format().items():
            (tmp_path / name).write_bytes(content)
            expected[name] = ""
        for name, content in pictures.no_pictures().items():
            (tmp_path / f"no-{name}").write_bytes(content)
            expected[f"no-{name}"] = "not_an_image"
        (tmp_path / "half.jpg").write_bytes(pictures.truncated())
        os.mkfifo(tmp_path / "fifo.jpg")
        (tmp_path / "out.jpg").symlink_to("/etc/passwd")
        expected |= {"half.jpg": "corrupt", "fifo.jpg": "fifo", "out.jpg": "forbidden", "missing": "not_found"}
        async with Bench(tmp_path) as bench:
            for _ in range(2):
                results = await bench.decode([tmp_path / name for name in expected])
                assert dict(zip(expected, (result.code for result in results), strict=True)) == expected
            assert bench.arena.note(0) is None

    run(story())


def test_pixels_arrive_in_the_right_slots(tmp_path: Path) -> None:
    async def story() -> None:
        colours = [(at * 10, 255 - at * 10, at) for at in range(16)]
        for at, colour in enumerate(colours):
            (tmp_path / f"{at}.png").write_bytes(pictures.encoded(pictures.solid(colour), "PNG"))
        async with Bench(tmp_path) as bench:
            await bench.decode([tmp_path / f"{at}.png" for at in range(16)])
            for at, colour in enumerate(colours):
                assert bytes(bench.arena.slot(at)) == bytes(colour) * SIDE * SIDE

    run(story())


def test_bytes_passed_as_descriptors(tmp_path: Path) -> None:
    async def story() -> None:
        async with Bench(tmp_path) as bench:
            fd = os.memfd_create("body")
            os.write(fd, pictures.encoded(pictures.solid((9, 8, 7)), "JPEG", quality=100))
            bench.process.send(child_messages.Decode([child_messages.Job(5, 3, 2, b"", True, True)]), [fd])
            os.close(fd)
            (result,) = (await bench.process.said.get()).results
            assert (result.number, result.slot, result.lease_id, result.code) == (5, 3, 2, "")
            assert result.identity is not None
            assert max(abs(a - b) for a, b in zip(bytes(bench.arena.slot(3)[:3]), (9, 8, 7), strict=True)) <= 2

    run(story())


def test_descriptors_that_cannot_be_passed_cost_their_images_alone(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "a.png").write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
        async with Bench(tmp_path) as bench:
            closed = os.memfd_create("closed")
            os.close(closed)
            jobs = [
                child_messages.Job(1, 1, 1, b"", True, False),
                child_messages.Job(2, 2, 1, bytes(tmp_path / "a.png"), False, False),
            ]
            bench.process.send(child_messages.Decode(jobs), [closed])
            results: list[Decoded] = []
            while len(results) < len(jobs):
                results += (await bench.process.said.get()).results
            assert [result.code for result in results] == ["unreadable", ""]
            assert bench.process.exits.empty()

    run(story())


def test_a_decoder_with_few_descriptors_takes_what_it_can(tmp_path: Path) -> None:
    async def story() -> None:
        encoded = pictures.encoded(pictures.photo(1), "PNG")
        async with Bench(tmp_path) as bench:
            resource.prlimit(bench.process.child.pid, resource.RLIMIT_NOFILE, (8, 8))
            descriptors = [os.memfd_create("image") for _ in range(6)]
            for fd in descriptors:
                os.write(fd, encoded)
            jobs = [child_messages.Job(number, number, 1, b"", True, False) for number in range(6)]
            bench.process.send(child_messages.Decode(jobs), descriptors)
            results: list[Decoded] = []
            while len(results) < len(jobs):
                results += (await bench.process.said.get()).results
            codes = [result.code for result in results]
            assert codes == sorted(codes), "the first ones arrive"
            assert set(codes) == {"", "unreadable"}
            for fd in descriptors:
                os.close(fd)

    run(story())


def test_a_decoder_gives_up_what_it_does_not_need(tmp_path: Path) -> None:
    async def story() -> None:
        async with Bench(tmp_path) as bench:
            assert bench.hello.missing == []
            assert {"landlock", "seccomp", "descriptors"} <= set(bench.hello.applied)
            proc = Path(f"/proc/{bench.process.child.pid}")
            status = (proc / "status").read_text()
            assert "NoNewPrivs:\t1" in status
            assert "Seccomp:\t2" in status
            assert (proc / "oom_score_adj").read_text().strip() == "900"
            limits = {line[:25].strip(): line[25:].split() for line in (proc / "limits").read_text().splitlines()}
            assert limits["Max core file size"][:2] == ["0", "0"]
            assert limits["Max address space"][:2] == [str(LIMITS.memory + bench.arena.bytes)] * 2
            assert int(limits["Max open files"][1]) <= 128
            resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
            assert resident < 60 * 1024

    run(story())


def test_a_decoder_keeps_no_descriptor_that_it_does_not_need(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may look into a process that may not be dumped")

    async def story() -> None:
        async with Bench(tmp_path) as bench:
            held = list(Path(f"/proc/{bench.process.child.pid}/fd").iterdir())
            assert len(held) == 5, "standard input, output and error; its link; the arena"

    run(story())


def test_a_decoder_ends_when_a_root_has_moved(tmp_path: Path) -> None:
    """What it may read was settled at its start; the next one may read what the root is by then."""

    async def story() -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.png").write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
        root = tmp_path / "current"
        root.symlink_to("one")
        async with Bench(root) as bench:
            assert [result.code for result in await bench.decode([root / "a.png"])] == [""]
            root.unlink()
            root.symlink_to("two")
            bench.send([root / "a.png"])
            assert (await bench.process.exits.get()).code == 0
            assert bench.arena.note(0) is None, "no file is to blame"
            bench.process = Process("nsfwd.imaging.decoder", [bench.arena.fd])
            await bench.process.start(bench.setup)
            assert [result.code for result in await bench.decode([root / "a.png"])] == [""]

    run(story())


def test_without_roots_a_new_directory_of_the_system_is_read_by_the_next_decoder() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may make a directory there")

    async def story() -> None:
        async with Bench(Path("/")) as bench:
            assert bench.hello.missing == []
            with tempfile.TemporaryDirectory(dir="/", prefix="nsfwd-test-") as name:
                path = Path(name) / "a.png"
                path.write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
                bench.send([path])
                assert (await bench.process.exits.get()).code == 0
                bench.process = Process("nsfwd.imaging.decoder", [bench.arena.fd])
                await bench.process.start(bench.setup)
                assert [result.code for result in await bench.decode([path])] == [""]

    run(story())


def test_a_decoder_works_for_a_user_who_is_not_root(public: Path) -> None:
    """No process but its own may read an undumpable one's /proc/self/fd; opening depends on that it still can."""
    if os.geteuid() != 0:
        pytest.skip("this user is not root anyway: the other tests show it")

    async def story() -> None:
        (public / "a.png").write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
        (public / "as_nobody.py").write_text(AS_NOBODY)
        bench = Bench(public)
        environment = {**LEAN, "PYTHONPATH": str(public)}
        bench.process = Process("as_nobody", [bench.arena.fd], environment)
        hello = await bench.process.start(bench.setup)
        assert hello.missing == []
        (result,) = await bench.decode([public / "a.png"])
        assert result.code == ""
        await bench.process.child.stop(5)

    run(story())


def test_too_little_memory_is_an_answer_and_not_a_death(tmp_path: Path) -> None:
    async def story() -> None:
        small = pictures.encoded(pictures.photo(1), "PNG")
        (tmp_path / "large.png").write_bytes(pictures.encoded(pictures.solid((1, 2, 3), (6000, 6000)), "PNG"))
        (tmp_path / "small.png").write_bytes(small)
        limits = msgspec.structs.replace(LIMITS, memory=128 * MIB)
        async with Bench(tmp_path, limits) as bench:
            paths = [tmp_path / "large.png", tmp_path / "small.png"] * 3
            results = await bench.decode(paths)
            assert [result.code for result in results] == ["decoder_memory", ""] * 3

    run(story())


def test_a_decoder_killed_in_the_middle_says_where_it_was(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "small.png").write_bytes(pictures.encoded(pictures.photo(1), "PNG"))
        (tmp_path / "slow.png").write_bytes(pictures.encoded(pictures.solid((1, 2, 3), (5000, 5000)), "PNG"))
        async with Bench(tmp_path) as bench:
            bench.send([tmp_path / name for name in ("small.png", "slow.png", "small.png")])
            while (note := bench.arena.note(0)) is None or note[0] != 1:
                await asyncio.sleep(0)
            bench.process.child.kill()
            assert (await bench.process.exits.get()).signal == signal.SIGKILL
            note = bench.arena.note(0)
            assert note is not None
            assert note[0] == 1
            answered = [result.number for group in iter_all(bench.process.said) for result in group.results]
            assert answered in ([], [0])
            bench.arena.clear_note(0)
            bench.process = Process("nsfwd.imaging.decoder", [bench.arena.fd])
            await bench.process.start(bench.setup)
            assert [result.code for result in await bench.decode([tmp_path / "small.png"])] == [""]

    run(story())


def iter_all(queue: asyncio.Queue[Any]) -> list[Any]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


def test_killed_again_and_again_nothing_is_left_behind(tmp_path: Path) -> None:
    async def story() -> None:
        paths = pictures.write_photos(tmp_path, 16)
        with all_closed(but=1):  # uvloop's own
            for _ in range(5):
                async with Bench(tmp_path) as bench:
                    bench.send(paths)
                    await bench.process.said.get()
                    bench.process.child.kill()
                    await bench.process.exits.get()

    run(story())


@pytest.mark.parametrize("module", ["nsfwd.imaging.decoder", "nsfwd.imaging.lister"])
def test_nonsense_ends_a_child_with_words(module: str) -> None:
    async def story() -> None:
        arena = Arena.create(1, SLOT, 1)
        process = Process(module, [arena.fd])
        process.child.start()
        process.child.send(b"nonsense")
        end = await process.exits.get()
        assert end.code == 1
        assert "msgspec" in end.last_words
        arena.close()

    run(story())


def test_a_large_directory_is_listed_in_little_memory(tmp_path: Path) -> None:
    async def story() -> None:
        for number in range(20_000):
            (tmp_path / f"some-rather-long-name-of-a-file-{number:020d}.jpg").touch()
        lister = Process("nsfwd.imaging.lister", [])
        hello = await lister.start(child_messages.ListerSetup((os.fsencode(tmp_path),), 8, 1_000_000, 256))
        assert hello.missing == []
        before = resident(lister.child.pid)
        seen: set[bytes] = set()
        lister.send(child_messages.List(1, os.fsencode(tmp_path), True, 0))
        while not (entries := await lister.said.get()).end:
            seen |= set(entries.paths)
            lister.send(child_messages.More(1))
        seen |= set(entries.paths)
        assert len(seen) == 20_000
        assert resident(lister.child.pid) - before < 1 * MIB
        await lister.child.stop(5)

    run(story())


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_lister_that_is_killed_is_resumed_by_another(tmp_path: Path) -> None:
    async def story() -> None:
        for number in range(1000):
            (tmp_path / f"{number}.jpg").touch()
        setup = child_messages.ListerSetup((os.fsencode(tmp_path),), 8, 10_000, 100)
        seen: list[bytes] = []
        end = False
        while not end:
            lister = Process("nsfwd.imaging.lister", [])
            await lister.start(setup)
            lister.send(child_messages.List(1, os.fsencode(tmp_path), False, len(seen)))
            for _ in range(3):
                entries = await lister.said.get()
                seen += entries.paths
                end = entries.end
                if end:
                    break
                lister.send(child_messages.More(1))
            lister.child.kill()
            await lister.exits.get()
        assert len(seen) == len(set(seen)) == 1000

    run(story())
