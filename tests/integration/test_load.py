"""Many requests at once: every one gets exactly one reply, its own, and the one it would have got alone."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import pictures
from tests.integration.harness import Address, Daemon, Json, ask, ndjson, raw_connect, replies, spell
from tests.integration.pressure import FEW_SLOTS, REAL, SLOTS, served

SEED = 20

ROUNDING = 1e-3
"""How far scores of the same picture may lie apart, alone and in a crowd: what a real network makes of float32."""


@pytest.fixture(scope="module", params=["echo", REAL])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gallery: Path) -> Iterator[Daemon]:
    """A daemon with fewer slots than requests, and a bundle that has goldens."""
    directory = tmp_path_factory.mktemp("daemon")
    with Daemon(directory, root=gallery, flags=FEW_SLOTS, **served(request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def mixed(gallery: Path) -> list[Path]:
    """Good pictures of many formats, and bad files of every kind, in one directory."""
    directory = gallery / "mixed"
    directory.mkdir()
    for name, data in pictures.every_format().items():
        (directory / name).write_bytes(data)
    for seed in range(20):
        (directory / f"photo{seed}.png").write_bytes(pictures.encoded(pictures.photo(seed, (96, 64))))
    (directory / "empty.jpg").write_bytes(b"")
    (directory / "text.jpg").write_bytes(b"not an image at all\n" * 20)
    (directory / "cut.jpg").write_bytes(pictures.encoded(pictures.photo(3), "JPEG")[:2000])
    return [*sorted(directory.iterdir()), directory / "missing.jpg", Path("/etc/hostname")]


@pytest.fixture(scope="module")
def alone(daemon: Daemon, mixed: list[Path]) -> dict[str, Json]:
    """What each file gets when nothing else is asked."""
    return {str(path): essence(ask(daemon.unix, {"path": str(path)})) for path in mixed}


def essence(reply: Json) -> Json:
    """A reply without what may differ from one time to the next."""
    return {key: value for key, value in reply.items() if key not in ("id", "time")}


def test_the_files_differ_enough_to_notice_a_mix_up(alone: dict[str, Json]) -> None:
    scores = [str(reply["scores"]) for reply in alone.values() if reply["status"] == "ok"]
    assert len(scores) > 25
    assert len(set(scores)) > 0.8 * len(scores)
    assert {reply["status"] for reply in alone.values()} == {"ok", "error", "skipped"}


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_a_thousand_requests_before_the_first_read(
    daemon: Daemon, mixed: list[Path], alone: dict[str, Json], over: str
) -> None:
    address: Address = getattr(daemon, over)
    paths = [str(random.Random(SEED + number).choice(mixed)) for number in range(1000)]
    assert len(paths) > SLOTS
    found = ndjson(raw_connect(address), [{"id": number, "path": path} for number, path in enumerate(paths)])
    check(found, dict(enumerate(paths)), alone)


def test_two_hundred_connections_at_once(daemon: Daemon, mixed: list[Path], alone: dict[str, Json]) -> None:
    choose = random.Random(SEED)
    asked = [{number: str(choose.choice(mixed)) for number in range(10)} for _ in range(200)]
    connections = [raw_connect(daemon.tcp if number % 2 else daemon.unix) for number in range(200)]
    for connection, paths in zip(connections, asked, strict=True):
        connection.sendall(b"".join(spell({"id": number, "path": path}) for number, path in paths.items()))
    for connection, paths in zip(connections, asked, strict=True):
        connection.shutdown(socket.SHUT_WR)
        check(read_replies(connection), paths, alone)


def test_clients_that_vanish_do_not_disturb_the_others(
    daemon: Daemon, mixed: list[Path], alone: dict[str, Json]
) -> None:
    for number in range(50):
        with raw_connect(daemon.tcp) as leaver:
            leaver.sendall(b"".join(spell({"id": n, "path": str(mixed[n % len(mixed)])}) for n in range(number)))
    paths = {number: str(path) for number, path in enumerate(mixed)}
    check(ndjson(raw_connect(daemon.tcp), [{"id": n, "path": p} for n, p in paths.items()]), paths, alone)
    assert wait_until_idle(daemon)["in_flight"] == 0


def test_slots_and_tickets_all_come_back(daemon: Daemon, alone: dict[str, Json]) -> None:
    stats = wait_until_idle(daemon)
    assert stats["slots"]["free"] == stats["slots"]["total"]


def check(found: list[Json], asked: dict[int, str], alone: dict[str, Json]) -> None:
    """Every request has exactly one reply, and it is the one its path gets alone."""
    assert sorted(reply["id"] for reply in found) == sorted(asked)
    for reply in found:
        assert essence(reply) == about(alone[asked[reply["id"]]])


def about(value: Any) -> Any:
    """The same, but that its numbers may be off by what rounding does."""
    if isinstance(value, dict):
        return {key: about(part) for key, part in value.items()}
    return pytest.approx(value, abs=ROUNDING) if isinstance(value, float) else value


def read_replies(connection: socket.socket) -> list[Json]:
    with connection:
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return replies(b"".join(parts))


def wait_until_idle(daemon: Daemon) -> Json:
    """The pipeline's numbers once nothing is in flight."""
    pause = threading.Event()
    for _ in range(200):
        stats = ask(daemon.unix, {"op": "stats"})
        if not stats["in_flight"] and stats["slots"]["free"] == stats["slots"]["total"]:
            break
        pause.wait(0.05)
    return dict(stats)
