"""What one peer can do to the others: memory of the server under attack and afterwards, and who is answered."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Daemon, Json, ask, needs, raw_connect, spell, wait_until

MIB = 1 << 20

MOST = 190 * MIB
"""Bytes above those of an idle server that an attack may take: 200 MB at most with default limits."""

LEFT = 28 * MIB
"""How much of that may stay after ``CALM`` seconds: what lies between small things that live on, such as counters."""

CALM = 10.0
"""Seconds within which memory comes back."""

BLOCKED = 2.0
"""Seconds without progress after which the daemon takes no more."""

LATE = 1.0
"""Seconds within which a picture is answered while another peer floods the daemon; some hundredths where it is idle."""

Attack = tuple[int, bytes]


def long_lists() -> Attack:
    line = b'{"paths":[' + b",".join([b'"/a"'] * 200_000) + b"]}\n"
    return 1, line * 64


def unfinished_lines() -> Attack:
    return 200, b'{"id":"' + b"x" * (MIB - 100)


def silent_readers() -> Attack:
    request = b'{"id":1,"path":"/nowhere/' + b"x" * 3000 + b'"}\n'
    return 60, request * 3000


def silent_readers_of_lists() -> Attack:
    line = b'{"paths":[' + b",".join([b'"/nowhere"'] * 50_000) + b"]}\n"
    return 100, line * 4


def nested_rubbish() -> Attack:
    return 60, (b'{"a":' + b"[" * 500_000 + b"\n") * 4


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "photo.jpg"
    path.write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    return path


def resident(daemon: Daemon) -> int:
    """Bytes that the server process has in memory."""
    return int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def send_all(connections: Sequence[socket.socket], data: bytes, look: Callable[[], int]) -> int:
    """Send ``data`` on every connection, as far as the daemon takes it, and return the largest ``look``."""
    left = {connection: memoryview(data) for connection in connections}
    most, since = 0, time.monotonic()
    while left and time.monotonic() - since < BLOCKED:
        for connection, rest in tuple(left.items()):
            connection.setblocking(False)
            try:
                sent = connection.send(rest[:MIB])
            except BlockingIOError:
                continue
            since = time.monotonic()
            left[connection] = rest[sent:]
            if sent == len(rest):
                del left[connection]
        most = max(most, look())
    return most


@pytest.mark.parametrize(
    "attack", [long_lists, unfinished_lines, silent_readers, silent_readers_of_lists, nested_rubbish]
)
def test_memory_is_bounded_and_comes_back(attack: Callable[[], Attack], picture: Path, tmp_path: Path) -> None:
    with Daemon(tmp_path, flags=["--decoders", "2"]) as daemon, ExitStack() as stack:
        for _ in range(20):
            assert ask(daemon.unix, {"path": str(picture)})["status"] == "ok"
        idle = resident(daemon)
        count, data = attack()
        connections = [stack.enter_context(raw_connect(daemon.tcp)) for _ in range(count)]
        most = send_all(connections, data, lambda: resident(daemon))
        assert ask(daemon.unix, {"path": str(picture)})["status"] == "ok", "another peer is served all the time"
        assert most - idle < MOST
        stack.close()
        end = time.monotonic() + CALM
        while (resident(daemon) > idle + LEFT or held(daemon)) and time.monotonic() < end:
            time.sleep(0.2)
        assert held(daemon) == {}
        assert resident(daemon) <= idle + LEFT


def held(daemon: Daemon) -> dict[str, int]:
    """What peers hold, but for the connection that asks."""
    return {name: row["used"] for name, row in stats(daemon).items() if row["used"] and name != "connections"}


FILES = 600


@pytest.fixture
def short_of_files(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that may open no more than ``FILES`` files."""
    prefix = [needs("prlimit"), f"--nofile={FILES}:{FILES}"]
    with Daemon(tmp_path, flags=["--decoders", "2"], prefix=prefix) as daemon:
        yield daemon


def test_descriptors_that_nobody_takes_stop_nothing(short_of_files: Daemon, picture: Path) -> None:
    daemon = short_of_files
    with ExitStack() as stack, picture.open("rb") as file:
        for _ in range(20):
            connection = stack.enter_context(raw_connect(daemon.unix))
            wait_until(partial(passed, connection, file.fileno()))
        wait_until(lambda: stats(daemon)["files"]["refused"] >= 10)
        assert stats(daemon)["files"]["used"] <= stats(daemon)["files"]["limit"]
        [engine] = [pid for pid, command in daemon.processes().items() if "nsfwd.engines.engine_process" in command]
        os.kill(engine, 9)
        assert ask(daemon.unix, {"path": str(picture)})["status"] == "ok", "children are replaced"
        assert ask(daemon.tcp, {"path": str(picture)})["status"] == "ok"
        wait_until(lambda: stats(daemon)["files"]["used"] == 0)


def passed(connection: socket.socket, descriptor: int) -> bool:
    """Pass it many times; an ordinary user may have only so many on the way, and waits until some are received."""
    try:
        socket.send_fds(connection, [b'{"fd":tr'], [descriptor] * 60)
    except OSError as error:
        if error.errno != errno.ETOOMANYREFS:
            raise
        return False
    return True


def test_idle_connections_lock_no_admin_out(short_of_files: Daemon) -> None:
    with ExitStack() as stack:
        limit = stats(short_of_files)["connections"]["limit"]
        for _ in range(limit + 50):
            stack.enter_context(raw_connect(short_of_files.tcp))
        wait_until(lambda: stats(short_of_files)["connections"]["refused"] > 0)
        assert ask(short_of_files.unix, {"op": "ping"})["status"] == "ok"


@pytest.mark.parametrize("operation", [b'{"op":"stats"}\n', b'{"op":"ping"}\n', b'{"op":"cancel","target":1}\n'])
def test_a_flood_of_operations_delays_nobody_else(operation: bytes, picture: Path, tmp_path: Path) -> None:
    with Daemon(tmp_path, flags=["--decoders", "2"]) as daemon, ExitStack() as stack:
        connections = [stack.enter_context(raw_connect(daemon.tcp)) for _ in range(300)]
        ended = threading.Event()
        flood = threading.Thread(target=keep_asking, args=(connections, operation * 1000, ended))
        flood.start()
        stack.callback(flood.join)
        stack.callback(ended.set)
        wait_until(lambda: ask(daemon.unix, {"op": "stats"})["server"]["operations_total"] > 10_000)
        for _ in range(5):
            since = time.monotonic()
            assert ask(daemon.unix, {"path": str(picture)})["status"] == "ok"
            assert time.monotonic() - since < LATE


def keep_asking(connections: Sequence[socket.socket], data: bytes, ended: threading.Event) -> None:
    """Send ``data`` over and over on every connection, and read what is answered."""
    left = dict.fromkeys(connections, memoryview(data))
    for connection in connections:
        connection.setblocking(False)
    while not ended.is_set():
        for connection, rest in left.items():
            with suppress(BlockingIOError):
                while len(connection.recv(MIB)) == MIB:
                    pass
            with suppress(BlockingIOError):
                left[connection] = rest[connection.send(rest) :] or memoryview(data)


def stats(daemon: Daemon) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = ask(daemon.unix, {"op": "stats"})["budgets"]
    return found


def test_slow_senders_of_images_hold_up_nobody(picture: Path, tmp_path: Path) -> None:
    with Daemon(tmp_path, flags=["--decoders", "2"]) as daemon, ExitStack() as stack:
        for _ in range(40):
            connection = stack.enter_context(raw_connect(daemon.tcp))
            connection.sendall(b'{"bytes":67108864}\n' + b"x")
        wait_until(lambda: stats(daemon)["files"]["used"] == 40)
        image = picture.read_bytes()
        for address in (daemon.tcp, daemon.unix):
            assert ask(address, b'{"bytes":%d}\n' % len(image) + image)["status"] == "ok"


def test_a_crowd_of_one_peer_leaves_room_for_a_single_request(picture: Path, tmp_path: Path) -> None:
    with Daemon(tmp_path, flags=["--decoders", "1", "--queue", "1000"]) as daemon, ExitStack() as stack:
        request = spell({"path": str(picture)})
        for _ in range(60):
            stack.enter_context(raw_connect(daemon.tcp)).sendall(request * 64)
        wait_until(lambda: stats(daemon)["queue"]["used"] > 600, pause=0)
        answers: list[Json] = [ask(address, request) for address in (daemon.tcp, daemon.unix)]
        assert [answer["status"] for answer in answers] == ["ok", "ok"]
