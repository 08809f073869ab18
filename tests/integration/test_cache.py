"""The result cache of a real daemon: what it believes, and what it does not."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.client import AsyncClient, Client, Reply
from nsfwd.pipeline.decode.result_cache import SETTLED
from tests import pictures
from tests.integration.harness import Daemon, wait_until


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    directory = tmp_path_factory.mktemp("cache")
    with (
        Daemon(directory, root=directory, flags=["--cache", "on", "--decoders", "1"]) as daemon,
        Client(f"unix:{daemon.unix}") as client,
    ):
        client.directory = directory  # type: ignore[attr-defined]
        yield client


def place(client: Client) -> Path:
    path: Path = client.directory  # type: ignore[attr-defined]
    return path


@pytest.fixture(scope="module")
def settled(client: Client) -> dict[str, Path]:
    """A sound file and a broken one whose last change was, as the clock says, long enough ago."""
    files = {"a.png": pictures.encoded(pictures.photo(1), "PNG"), "broken.jpg": pictures.truncated()}
    paths = {name: place(client) / name for name in files}
    for name, path in paths.items():
        path.write_bytes(files[name])
    wait_until(lambda: time.time_ns() > max(path.stat().st_ctime_ns for path in paths.values()) + SETTLED)
    return paths


def cached(reply: Reply) -> object:
    assert reply.status == "ok", reply
    return reply.raw.get("cached")


def test_content_is_known_again(client: Client, settled: dict[str, Path]) -> None:
    first = settled["a.png"]
    decoded, again = client.scan(first), client.scan(first)
    assert (cached(decoded), cached(again)) == (None, "identity")
    assert again.scores == decoded.scores
    copy = place(client) / "copy.png"
    shutil.copy(first, copy)
    assert cached(client.scan(copy)) == "digest"
    assert cached(client.scan(copy)) == "digest", "its identity is too young to be believed"
    assert cached(client.scan_bytes(first.read_bytes())) == "digest"
    first.write_bytes(pictures.encoded(pictures.photo(2), "PNG"))
    os.utime(first, ns=(0, 0))
    changed = client.scan(first)
    assert cached(changed) is None
    assert changed.scores != decoded.scores


def test_errors_are_never_cached(client: Client, settled: dict[str, Path]) -> None:
    for _ in range(3):
        assert client.scan(settled["broken.jpg"]).code == "corrupt"
        assert client.scan(place(client) / "none.png").code == "not_found"


def test_what_waits_together_is_decoded_once(client: Client) -> None:
    busy = [place(client) / f"busy{number}.png" for number in range(4)]
    for number, one in enumerate(busy):
        one.write_bytes(pictures.encoded(pictures.solid((number, 0, 0), (4000, 3000))))
    path = place(client) / "many.jpg"
    path.write_bytes(pictures.encoded(pictures.photo(3), "JPEG"))

    async def ask() -> list[Reply]:
        async with AsyncClient(client.address) as many:
            return await asyncio.gather(*(many.scan(one) for one in (*busy, *[path] * 20)))

    before = client.stats()["cache"]["coalesced"]
    replies = asyncio.run(ask())
    ways = [cached(reply) for reply in replies]
    assert client.stats()["cache"]["coalesced"] - before == ways.count("coalesced") > 0
    assert {str(reply.scores) for reply in replies[len(busy) :]} == {str(replies[-1].scores)}


def test_hits_are_counted(client: Client) -> None:
    stats = client.stats()["cache"]
    assert stats["identity_hits"] >= 0
    assert stats["misses"] > 0
    assert client.stats()["slots"]["free"] == client.stats()["slots"]["total"]
