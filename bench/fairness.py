"""``fairness``: one client's single requests while another of the same lane keeps two thousand in flight."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

from bench import daemon, figures
from bench.load import Load, Ndjson
from bench.session import Session

IN_FLIGHT = 2000
"""Requests that the other client keeps in flight."""

SETTLE = 2.0
"""Seconds from the crowd's start to the first single request."""

CROWDS = (1, 32)
"""Connections on which it does so. Turns go round connections: who opens 32 gets 32 turns."""


def measure(session: Session) -> None:
    """Print the single requests' latencies alone and beside the crowd, and the promise they are held to."""
    paths = session.pictures("small")
    singles = paths[: session.count(300)]
    with daemon.Nsfwd(
        session.directory, bundle=session.bundle, models_dir=session.models_dir, flags=session.flags
    ) as server:
        server.wait_ready()
        rows = []
        for connections in CROWDS:
            session.say(f"fairness: a crowd on {connections} connections")
            rows.append(_beside(server, connections, singles, paths))
    session.report("fairness", rows, "Promised: p99 within three times the idle median and one batch.")


def _beside(server: daemon.Nsfwd, connections: int, singles: list[Path], paths: list[Path]) -> dict[str, object]:
    alone = Load(server.unix, Ndjson(), 1)
    alone.closed(singles[:10])
    idle = alone.closed(singles)
    # A process of its own: two threads of one interpreter would wait for each other, not for the server.
    crowd = multiprocessing.Process(target=_crowd, args=(server.unix, paths, connections))
    crowd.start()
    time.sleep(SETTLE)
    before = _engine(server)
    among = alone.closed(singles)
    after = _engine(server)
    crowd.terminate()
    crowd.join()
    alone.close()
    batch = (after[1] - before[1]) / max(1, after[0] - before[0])
    median = figures.percentile(idle.latencies, 0.5)
    p99 = figures.percentile(among.latencies, 0.99)
    return {
        "crowd's connections": connections,
        "idle p50 ms": median * 1e3,
        "p50 ms": figures.percentile(among.latencies, 0.5) * 1e3,
        "p99 ms": p99 * 1e3,
        "batch ms": batch * 1e3,
        "promised ms": (3 * median + batch) * 1e3,
        "p99 / promised": p99 / (3 * median + batch),
    }


def _crowd(address: daemon.Address, paths: list[Path], connections: int) -> None:
    load = Load(address, Ndjson(), connections)
    while True:
        load.closed(paths * 20, depth=IN_FLIGHT // connections)


def _engine(server: daemon.Nsfwd) -> tuple[int, float]:
    engine = server.ask({"op": "stats"})["engine"]
    return engine["batches"], engine["seconds"]
