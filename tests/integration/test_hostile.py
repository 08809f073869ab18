"""Hundreds of hostile and odd files against the real daemon: one reply each, nobody dies, nothing is kept."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from nsfwd.bundles.manifest import FrameSampling
from tests import hostile, pictures
from tests.echo_bundle import echo_bundle
from tests.integration.harness import Daemon, Json, ask, ndjson, raw_connect

DEADLINE = 60.0
GROWTH = 1.05
"""How large the server process may be afterwards, as a multiple of its size before."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, hostile.Odd]:
    """The corpus on disk; names tell nothing of the content."""
    directory = tmp_path_factory.mktemp("hostile")
    fuzz = os.environ.get("FUZZ_SEED", "")
    odds = hostile.corpus(flips=100, seed=fuzz) if fuzz else hostile.corpus()
    written = {directory / f"{number:04d}": odd for number, odd in enumerate(odds)}
    for path, odd in written.items():
        path.write_bytes(odd.content)
    return written


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, files: dict[Path, hostile.Odd]) -> Iterator[Daemon]:
    """A daemon that looks at several frames, and at transparency on both backgrounds."""
    directory = tmp_path_factory.mktemp("daemon")
    echo_bundle(directory / "models", background="both", frames=FrameSampling(sample=4))
    with Daemon(directory, models_dir=directory / "models", root=next(iter(files)).parent) as running:
        yield running


def resident(pid: int) -> int:
    """Kilobytes of memory of a process that no other shares."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def restarts_of(daemon: Daemon) -> int:
    """How many decoders have ended and were replaced."""
    found: int = ask(daemon.tcp, {"op": "stats"})["decoders"]["restarts"]
    return found


def scan(daemon: Daemon, paths: Iterable[Path]) -> list[Json]:
    requests = [{"id": at, "path": str(path), "deadline": DEADLINE} for at, path in enumerate(paths)]
    with raw_connect(daemon.tcp, timeout=2 * DEADLINE) as connection:
        return ndjson(connection, requests)


def test_every_file_gets_one_reply_and_nothing_is_left_of_it(daemon: Daemon, files: dict[Path, hostile.Odd]) -> None:
    assert len(files) > 500
    # The first meeting with each kind of error loads code and sizes buffers, a megabyte in all. What a hostile file
    # could leave behind it would leave each time, so a later meeting shows it.
    for _ in range(2):
        scan(daemon, files)
    before, restarts = resident(daemon.pid), restarts_of(daemon)
    replies = scan(daemon, files)
    assert [count for count in Counter(reply["id"] for reply in replies).values() if count != 1] == []
    assert len(replies) == len(files)
    strange = {}
    for reply in replies:
        odd = files[Path(reply["path"])]
        code = reply["error"]["code"] if "error" in reply else ""
        assert ("scores" in reply) == (reply["status"] == "ok") == (code == "")
        if code not in odd.codes:
            strange[odd.name] = code
    assert strange == {}
    assert restarts_of(daemon) == restarts
    assert resident(daemon.pid) <= before * GROWTH
    assert "Traceback" not in daemon.stderr


def test_the_same_files_as_bytes_and_as_a_directory(daemon: Daemon, files: dict[Path, hostile.Odd]) -> None:
    some = dict(list(files.items())[::7])
    requests = []
    for path, odd in some.items():
        requests.append(b'{"id": "%s", "bytes": %d}\n' % (path.name.encode(), len(odd.content)) + odd.content)
    with raw_connect(daemon.unix, timeout=2 * DEADLINE) as connection:
        replies = ndjson(connection, requests)
    codes = {reply["id"]: reply["error"]["code"] if "error" in reply else "" for reply in replies}
    assert len(replies) == len(some)
    assert {path.name for path, odd in some.items() if codes[path.name] not in odd.codes} == set()
    with raw_connect(daemon.unix, timeout=2 * DEADLINE) as connection:
        *entries, done = ndjson(connection, [{"path": str(next(iter(files)).parent), "recursive": True}])
    assert (done["done"], done["files"], len(entries)) == (True, len(files), len(files))


# -- views -----------------------------------------------------------------------------------------------------------


def test_the_frame_that_decided_is_told(daemon: Daemon, files: dict[Path, hostile.Odd]) -> None:
    place = {odd.name: str(path) for path, odd in files.items()}
    moving = ask(daemon.tcp, {"path": place["sound/moving.gif"]})
    assert {key: moving["frame"][key] for key in ("of", "sampled", "background")} == {
        "of": 4,
        "sampled": 4,
        "background": None,
    }
    one = ask(daemon.tcp, {"path": place["sound/moving.gif"], "frames": 1})
    assert one["frame"] == {"index": 0, "of": 4, "sampled": 1, "background": None}
    worst = moving["groups"]["nsfw"]["sensitive"]
    assert worst >= one["groups"]["nsfw"]["sensitive"]
    clear = ask(daemon.tcp, {"path": place["sound/clear.png"]})["frame"]
    assert clear["background"] in ("white", "black")
    assert (clear["of"], clear["sampled"]) == (1, 1)
    assert "frame" not in ask(daemon.tcp, {"path": place["sound/plain.png"]})


def test_the_worst_frame_decides(daemon: Daemon, files: dict[Path, hostile.Odd]) -> None:
    directory = next(iter(files)).parent
    shots = [pictures.photo(seed, (64, 64)) for seed in range(30, 36)]
    alone = []
    for shot in shots:
        body = pictures.encoded(shot.copy(), "PNG")
        alone.append(ask(daemon.tcp, b'{"bytes": %d}\n' % len(body) + body)["groups"]["nsfw"]["sensitive"])
    film = directory / "film"
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        copies = [shot.copy() for shot in shots]
        film.write_bytes(pictures.encoded(copies[0], form, save_all=True, append_images=copies[1:], **options))
        found = ask(daemon.tcp, {"path": str(film), "frames": 6})
        assert found["groups"]["nsfw"]["sensitive"] == max(alone), form
        assert found["frame"] == {"index": alone.index(max(alone)), "of": 6, "sampled": 6, "background": None}
        film.unlink()
