"""``curve``: whether the ten-thousandth request costs what the first did, and what a batch gains."""

from __future__ import annotations

import time

import numpy as np

from bench import daemon, echo, machine
from bench.load import Load, Ndjson
from bench.noop import NOWHERE
from bench.rooms import Rooms
from bench.session import Session

DECADES = (100, 1_000, 10_000, 100_000, 1_000_000)
SIZES = (1, 2, 4, 8, 16, 32)


def measure(session: Session) -> None:
    """Print cost by requests so far, and cost by batch size."""
    session.report("curve: cost of a request by how many there were", _requests(session))
    session.report("curve: the engine alone by batch size", _batches(session))


def _requests(session: Session) -> list[dict[str, object]]:
    models = echo.bundle(session.directory / "models")
    rows: list[dict[str, object]] = []
    with daemon.Nsfwd(session.directory, bundle=echo.NAME, models_dir=models, engine="echo", blank=True) as server:
        server.wait_ready()
        load = Load(server.unix, Ndjson(), 8)
        asked, first = 0, 0.0
        for decade in DECADES[: 4 if session.quick else 5]:
            session.say(f"curve: up to {decade} requests")
            count = decade - asked
            before, began = machine.cpu_seconds([server.pid]), time.perf_counter()
            while asked < decade:
                some = (NOWHERE * 20)[: min(20_000, decade - asked)]
                load.closed(some, depth=64)
                asked += len(some)
            cost = (machine.cpu_seconds([server.pid]) - before) / count
            first = first or cost
            rows.append(
                {
                    "requests": decade,
                    "server us/img": cost * 1e6,
                    "requests/s": count / (time.perf_counter() - began),
                    "by the first": cost / first,
                    "server MB": machine.memory_mb([server.pid]),
                }
            )
        load.close()
    return rows


def _batches(session: Session) -> list[dict[str, object]]:
    rooms = Rooms(session.bundle_directory, precision=session.precision, most=SIZES[-1])
    picture = np.array(rooms.decode(session.pictures("small")[0]))
    rows: list[dict[str, object]] = []
    for size in SIZES:
        session.say(f"curve: batches of {size}")
        batch = [picture.copy() for _ in range(size)]
        rooms.engine.score(batch)
        began, cpu, calls = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < (0.5 if session.quick else 3.0):
            rooms.engine.score(batch)
            calls += 1
        seconds = time.perf_counter() - began
        rows.append(
            {
                "batch": size,
                "img/s": calls * size / seconds,
                "by one": calls * size / seconds / float(str(rows[0]["img/s"])) if rows else 1.0,
                "ms a batch": seconds / calls * 1e3,
                "CPU ms/img": (time.process_time() - cpu) / (calls * size) * 1e3,
                "engine": f"{rooms.engine.name} {rooms.engine.precision}",
            }
        )
    return rows
