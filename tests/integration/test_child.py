"""Supervised children as real processes, on both event loops."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import uvloop

from nsfwd.ipc.child import LAST_WORDS, Child, Exit
from nsfwd.ipc.link import MAX_PACKET
from tests.descriptors import all_closed
from tests.integration.harness import wait_until

Run = Callable[[Coroutine[Any, Any, None]], None]

BODY = """
import os, signal, sys, time
from nsfwd.ipc.child_bootstrap import run_child
link, others = run_child()
try:
    while True:
        packet, descriptors = link.receive()
        word, _, rest = packet.partition(b" ")
        if word == b"echo":
            link.send(rest)
        elif word == b"read":
            link.send(b"|".join(os.pread(fd, 99, 0) for fd in descriptors))
        elif word == b"inherited":
            link.send(b"|".join(os.pread(fd, 99, 0) for fd in others))
        elif word == b"open":
            link.send(str(sorted(int(fd) for fd in os.listdir("/proc/self/fd"))).encode())
        elif word == b"die":
            for number in range(50):
                link.send(b"last %d" % number)
            print("word\\n" * 30000 + "no newline", end="", file=sys.stderr)
            sys.exit(7)
        elif word == b"noise":
            print("x" * 5_000_000, file=sys.stderr)
            link.send(b"alive")
        elif word == b"deaf":
            link.send(b"soon")
            time.sleep(60)
        elif word == b"unlink":
            link.close()
            time.sleep(60)
        elif word == b"signals":
            os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM)
            link.send(b"still here")
except EOFError:
    pass
"""


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def bounded(story: Coroutine[Any, Any, None]) -> None:
        async def main() -> None:
            async with asyncio.timeout(30):
                await story

        request.param(main())

    return bounded


def held_open(path: Path) -> bool:
    """Whether this process has the file open."""
    return any(os.path.realpath(entry) == str(path) for entry in Path("/proc/self/fd").iterdir())


class Watched:
    """A child of the module above, its packets and its exits."""

    def __init__(self, directory: Path, fds: tuple[int, ...] = ()) -> None:
        (directory / "nsfwd_test_child.py").write_text(textwrap.dedent(BODY))
        self.packets: asyncio.Queue[bytes] = asyncio.Queue()
        self.exits: asyncio.Queue[Exit] = asyncio.Queue()
        self.child = Child(
            "nsfwd_test_child",
            name="test",
            fds=fds,
            environment={"PYTHONPATH": str(directory)},
            on_message=self.packets.put_nowait,
            on_exit=self.exits.put_nowait,
        )

    async def ask(self, packet: bytes, descriptors: tuple[int, ...] = ()) -> bytes:
        self.child.send(packet, descriptors)
        return await self.packets.get()


def test_thousands_of_packets_arrive_once_and_in_order(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        watched = Watched(tmp_path)
        watched.child.start()
        for number in range(5000):
            watched.child.send(b"echo %d %s" % (number, b"." * 500))
        for number in range(5000):
            assert (await watched.packets.get()).startswith(b"%d " % number)
        watched.child.send(b"echo " + b"x" * (MAX_PACKET - 5))
        assert len(await watched.packets.get()) == MAX_PACKET - 5
        await watched.child.stop(5)
        assert (await watched.exits.get()).code == 0

    run(story())


def test_descriptors_may_be_closed_as_soon_as_sent(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "one").write_bytes(b"one")
        watched = Watched(tmp_path)
        watched.child.start()
        for _ in range(1000):  # far more than the link holds: some wait in memory
            watched.child.send(b"echo " + b"x" * 4000)
        fd = os.open(tmp_path / "one", os.O_RDONLY)
        watched.child.send(b"read", (fd, fd))
        os.close(fd)
        answers = [await watched.packets.get() for _ in range(1001)]
        assert answers[-1] == b"one|one"
        wait_until(lambda: not held_open(tmp_path / "one"))  # a thread of its own closes it
        await watched.child.stop(5)

    run(story())


@pytest.mark.parametrize("full", [False, True])
def test_descriptors_that_cannot_be_passed_now_are_not_lost(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    async def story() -> None:
        (tmp_path / "one").write_bytes(b"one")
        watched = Watched(tmp_path)
        watched.child.start()
        with (tmp_path / "one").open("rb") as file, all_closed():
            with monkeypatch.context() as scarce:
                scarce.setattr(os, "dup", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
                send = watched.child._link.send

                def crowded(packet: bytes, descriptors: Sequence[int] = ()) -> None:
                    if full:
                        raise BlockingIOError
                    if descriptors:
                        raise OSError(errno.ETOOMANYREFS, "Too many references")
                    send(packet, descriptors)

                scarce.setattr(watched.child._link, "send", crowded)
                assert not watched.child.send(b"read", [file.fileno()])
                assert watched.child.send(b"echo others")
            assert await watched.packets.get() == b"others"
            assert watched.child.send(b"read", [file.fileno()])
            assert await watched.packets.get() == b"one"
        await watched.child.stop(5)

    run(story())


def test_a_packet_that_waits_keeps_its_descriptors_until_they_can_be_passed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        (tmp_path / "one").write_bytes(b"one")
        watched = Watched(tmp_path)
        watched.child.start()
        send = watched.child._link.send
        refusals = [BlockingIOError(), *(OSError(errno.ETOOMANYREFS, "Too many references") for _ in range(3))]

        def crowded(packet: bytes, descriptors: Sequence[int] = ()) -> None:
            if refusals:
                raise refusals.pop(0)
            send(packet, descriptors)

        monkeypatch.setattr(watched.child._link, "send", crowded)
        with (tmp_path / "one").open("rb") as file:
            assert watched.child.send(b"read", [file.fileno()])
        assert watched.child.send(b"echo behind it")
        assert [await watched.packets.get() for _ in range(2)] == [b"one", b"behind it"]
        await watched.child.stop(5)

    run(story())


def test_a_child_has_its_own_descriptors_and_no_others(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "shared").write_bytes(b"shared")
        fd = os.open(tmp_path / "shared", os.O_RDONLY)
        sibling, watched = Watched(tmp_path), Watched(tmp_path, (fd,))
        sibling.child.start()
        watched.child.start()
        os.close(fd)
        assert await watched.ask(b"inherited") == b"shared"
        listed = (await watched.ask(b"open")).count(b",") + 1
        assert listed == 6  # standard ones, link, the shared one, and the directory being listed
        await sibling.child.stop(5)
        assert (await sibling.exits.get()).code == 0  # its link was not kept open by the other child
        await watched.child.stop(5)

    run(story())


def test_the_end_is_told_once_after_the_last_packet_with_last_words(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        watched = Watched(tmp_path)
        watched.child.start()
        watched.child.send(b"die")
        end = await watched.exits.get()
        assert [watched.packets.get_nowait() for _ in range(50)] == [b"last %d" % number for number in range(50)]
        assert (end.code, end.signal, str(end)) == (7, None, "exit code 7")
        assert end.last_words.split("\n") == ["word"] * (LAST_WORDS - 1) + ["no newline"]
        assert not watched.child.alive
        watched.child.send(b"echo nobody")
        watched.child.kill()
        await watched.child.stop(1)
        assert watched.exits.empty()

    run(story())


def test_noise_on_standard_error_never_blocks_a_child(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        watched = Watched(tmp_path)
        watched.child.start()
        assert await watched.ask(b"noise") == b"alive"
        assert await watched.ask(b"echo on") == b"on"
        assert len(watched.child.last_words) < 100_000
        await watched.child.stop(5)

    run(story())


def test_kill_is_told_as_a_signal(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        watched = Watched(tmp_path)
        watched.child.start()
        watched.child.kill()
        watched.child.kill()
        end = await watched.exits.get()
        assert (end.code, end.signal, str(end)) == (None, signal.SIGKILL, "killed by SIGKILL")

    run(story())


def test_signals_for_the_whole_group_are_left_to_the_server(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        watched = Watched(tmp_path)
        watched.child.start()
        os.kill(watched.child.pid, signal.SIGINT)  # as early as can be: Python has not even begun
        os.kill(watched.child.pid, signal.SIGTERM)
        assert await watched.ask(b"signals") == b"still here"
        await watched.child.stop(5)

    run(story())


def test_a_child_that_does_not_listen_is_killed_in_time(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        watched = Watched(tmp_path)
        watched.child.start()
        assert await watched.ask(b"deaf") == b"soon"
        await asyncio.gather(watched.child.stop(0.05), watched.child.stop(0.05))
        assert watched.exits.get_nowait().signal == signal.SIGKILL

    run(story())


def test_a_child_without_its_link_is_ended(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsfwd.ipc.child.LINK_GRACE", 0.05)

    async def story() -> None:
        watched = Watched(tmp_path)
        watched.child.start()
        watched.child.send(b"unlink")
        assert (await watched.exits.get()).signal == signal.SIGKILL

    run(story())


def test_what_its_owner_refuses_ends_the_child(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        refused: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: refused.append(context))
        watched = Watched(tmp_path)

        def refuse(packet: bytes) -> None:
            raise ValueError(packet)

        watched.child._on_message = refuse
        watched.child.start()
        watched.child.send(b"echo nonsense")
        assert (await watched.exits.get()).signal == signal.SIGKILL
        assert len(refused) == 1

    run(story())


def test_a_packet_that_can_never_be_sent_is_refused_at_once(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        watched = Watched(tmp_path)
        with pytest.raises(ValueError, match="cannot be sent"):
            watched.child.send(b"x" * (MAX_PACKET + 1))

    run(story())


def test_nothing_is_left_open_after_many_children(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        with all_closed():
            for _ in range(3):
                watched = Watched(tmp_path)
                watched.child.start()
                await watched.child.stop(5)

    run(story())


def test_children_end_with_a_server_that_is_killed(tmp_path: Path) -> None:
    server = f"""
import asyncio, sys
from nsfwd.ipc.child import Child
async def main():
    child = Child("nsfwd_test_child", name="test", environment={{"PYTHONPATH": {str(tmp_path)!r}}},
                  on_message=lambda packet: print(child.pid, flush=True), on_exit=print)
    child.start()
    child.send(b"deaf")
    await asyncio.sleep(60)
asyncio.run(main())
"""
    Watched(tmp_path)  # writes the module
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        pidfd = os.pidfd_open(pid)
        process.kill()
        ended, _, _ = select.select([pidfd], [], [], 10)
        os.close(pidfd)
        assert ended, "the child outlived its server"
