"""Two hundred clients of each kind at once against one daemon: every one gets its own reply, once."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nsfwd.client import AsyncClient, Client, Encoded
from tests import pictures
from tests.integration.harness import REPOSITORY, Daemon, Json, needs, replies

CLIENTS = 200
EACH = 5
"""Requests of each client of the library, half of them by path and half as bytes."""

COPIED = REPOSITORY / "docs" / "clients"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture for each client, no two alike."""
    directory = tmp_path_factory.mktemp("crowd")
    for seed in range(CLIENTS):
        (directory / f"{seed:03}.png").write_bytes(pictures.encoded(pictures.photo(seed, (96, 64)), "PNG"))
    return directory


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clamd") / "clamd.sock"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, folder: Path, clamd: Path) -> Iterator[Daemon]:
    listen = [f"unix:{clamd},style=clamd"]
    with Daemon(tmp_path_factory.mktemp("daemon"), root=folder, listen=listen) as running:
        yield running


@pytest.fixture(scope="module")
def alone(daemon: Daemon, folder: Path) -> dict[Path, Json]:
    """The scores and the verdict of each picture when nobody else asks."""
    with Client(f"unix:{daemon.unix}") as client:
        found = {Path(reply.path): _essence(reply.raw) for reply in client.scan_dir(folder)}
    assert len(found) == CLIENTS
    assert len({str(essence["scores"]) for essence in found.values()}) == CLIENTS, "no mix-up can hide"
    return found


def _essence(reply: Json) -> Json:
    return {key: reply.get(key) for key in ("status", "verdict", "alarm", "scores")}


def _places(daemon: Daemon) -> Sequence[str]:
    return (f"unix:{daemon.unix}", f"tcp:127.0.0.1:{daemon.port}")


def _items(path: Path) -> list[str | Encoded]:
    sent = Encoded(path.read_bytes(), str(path))
    return [sent if number % 2 else str(path) for number in range(EACH)]


def _at_once(commands: Sequence[Sequence[str]]) -> list[tuple[int, bytes]]:
    """Start all of them, then see each to its end."""
    started = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for command in commands
    ]
    outputs = [process.communicate(timeout=60)[0] for process in started]
    return [(process.returncode, out) for process, out in zip(started, outputs, strict=True)]


def test_python(daemon: Daemon, alone: dict[Path, Json]) -> None:
    def ask(number: int, path: Path) -> list[Json]:
        with Client(_places(daemon)[number % 2]) as client:
            return [{"path": reply.path, **_essence(reply.raw)} for reply in client.scan_many(_items(path))]

    with ThreadPoolExecutor(CLIENTS) as pool:
        for path, got in zip(alone, pool.map(ask, range(CLIENTS), alone), strict=True):
            assert got == [{"path": str(path), **alone[path]}] * EACH


def test_asyncio(daemon: Daemon, alone: dict[Path, Json]) -> None:
    async def ask(number: int, path: Path) -> list[Json]:
        async with AsyncClient(_places(daemon)[number % 2]) as client:
            return [{"path": reply.path, **_essence(reply.raw)} async for reply in client.scan_many(_items(path))]

    async def main() -> list[list[Json]]:
        return await asyncio.gather(*(ask(number, path) for number, path in enumerate(alone)))

    for path, got in zip(alone, asyncio.run(main()), strict=True):
        assert got == [{"path": str(path), **alone[path]}] * EACH


PHP = """
[, $file, $place, $way, $path] = $argv;
require $file;
echo json_encode((new Nsfwd($place, 60))->$way($way === 'scan' ? $path : file_get_contents($path)));
"""


def test_php(daemon: Daemon, alone: dict[Path, Json]) -> None:
    php = [needs("php"), "-r", PHP, "--", str(COPIED / "Nsfwd.php")]
    ways = ("scan", "scanBytes")
    places = [place.replace(":", "://", 1) for place in _places(daemon)]
    commands = [[*php, places[n % 2], ways[n // 2 % 2], str(path)] for n, path in enumerate(alone)]
    for path, (code, out) in zip(alone, _at_once(commands), strict=True):
        assert (code, _essence(json.loads(out))) == (0, alone[path]), path


NODE = """
const { readFile } = await import("node:fs/promises");
const [file, places, paths] = process.argv.slice(1).map(JSON.parse);
const { Nsfwd } = await import(file);
const ask = async (path, n) => {
  const client = new Nsfwd({ address: places[n % 2], deadline: 60 });
  return n % 4 < 2 ? client.scan(path) : client.scanBytes(await readFile(path));
};
console.log(JSON.stringify(await Promise.all(paths.map(ask))));
"""


def test_node(daemon: Daemon, alone: dict[Path, Json]) -> None:
    """In one process, as a server has them: each has a connection of its own."""
    given = [str(COPIED / "nsfwd.mjs"), _places(daemon), [str(path) for path in alone]]
    command = [needs("node"), "--input-type=module", "-e", NODE, "--", *map(json.dumps, given)]
    ((code, out),) = _at_once([command])
    assert code == 0, out
    assert list(map(_essence, json.loads(out))) == list(alone.values())


def test_bash(daemon: Daemon, alone: dict[Path, Json]) -> None:
    for program in ("nc.openbsd", "jq"):
        needs(program)
    script = 'source "$1"; NSFWD_ADDRESS=$2 NSFWD_DEADLINE=60; "nsfwd_$3" "$4"'
    bash = [needs("bash"), "-c", script, "crowd", str(COPIED / "nsfwd.sh")]
    ways = ("path", "bytes")
    commands = [[*bash, _places(daemon)[n % 2], ways[n // 2 % 2], str(path)] for n, path in enumerate(alone)]
    for path, (code, out) in zip(alone, _at_once(commands), strict=True):
        assert code == 0, out
        assert _essence(json.loads(out)) == alone[path], path


def test_clamdscan(clamd: Path, daemon: Daemon, alone: dict[Path, Json], tmp_path: Path) -> None:
    (tmp_path / "clamd.conf").write_text(f"LocalSocket {clamd}\n")
    program = [needs("clamdscan"), "-c", str(tmp_path / "clamd.conf"), "--no-summary"]
    ways: Sequence[list[str]] = ([], ["--stream"], ["--fdpass"])
    commands = [[*program, *ways[n % 3], str(path)] for n, path in enumerate(alone)]
    for path, (code, out) in zip(alone, _at_once(commands), strict=True):
        alarm = alone[path]["alarm"]
        said = f"NSFW.{alone[path]['verdict']} FOUND" if alarm else "OK"
        assert (code, out.decode()) == (int(alarm), f"{path}: {said}\n")


def test_netcat(daemon: Daemon, alone: dict[Path, Json]) -> None:
    netcat = [needs("nc.openbsd"), "-N", "127.0.0.1", str(daemon.port)]
    started = [subprocess.Popen(netcat, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in alone]
    for path, process in zip(alone, started, strict=True):
        assert process.stdin is not None
        process.stdin.write(json.dumps({"id": path.name, "path": str(path)}).encode() + b"\n")
        process.stdin.close()
    for path, process in zip(alone, started, strict=True):
        assert process.stdout is not None
        (reply,) = replies(process.stdout.read())
        process.stdout.close()
        assert process.wait(60) == 0
        assert {"id": reply["id"], **_essence(reply)} == {"id": path.name, **alone[path]}
