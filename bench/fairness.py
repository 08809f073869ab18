"""``fairness``: one client's single requests beside another's crowd, and what each lane gets beside another."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import daemon, figures
from bench.load import Load, Ndjson
from bench.session import Session

IN_FLIGHT = 2000
"""Requests that a crowd keeps in flight."""

SETTLE = 2.0
"""Seconds from the crowd's start to the first request that is measured."""

CROWDS = (1, 32)
"""Connections on which a crowd does so."""

SWEEP = 64
"""Requests that the sweep keeps in flight: the most that one connection may have."""

SHARE = 0.1
"""The share that the background lane is promised while the interactive one is saturated."""


class Lower(Ndjson):
    """Asks for the background lane."""

    def request(self, number: int, path: Path) -> bytes:
        """Write one request."""
        return b'{"id":%d,"path":%s,"lane":"background"}\n' % (number, json.dumps(str(path)).encode())


def measure(session: Session) -> None:
    """Print latencies beside crowds and shares of lanes, each with the promise it is held to."""
    paths = session.pictures("small")
    singles = (paths * 3)[: session.count(500)]
    with daemon.Nsfwd(
        session.directory, bundle=session.bundle, models_dir=session.models_dir, flags=session.flags
    ) as server:
        server.wait_ready()
        rows = []
        for connections in CROWDS:
            session.say(f"fairness: a crowd on {connections} connections")
            rows.append(_beside(server, server.unix, Ndjson(), connections, singles, paths))
        for connections in CROWDS:
            session.say(f"fairness: a sweep on {connections} connections")
            row = _beside(server, server.tcp, Lower(), connections, singles, paths)
            rows.append({**row, "who": "interactive, beside a sweep"})
        session.report("fairness", rows, "Promised: p99 within three times the idle median and one batch.")
        session.say("fairness: a sweep beside a crowd in the interactive lane")
        session.report("fairness: share of a sweep", [_share(server, singles, paths)], f"Promised: {SHARE:g}.")


def _beside(
    server: daemon.Nsfwd,
    address: daemon.Address,
    dialect: Ndjson,
    connections: int,
    singles: list[Path],
    paths: list[Path],
) -> dict[str, object]:
    """Single requests to ``address`` while a crowd with this ``dialect`` is at the Unix socket.

    What comes over TCP is in the interactive lane, what comes over the Unix socket in the normal one or a lower.
    """
    alone = Load(address, Ndjson(), 1)
    idle = _idle(alone, singles)
    with _crowd(server.unix, dialect, connections, paths):
        before = _engine(server)
        among = alone.closed(singles)
        after = _engine(server)
    idle += _idle(alone, singles)
    alone.close()
    batch = (after[1] - before[1]) / max(1, after[0] - before[0])
    median = figures.percentile(idle, 0.5)
    p99 = figures.percentile(among.latencies, 0.99)
    return {
        "who": "one of the same lane",
        "crowd connections": connections,
        "idle p50 ms": median * 1e3,
        "p50 ms": figures.percentile(among.latencies, 0.5) * 1e3,
        "p99 ms": p99 * 1e3,
        "batch ms": batch * 1e3,
        "promised ms": (3 * median + batch) * 1e3,
        "p99 / promised": p99 / (3 * median + batch),
    }


def _idle(alone: Load, singles: list[Path]) -> list[float]:
    """Latencies without other clients: half of them before the crowd, half after it, to see the same conditions."""
    alone.closed(singles[:10])
    return alone.closed(singles[: len(singles) // 2]).latencies


def _share(server: daemon.Nsfwd, some: list[Path], paths: list[Path]) -> dict[str, object]:
    """The share of images that a sweep gets while the interactive lane is saturated."""
    sweep = Load(server.unix, Lower(), 1)
    with _crowd(server.tcp, Ndjson(), CROWDS[-1], paths):
        before, began = _images(server), time.monotonic()
        sweep.closed(some, depth=SWEEP)
        images, seconds = _images(server) - before, time.monotonic() - began
    sweep.close()
    return {
        "sweep img/s": len(some) / seconds,
        "all img/s": images / seconds,
        "share": len(some) / images,
        "share / promised": len(some) / images / SHARE,
    }


@contextmanager
def _crowd(address: daemon.Address, dialect: Ndjson, connections: int, paths: list[Path]) -> Iterator[None]:
    """A crowd in a process of its own: two threads of one interpreter would wait for each other."""
    crowd = multiprocessing.Process(target=_ask, args=(address, dialect, connections, paths))
    crowd.start()
    time.sleep(SETTLE)
    yield
    crowd.terminate()
    crowd.join()


def _ask(address: daemon.Address, dialect: Ndjson, connections: int, paths: list[Path]) -> None:
    load = Load(address, dialect, connections)
    while True:
        load.closed(paths * 20, depth=IN_FLIGHT // connections)


def _engine(server: daemon.Nsfwd) -> tuple[int, float]:
    engine = server.ask({"op": "stats"})["engine"]
    return engine["batches"], engine["seconds"]


def _images(server: daemon.Nsfwd) -> int:
    return int(server.ask({"op": "stats"})["engine"]["images"])
