"""``kill -9`` of decoders and of the engine while images hold every slot: nothing is lost, doubled or mixed up.

With the echo engine, which tells every mix-up, and with a real network, whose goldens prove each new engine.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import pictures
from tests.integration.harness import Daemon, Json, ask, wait_until
from tests.integration.pressure import FEW_SLOTS, REAL, WINDOW, Load, hold_engine, served

ENGINES = 3
"""How many are killed."""
DECODERS_AN_ENGINE = 3
"""How many decoders are killed before each of them."""
CLIENTS = 4

ROUNDING = 1e-3
"""How far scores of the same picture may lie apart, alone and in a crowd: what the wire shows of float32."""


@pytest.fixture(scope="module", params=["echo", REAL])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gallery: Path) -> Iterator[Daemon]:
    """A daemon with few slots and a bundle that has goldens."""
    directory = tmp_path_factory.mktemp("daemon")
    with Daemon(directory, root=gallery, flags=FEW_SLOTS, **served(request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def paths(gallery: Path) -> list[str]:
    """Pictures that all differ."""
    directory = gallery / "known"
    directory.mkdir()
    for seed in range(40):
        (directory / f"{seed}.png").write_bytes(pictures.encoded(pictures.photo(seed, (128, 96))))
    return [str(path) for path in sorted(directory.iterdir())]


@pytest.fixture(scope="module")
def known(paths: list[str], daemon: Daemon) -> dict[str, Json]:
    """Their scores."""
    return {path: ask(daemon.unix, {"path": path})["scores"]["nsfw"] for path in paths}


def scored(daemon: Daemon) -> int:
    return int(ask(daemon.unix, {"op": "stats"})["engine"]["images"])


def kill_decoders(daemon: Daemon) -> None:
    """Kill some that are at work, each after an image has come through since the last."""
    for _ in range(DECODERS_AN_ENGINE):
        before = scored(daemon)
        wait_until(lambda before=before: scored(daemon) > before)  # type: ignore[misc]  # bound now, not later
        decoders = ask(daemon.unix, {"op": "stats"})["decoders"]["processes"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(min(decoders), signal.SIGKILL)  # the oldest, which is the one that works


def test_killed_processes_lose_nothing(daemon: Daemon, known: dict[str, Json]) -> None:
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(daemon, list(known), seed)) for seed in range(CLIENTS)]
        for _ in range(ENGINES):
            kill_decoders(daemon)
            engine, newcomers = hold_engine(daemon, next(iter(known)))
            before = scored(daemon)
            os.kill(engine, signal.SIGKILL)
            wait_until(lambda before=before: scored(daemon) > before + len(known))  # type: ignore[misc]  # bound now
            assert {reply["status"] for reply in newcomers.answers()} == {"ok"}
    errors = 0
    for load in loads:
        assert sorted(reply["id"] for reply in load.answers) == list(range(len(load.asked)))
        assert len(load.asked) > WINDOW, "there was hardly any load"
        for reply in load.answers:
            if reply["status"] == "ok":
                assert reply["scores"]["nsfw"] == pytest.approx(known[load.asked[reply["id"]]], abs=ROUNDING)
            else:
                errors += 1
                assert reply["error"]["code"] in ("engine_died", "decoder_died")
    most = ENGINES * (DECODERS_AN_ENGINE + 1)
    assert errors <= most, "only an image that was alone in a killed process may fail"


def test_everything_is_back_afterwards(daemon: Daemon, known: dict[str, Json]) -> None:
    stats = ask(daemon.unix, {"op": "stats"})
    assert stats["in_flight"] == 0
    assert stats["slots"]["free"] == stats["slots"]["total"]
    path, scores = next(iter(known.items()))
    assert ask(daemon.unix, {"path": path})["scores"]["nsfw"] == pytest.approx(scores, abs=ROUNDING)
    assert re.search(r"warning pipeline: decoder \d+ \(pid \d+\) ended: killed by SIGKILL", daemon.stderr)
